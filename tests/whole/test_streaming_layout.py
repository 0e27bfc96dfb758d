"""What a file that is laid out for streaming costs, and what becomes of a damaged one."""

import os
import random
import statistics
import struct
import subprocess
import sys
import warnings
import zlib
from contextlib import closing
from pathlib import Path

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import LoggingServer, asked_range
from sql_similar import misspelt, sql_similar

import streamfile
from streamfile import FormatError, Magnitude
from streamfile.format.packed_blocks import pack_blocks, unpack_blocks
from streamfile.lookup.vectors import similar_to
from streamfile.readers.remote import RemoteReader
from streamfile.tools.repack import repack
from vfs import DatabaseError, remote_file
from vfs.cache.disk import BLOCK

ROWS, DIM = 4000, 8
HEAD = 128 << 10
FILES = ["light", "medium"]


def words(seed):
    keys = [*mf.random_words(ROWS - 41, seed), "good", "Good", "goods", "é" * 300]
    keys += [key.swapcase() for key in keys[:20]] + keys[20:37]
    random.Random(seed).shuffle(keys)
    return keys


KEYS = words(1)
VECTORS = mf.random_vectors(ROWS, DIM, 1)
EXPECTED = mf.decode(mf.quantize(VECTORS, 7)[0], 1.0, 7)[0]
FIRST = {key: number for number, key in reversed(list(enumerate(KEYS)))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files whose trees have an interior level below their roots."""
    folder = tmp_path_factory.mktemp("layout")
    for name in FILES:
        original = folder / f"{name}-original"
        mf.write_magnitude(original, KEYS, VECTORS, page_size=1024, subwords=name == "medium")
        repack(original, folder / name, log=False)
        assert (folder / name).stat().st_size > 2 * HEAD
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with LoggingServer(folder) as running:
        yield running


def cold(server, name, **options):
    return Magnitude(server.url + name, stream=True, stream_options={"cache_size": 0}, **options)


def connect(path):
    return closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY))


def places(count, seed):
    return random.Random(seed).sample(range(ROWS), count)


def ask(v, numbers):
    got = v.query([KEYS[n] for n in numbers])
    np.testing.assert_array_equal(got, EXPECTED[[FIRST[KEYS[n]] for n in numbers]])


# What it costs


@pytest.mark.parametrize("name", FILES)
def test_opening_is_one_request(server, name):
    count = len(server.log)
    with cold(server, name) as v:
        assert (len(v), v.dim, v.stats.requests, v.stats.bytes) == (ROWS, DIM, 1, HEAD)
    assert asked_range(server.requests(count + 1)[-1]) == (0, HEAD)


def test_a_router_that_is_larger_than_the_first_request_is_one_wave_more(
    folder, server, tmp_path, monkeypatch
):
    mf.write_magnitude(tmp_path / "a", KEYS, VECTORS, page_size=512, subwords=True)
    repack(tmp_path / "a", folder / "small-pages", log=False)
    with connect(folder / "small-pages") as connection:
        sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'magnitude_router'"
        first = connection.execute(sql).get * 512
    head = -(-first // BLOCK) * BLOCK
    assert first + sum(map(len, router(folder / "small-pages"))) > head + 2 * 512
    monkeypatch.setattr(remote_file, "HEAD", head)
    with cold(server, "small-pages") as v:
        assert (len(v), v.stats.waves) == (ROWS, 2)
        ask(v, places(25, 1))
        assert v.stats.waves == 4


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("count", [1, 25, 400])
def test_keys_are_three_waves_after_nothing(server, name, count):
    for seed in range(3):
        with cold(server, name) as v:
            ask(v, places(count, seed))
            assert v.stats.waves == 3 or (count == 1 and v.stats.waves == 2)  # by chance
            ask(v, places(count, seed + 10))
            assert v.stats.waves <= 5


ASK = """
import sys
from streamfile import Magnitude
url, cache, *keys = sys.argv[1:]
with Magnitude(url, stream=True, stream_options={"cache_dir": cache, "cache_size": 1 << 26}) as v:
    vectors = v.query(keys)
    print(v.stats.waves, vectors.tobytes().hex())
"""


def test_a_second_process_takes_two_waves_for_other_keys(server, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(streamfile.__file__).parents[1])}
    waves = []
    for seed in (1, 2):
        keys = [KEYS[n] for n in places(25, seed)]
        answer = subprocess.run(
            [sys.executable, "-c", ASK, server.url + "medium", str(tmp_path), *keys],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.split()
        waves.append(int(answer[0]))
        assert answer[1] == EXPECTED[[FIRST[key] for key in keys]].tobytes().hex()
    assert waves[0] == 3
    assert waves[1] <= 2


# Every key


def varint(data, at):
    value = 0
    while True:
        value = value << 7 | data[at] & 127
        at += 1
        if data[at - 1] < 128:
            return value, at


def interior_keys(path):
    """List the keys in interior pages of the index on keys, read byte by byte."""
    data = path.read_bytes()
    size = struct.unpack_from(">H", data, 16)[0]
    with connect(path) as connection:
        pages = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = 'magnitude_key_idx' AND pagetype = 'internal'"
        ).fetchall()
    keys = []
    for (number,) in pages:
        page = data[(number - 1) * size : number * size]
        (count,) = struct.unpack_from(">H", page, 3)
        for (at,) in struct.iter_unpack(">H", page[12 : 12 + 2 * count]):
            length, record = varint(page, at + 4)
            header, begin = varint(page, record)
            kind, _ = varint(page, begin)
            if length < size // 8:  # else it overflows
                keys.append(page[record + header :][: (kind - 13) // 2].decode())
    return keys


@pytest.mark.parametrize("name", FILES)
def test_all_keys_are_found_together(server, name):
    with cold(server, name) as v:
        ask(v, range(ROWS))
        assert all(key in v for key in KEYS)
        assert "nothing like it" not in v
        assert v.stats.waves <= 5


def test_keys_of_interior_pages_are_found_after_nothing(folder, server):
    keys = interior_keys(folder / "medium")
    assert len(keys) > 40
    assert set(keys) <= set(KEYS)
    with cold(server, "medium") as v:
        ask(v, [FIRST[key] for key in keys])
        assert v.stats.waves == 3
    for key in random.Random(1).sample(keys, 30):
        with cold(server, "medium") as v:
            ask(v, [FIRST[key]])
            assert v.stats.waves <= 3


def test_all_rows_in_order(server):
    with cold(server, "light") as v:
        for number, (key, vector) in enumerate(v):
            assert key == KEYS[number]
            np.testing.assert_array_equal(vector, EXPECTED[number])
        assert number == ROWS - 1
        assert [key for key, _ in v[[5, 77, ROWS - 1]]] == [KEYS[n] for n in (5, 77, ROWS - 1)]


# Unknown words


@pytest.fixture(scope="module")
def reader(server):
    with closing(RemoteReader(server.url + "medium", cache_size=1 << 26)) as reader:
        yield reader


@pytest.fixture(scope="module")
def sql(folder):
    with connect(folder / "medium-original") as connection:
        yield connection


def similar(reader, keys):
    return similar_to(reader, keys, language="en", case_insensitive=False)


def test_misspelt_words_have_the_rows_that_sqlite_finds(reader, sql):
    rng = random.Random(4)
    keys = list(dict.fromkeys(misspelt(rng.choice(KEYS[:3000]), rng) for _ in range(150)))
    keys = [key for key in keys if key not in FIRST]
    got = similar(reader, keys)
    assert got == [sql_similar(sql, key) for key in keys]
    assert sum(len(rows) == 3 for rows in got) > len(keys) / 2


letters = st.characters(blacklist_categories=("Cs",), blacklist_characters='\0"')
parts = st.sampled_from([*KEYS[:300], "un", "ing", "ness", "^", "*", "-", "'", " "])


@settings(max_examples=80)
@given(
    st.one_of(
        st.text(letters, max_size=12),
        st.text(st.sampled_from("aeioubdkt"), min_size=1, max_size=9),
        st.lists(parts, min_size=1, max_size=3).map("".join),
    )
)
def test_any_word_has_the_rows_that_sqlite_finds(reader, sql, key):
    assert similar(reader, [key]) == [sql_similar(sql, key)]


def test_the_router_has_the_interior_nodes_of_the_n_grams(folder):
    with connect(folder / "medium") as connection:
        blocks = dict(connection.execute("SELECT blockid, block FROM magnitude_subword_segments"))
    interior = {number: block for number, block in blocks.items() if block[0] > 0}
    assert interior
    assert unpack_blocks(router(folder / "medium")[1]) == interior


def test_a_misspelt_word_takes_few_waves(server):
    rng = random.Random(5)
    keys = [misspelt(rng.choice(KEYS[:3000]), rng) for _ in range(30)]
    waves, seen = [], []
    for key in keys:
        if key in FIRST:
            continue
        with cold(server, "medium") as v:
            v.query(key)
            waves.append(v.stats.waves)
            seen.append(v.stats.bytes)
    assert statistics.median(waves) <= 6
    assert max(waves) <= 8
    assert statistics.median(seen) <= 1_500_000


# Damaged files


def router(path):
    with connect(path) as connection:
        return list(*connection.execute("SELECT trees, ngrams FROM magnitude_router"))


def lengths(path):
    with connect(path) as connection:
        rows = connection.execute("SELECT data FROM magnitude_key_lengths ORDER BY rowid")
        return [data for (data,) in rows]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Give a file of the same form with other keys, and fewer."""
    folder = tmp_path_factory.mktemp("other")
    keys = words(2)[:3500]
    mf.write_magnitude(folder / "a", keys, VECTORS[:3500], page_size=1024, subwords=True)
    repack(folder / "a", folder / "b", log=False)
    return folder / "b"


BOMB = zlib.compress(bytes(100 << 20))
MANY = zlib.compress(bytes(12 * (1 << 22)))
ROUTERS = {
    "NULL": lambda own, other: [None, None],
    "text": lambda own, other: ["router", "nodes"],
    "numbers": lambda own, other: [5, 7.5],
    "no bytes": lambda own, other: [b"", b""],
    "garbage": lambda own, other: [random.Random(1).randbytes(2000), b"x" * 999],
    "no nodes": lambda own, other: [own[0], None],
    "changed places": lambda own, other: own[::-1],
    "cut off": lambda own, other: [own[0][:-9], own[1][:-9]],
    "a flipped bit": lambda own, other: [
        own[0][:99] + bytes([own[0][99] ^ 1]) + own[0][100:], own[1]
    ],
    "more than is read": lambda own, other: [random.Random(1).randbytes(1 << 20), own[1]],
    "without end": lambda own, other: [BOMB, BOMB],
    "nodes without end": lambda own, other: [own[0], MANY],
    "nodes of garbage": lambda own, other: [
        own[0], pack_blocks(dict.fromkeys(unpack_blocks(own[1]), b"\1\2\3\4\5"))
    ],
    "nodes that are leaves": lambda own, other: [
        own[0], pack_blocks(dict.fromkeys(range(1, 400), b"\0\1a\3\5\2\0"))
    ],
}  # fmt: skip


def damaged(folder, rows):
    """Give the medium file with another router."""
    path = folder / "damaged"
    path.write_bytes((folder / "medium").read_bytes())
    with closing(apsw.Connection(str(path))) as connection, connection:
        connection.execute("DELETE FROM magnitude_router")
        connection.executemany("INSERT INTO magnitude_router VALUES (?, ?)", rows)
    return path


def outcome(server, sql):
    """Ask for keys and unknown words; give what was refused."""
    rng = random.Random(6)
    unknown = [misspelt(rng.choice(KEYS), rng) for _ in range(25)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            with cold(server, "damaged") as v:
                ask(v, places(60, 3))
                assert "nothing like it" not in v
            with closing(RemoteReader(server.url + "damaged", cache_size=0)) as reader:
                assert similar(reader, unknown) == [sql_similar(sql, key) for key in unknown]
        except (DatabaseError, FormatError) as error:
            return error
    return None


@pytest.mark.parametrize("what", ROUTERS)
def test_damaged_routers_are_ignored_or_refused(folder, server, sql, other, what):
    own = router(folder / "medium")
    damaged(folder, [ROUTERS[what](own, router(other))])
    refused = outcome(server, sql)
    if what in ("nodes of garbage", "nodes that are leaves"):
        assert refused is None or "damaged" in str(refused)
    else:
        assert refused is None


@pytest.mark.parametrize("count", [0, 2])
def test_a_router_of_other_than_one_row_is_ignored(folder, server, sql, count):
    damaged(folder, [router(folder / "medium")] * count)
    assert outcome(server, sql) is None


def test_a_router_of_another_file_is_ignored_or_refused(folder, server, sql, other):
    damaged(folder, [router(other)])
    outcome(server, sql)


LENGTHS = {
    "nothing": lambda own: [],
    "a row less": lambda own: own[:-1],
    "the first row only": lambda own: own[:1],
    "NULL": lambda own: [None] * len(own),
    "text": lambda own: [row.decode("latin-1") for row in own],
    "numbers": lambda own: range(len(own)),
    "short": lambda own: [row[:10] for row in own],
    "empty": lambda own: [b""] * len(own),
    "one long row": lambda own: [b"".join(own)],
}


@pytest.mark.parametrize("what", LENGTHS)
def test_lengths_that_are_not_there_are_refused(folder, server, sql, what):
    path = damaged(folder, [])  # it knows the way to the old pages
    with closing(apsw.Connection(str(path))) as connection, connection:
        connection.execute("DELETE FROM magnitude_key_lengths")
        rows = LENGTHS[what](lengths(folder / "medium"))
        connection.executemany(
            "INSERT INTO magnitude_key_lengths VALUES (?)", [(row,) for row in rows]
        )
    refused = outcome(server, sql)
    assert refused is not None
    assert "damaged" in str(refused)
    assert "lengths of all keys" in str(refused)


def test_a_router_that_is_no_table_of_blobs(folder, server, sql):
    path = folder / "damaged"
    for statements in (
        ["DROP TABLE magnitude_router", "CREATE TABLE magnitude_router (a, b, c)"],
        ["DROP TABLE magnitude_router", "CREATE VIEW magnitude_router AS SELECT 1 AS data"],
        ["DROP TABLE magnitude_key_lengths"],
        ["DROP TABLE magnitude_router", "DROP TABLE magnitude_key_lengths"],
    ):
        path.write_bytes((folder / "medium").read_bytes())
        with closing(apsw.Connection(str(path))) as connection:
            for statement in statements:
                connection.execute(statement)
        assert outcome(server, sql) is None
