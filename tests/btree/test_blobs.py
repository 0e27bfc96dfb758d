"""Blobs as streams of pieces, held against what SQLite reads."""

import random
import sqlite3
import tracemalloc
from contextlib import closing
from itertools import pairwise

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import LoggingServer, asked_range

import vfs
from vfs.btree.blobs import BEGINNING, Blob, BlobTable, blob_ranges, read_blobs
from vfs.btree.pages import LocalPages, RemotePages
from vfs.btree.read_ahead import PIECE, STREAMS, WINDOW
from vfs.btree.walk import run

CASES = 60
SCHEMA = "CREATE TABLE b (n INTEGER, data BLOB, more BLOB)"


def write(path, rows, *, page_size=4096, seed=None, vacuum=True, auto_vacuum=0):
    """Write blobs as a table of its own; with a seed, into what deleted ones leave free."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {page_size}")
        connection.execute(f"PRAGMA auto_vacuum = {auto_vacuum}")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(SCHEMA)
        if seed is not None:
            rng = random.Random(seed)
            connection.execute("CREATE TABLE other (x)")
            sizes = [(rng.randrange(5 * page_size),) for _ in range(60)]
            connection.executemany("INSERT INTO other VALUES (zeroblob(?))", sizes)
            connection.execute("DELETE FROM other WHERE abs(random()) % 2")
        connection.executemany("INSERT INTO b VALUES (?, ?, ?)", rows)
        if vacuum:
            connection.execute("VACUUM")
    return path


def open_blobs(pages, path, column=1):
    """Find the blobs of the table as the reader does."""
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'b'"
        ).fetchone()
    return run(pages, BlobTable(pages, root).blobs(column))


def rows_of(*sizes, seed=0, more=None):
    """Make rows of random blobs of so many bytes."""
    rng = random.Random(seed)
    return [(n, rng.randbytes(size), more) for n, size in enumerate(sizes)]


def joined(rows):
    return b"".join(row[1] for row in rows)


def read(pages, blobs, start=BEGINNING):
    return b"".join(piece.data for piece in read_blobs(pages, blobs, start))


def chain(path, page, page_size=4096):
    """Follow the pointers of an overflow chain."""
    content, numbers = path.read_bytes(), []
    while page:
        numbers.append(page)
        page = int.from_bytes(content[(page - 1) * page_size :][:4], "big")
    return numbers


def point(path, page, to, page_size=4096):
    """Let an overflow page point to another."""
    with path.open("r+b") as file:
        file.seek((page - 1) * page_size)
        file.write(to.to_bytes(4, "big"))


@settings(max_examples=CASES, deadline=None)
@given(
    sizes=st.lists(
        st.one_of(st.integers(0, 600), st.integers(0, 9000), st.integers(0, 300_000)), max_size=6
    ),
    page_size=st.sampled_from([512, 1024, 4096, 65536]),
    seed=st.none() | st.integers(0, 1000),
    vacuum=st.booleans(),
    auto_vacuum=st.sampled_from([0, 1]),
    more=st.sampled_from([None, 0, 10_000]),
)
def test_reads_what_sqlite_stored(
    tmp_path_factory, sizes, page_size, seed, vacuum, auto_vacuum, more
):
    path = tmp_path_factory.getbasetemp() / "hypothesis.db"
    rows = rows_of(*sizes, more=more and bytes(more))
    write(path, rows, page_size=page_size, seed=seed, vacuum=vacuum, auto_vacuum=auto_vacuum)
    pages = LocalPages(path)
    blobs = open_blobs(pages, path)
    assert [blob.size for blob in blobs] == sizes
    content, begins = joined(rows), [sum(sizes[:row]) for row in range(len(sizes))]
    pieces, at = list(read_blobs(pages, blobs)), 0
    for piece in pieces:
        assert begins[piece.place.row] + piece.place.at == at
        assert content.startswith(piece.data, at)
        at += len(piece.data)
    assert at == len(content)
    for piece in pieces[:: 1 + len(pieces) // 5]:
        begin = begins[piece.place.row] + piece.place.at
        assert content.endswith(rest := read(pages, blobs, piece.place))
        assert len(rest) == len(content) - begin


@pytest.mark.parametrize("reserved", [0, 32])
def test_reads_pages_with_reserved_bytes(tmp_path, reserved):
    path = tmp_path / "f.db"
    rows = rows_of(100_000, 5000)
    connection = apsw.Connection(str(path))
    connection.reserve_bytes(reserve=reserved)
    connection.execute(SCHEMA)
    connection.executemany("INSERT INTO b VALUES (?, ?, ?)", rows)
    connection.close()
    assert path.read_bytes()[20] == reserved
    pages = LocalPages(path)
    assert read(pages, open_blobs(pages, path)) == joined(rows)


def test_a_blob_may_be_in_any_column(tmp_path):
    path = write(tmp_path / "f.db", [(b"first" * 2000, None, None)])
    pages = LocalPages(path)
    assert read(pages, open_blobs(pages, path, 0)) == b"first" * 2000
    with pytest.raises(vfs.DatabaseError, match="without a blob in column 1"):
        open_blobs(pages, path, 1)
    with pytest.raises(vfs.DatabaseError, match="without a blob in column 3"):
        open_blobs(pages, path, 3)


@pytest.mark.parametrize("value", [None, 5, 1.5, "text", "long text" * 1000])
def test_refuses_another_value_in_the_place_of_a_blob(tmp_path, value):
    path = write(tmp_path / "f.db", [(1, b"blob", None), (2, value, None)])
    with pytest.raises(vfs.DatabaseError, match="without a blob in column 1"):
        open_blobs(LocalPages(path), path)


def test_refuses_a_blob_behind_what_overflows(tmp_path):
    path = write(tmp_path / "f.db", [(b"long" * 5000, b"blob", None)])
    with pytest.raises(vfs.DatabaseError, match="without a blob in column 1"):
        open_blobs(LocalPages(path), path)


def test_refuses_a_table_of_many_pages(tmp_path):
    path = write(tmp_path / "f.db", rows_of(*[3000] * 300))
    with pytest.raises(vfs.DatabaseError, match="more than 256 pages"):
        open_blobs(LocalPages(path), path)


def test_fetches_each_page_once(tmp_path):
    rows = rows_of(5_000_000, 100, 3_000_000, seed=1)
    path = write(tmp_path / "f.db", [(0, bytes(300_000), None), *rows])
    with LoggingServer(tmp_path) as server, vfs.open(server.url + "f.db", cache_size=0) as file:
        pages = RemotePages(file)
        blobs = open_blobs(pages, path)[1:]
        sent = len(server.requests(file.stats.requests))
        with file.stats.measure() as counts:
            assert read(pages, blobs) == joined(rows)
        room = pages.layout.usable - 4
        needed = [-((len(blob.local) - blob.size) // room) for blob in blobs]
        step = PIECE // 4096
        assert counts.requests == sum(-(-count // step) for count in needed)
        assert counts.bytes == 4096 * sum(needed)
        asked = [asked_range(one) for one in server.requests(file.stats.requests)[sent:]]
        assert sorted(asked) == blob_ranges(pages, blobs)


def test_goes_on_with_what_is_left_to_fetch(tmp_path):
    rows = rows_of(3_000_000, 2_000_000, seed=2)
    path = write(tmp_path / "f.db", rows)
    with LoggingServer(tmp_path) as server, vfs.open(server.url + "f.db", cache_size=0) as file:
        pages = RemotePages(file)
        blobs = open_blobs(pages, path)
        pieces = list(read_blobs(pages, blobs))
        place = pieces[4].place
        with file.stats.measure() as counts:
            rest = read(pages, blobs, place)
        assert rest == joined(rows)[place.at :]
        assert counts.bytes == sum(end - start for start, end in blob_ranges(pages, blobs, place))
        assert counts.bytes < len(rest) + 100_000


def test_a_scattered_chain_costs_a_few_times_its_length(tmp_path):
    rows = rows_of(4_000_000, seed=3)
    path = tmp_path / "f.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(SCHEMA)
        connection.execute("CREATE TABLE other (x)")
        for _ in range(400):
            connection.execute("INSERT INTO other VALUES (zeroblob(50000))")
        connection.execute("DELETE FROM other WHERE rowid % 3 = 0")
        connection.executemany("INSERT INTO b VALUES (?, ?, ?)", rows)
    with LoggingServer(tmp_path) as server, vfs.open(server.url + "f.db", cache_size=0) as file:
        pages = RemotePages(file)
        blobs = open_blobs(pages, path)
        numbers = chain(path, blobs[0].overflow)
        assert sum(b != a + 1 for a, b in pairwise(numbers)) > 20
        with file.stats.measure() as counts:
            assert read(pages, blobs) == joined(rows)
        assert counts.bytes < 3 * len(joined(rows))


def test_leaves_out_the_page_of_the_lock_byte(tmp_path):
    page_size, first = 65536, 16383
    lock_page = (1 << 30) // page_size + 1
    path = write(tmp_path / "f.db", [], page_size=page_size)
    numbers = [first, first + 1, lock_page + 1, lock_page + 2]
    contents = [random.Random(number).randbytes(page_size - 4) for number in numbers]
    with path.open("r+b") as file:
        file.truncate(page_size * (lock_page + 2))
        for number, following, content in zip(numbers, [*numbers[1:], 0], contents, strict=True):
            file.seek((number - 1) * page_size)
            file.write(following.to_bytes(4, "big") + content)
    pages = LocalPages(path)
    assert lock_page == pages.layout.lock_page
    blobs = [Blob(b"", 4 * (page_size - 4), first)]
    assert read(pages, blobs) == b"".join(contents)
    assert blob_ranges(pages, blobs) == [
        ((first - 1) * page_size, (lock_page - 1) * page_size),
        (lock_page * page_size, (lock_page + 2) * page_size),
    ]
    point(path, first + 1, lock_page, page_size)
    with pytest.raises(vfs.DatabaseError, match=f"goes on at page {lock_page} of"):
        read(pages, blobs)


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize(
    ("to", "message"),
    [
        (0, "goes on at page 0 of"),
        (2**32 - 1, "goes on at page 4294967295 of"),
        ("own", "two ways lead to page"),
        ("first", "two ways lead to page"),
    ],
)
def test_refuses_a_chain_that_leads_astray(tmp_path, remote, to, message):
    path = write(tmp_path / "f.db", rows_of(2_000_000))
    blobs = open_blobs(LocalPages(path), path)
    numbers = chain(path, blobs[0].overflow)
    at = numbers[300]
    point(path, at, {"own": at, "first": numbers[0]}.get(to, to))
    with LoggingServer(tmp_path) as server, vfs.open(server.url + "f.db", cache_size=0) as file:
        pages = RemotePages(file) if remote else LocalPages(path)
        came = []
        with pytest.raises(vfs.DatabaseError, match=message):
            came.extend(read_blobs(pages, blobs))
        assert rows_of(2_000_000)[0][1].startswith(b"".join(piece.data for piece in came))
        assert came
        assert file.stats.bytes < 3_000_000


def test_refuses_more_bytes_than_the_file_can_hold(tmp_path):
    path = write(tmp_path / "f.db", rows_of(100_000))
    pages = LocalPages(path)
    blob = open_blobs(pages, path)[0]
    for blobs in ([blob._replace(size=2**62)], [blob] * 2):
        with pytest.raises(vfs.DatabaseError, match="malformed: blobs of"):
            list(read_blobs(pages, blobs))
        with pytest.raises(vfs.DatabaseError, match="malformed: blobs of"):
            blob_ranges(pages, blobs)


@settings(max_examples=CASES, deadline=None)
@given(st.integers(0, 2**32))
def test_any_damage_ends_in_an_answer_or_an_error(tmp_path_factory, seed):
    path = tmp_path_factory.getbasetemp() / "damaged.db"
    rng = random.Random(seed)
    content = write(path, rows_of(20_000, 300, 5000), page_size=512).read_bytes()
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 20)):
        at = rng.choice([rng.randrange(512, 1024 + 512), rng.randrange(512, len(content))])
        damaged[at] = rng.randrange(256)
    path.write_bytes(damaged)
    pages = LocalPages(path)
    try:
        blobs = run(pages, BlobTable(pages, 2).blobs(1))
        length = len(read(pages, blobs))
    except vfs.DatabaseError:
        return
    assert length == sum(blob.size for blob in blobs) <= len(content)


def test_holds_little_of_a_long_blob(tmp_path):
    path = write(tmp_path / "f.db", rows_of(60_000_000))
    with LoggingServer(tmp_path) as server, vfs.open(server.url + "f.db", cache_size=0) as file:
        pages = RemotePages(file)
        blobs = open_blobs(pages, path)
        tracemalloc.start()
        length = sum(len(piece.data) for piece in read_blobs(pages, blobs))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert length == 60_000_000
    assert peak < 2 * WINDOW + (8 << 20)


def test_asks_for_nothing_more_when_the_caller_stops(tmp_path, monkeypatch):
    monkeypatch.setattr("vfs.btree.read_ahead.STREAMS", 1)
    path = write(tmp_path / "f.db", rows_of(12_000_000))
    with LoggingServer(tmp_path, latency=0.02) as server:
        with vfs.open(server.url + "f.db", cache_size=0) as file:
            pages = RemotePages(file)
            blobs = open_blobs(pages, path)
            with closing(read_blobs(pages, blobs)) as pieces:
                assert [next(pieces).place.page for _ in range(2)] == [0, blobs[0].overflow]
            for at in range(20):  # as many requests as had been planned
                file.read(at * 500_000, 1)
        asked = [asked_range(record) for record in server.requests(file.stats.requests)]
    assert 1 <= sum(end - start == PIECE for start, end in asked) <= 3


def test_refuses_a_blob_longer_than_its_record(tmp_path):
    path = write(tmp_path / "f.db", [(1, b"x" * 100, None)])
    content = path.read_bytes()
    types = b"\x05\x09\x81\x54\x00"  # of a record: the length of this, 1, 100 bytes, NULL
    assert content.count(types) == 1
    path.write_bytes(content.replace(types, b"\x05\x09\xff\x54\x00"))
    with pytest.raises(vfs.DatabaseError, match="without a blob in column 1"):
        open_blobs(LocalPages(path), path)


def test_keeps_several_requests_under_way(tmp_path):
    path = write(tmp_path / "f.db", rows_of(12_000_000))
    with LoggingServer(tmp_path, latency=0.05) as server:
        with vfs.open(server.url + "f.db", cache_size=0) as file:
            pages = RemotePages(file)
            blobs = open_blobs(pages, path)
            before = file.stats.requests
            assert len(read(pages, blobs)) == 12_000_000
        log = server.requests(file.stats.requests)[before:]
        first_end = min(one.ended for one in log)
        assert sum(one.arrived < first_end for one in log) >= STREAMS // 2
