"""What a streamed file costs, and what becomes of one that changes."""

import itertools
import os
import random
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from nginx import find_nginx, nginx_server
from serving import LoggingServer, asked_range, replace_file
from waiting import PATIENCE

import streamfile
import vfs
from streamfile import Magnitude

ROWS, DIM = 20_000, 8
HEAD = 128 << 10  # what opening reads
KEYS = mf.random_words(ROWS, 1)
VECTORS = mf.random_vectors(ROWS, DIM, 1)
EXPECTED = mf.decode(mf.quantize(VECTORS, 7)[0], 1.0, 7)[0]

needs_nginx = pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files of the same rows, whose trees have an interior level between root and leaves."""
    folder = tmp_path_factory.mktemp("streamed")
    for name, vacuum in [("compact", True), ("loose", False)]:
        path = mf.write_magnitude(folder / name, KEYS, VECTORS, page_size=1024, vacuum=vacuum)
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        depth = "SELECT max(length(path) - length(replace(path, '/', ''))) FROM dbstat WHERE name="
        for tree in ("magnitude", "magnitude_key_idx"):
            assert connection.execute(f"{depth}'{tree}'").get == 3
    return folder


@pytest.fixture
def server(folder):
    with LoggingServer(folder) as running:
        yield running


@pytest.fixture
def cold(server):
    """Open a file with an empty cache."""
    objects = []

    def open_(name="compact", **stream_options):
        own = {"cache_size": 0} | stream_options
        objects.append(Magnitude(server.url + name, stream=True, stream_options=own))
        return objects[-1]

    yield open_
    for v in objects:
        v.close()


@pytest.fixture
def kept(server, tmp_path):
    """Open a file with the cache that earlier objects have left."""

    def open_(name="compact", **options):
        own = {"cache_dir": tmp_path / "cache", "cache_size": 1 << 26}
        return Magnitude(server.url + name, stream=True, stream_options=own, **options)

    return open_


def places(count, seed):
    return random.Random(seed).sample(range(ROWS), count)


def ask(v, numbers):
    np.testing.assert_array_equal(v.query([KEYS[n] for n in numbers]), EXPECTED[numbers])


def measured(v, task, *args):
    with v.stats.measure() as used:
        task(*args)
    return used


# What it costs


def test_opening_is_one_request_for_the_first_bytes(server, cold):
    v = cold()
    assert (len(v), v.dim, v.stats.requests, v.stats.bytes) == (ROWS, DIM, 1, HEAD)
    (request,) = server.requests(1)
    assert (request.method, asked_range(request), request.status) == ("GET", (0, HEAD), 206)


def test_roots_behind_the_first_bytes_are_one_more_wave(server, cold):
    v = cold("loose")
    assert (len(v), v.stats.requests, v.stats.waves) == (ROWS, 2, 2)
    head, root = server.requests(2)
    assert asked_range(head) == (0, HEAD)
    start, end = asked_range(root)
    assert start > HEAD
    assert end - start <= 8192


def test_a_small_file_is_one_request_and_no_more(folder, server, cold):
    path = mf.write_magnitude(folder / "small", KEYS[:200], VECTORS[:200])
    assert path.stat().st_size < HEAD
    v = cold("small")
    ask(v, range(200))
    assert len(list(v)) == 200
    assert KEYS[300] not in v
    assert v.stats.requests == 1
    (request,) = server.requests(1)
    assert request.sent == v.stats.bytes == path.stat().st_size


@pytest.mark.parametrize("name", ["compact", "loose"])
def test_the_waves_do_not_depend_on_the_number_of_keys(cold, name):
    # Index: interior pages, leaves; table: leaves. Its interior pages come beside the first.
    for count in (5, 30, 300):
        assert measured(v := cold(name), ask, v, places(count, count)).waves == 3
        assert measured(v, ask, v, places(25, count + 1)).waves <= 2


def test_rows_by_place_take_two_waves(cold):
    def index(v):
        numbers = places(20, 3)
        assert [key for key, _ in v[numbers]] == [KEYS[n] for n in numbers]

    assert measured(v := cold(), index, v).waves == 2  # interior pages, leaves
    assert measured(v, lambda: v[places(20, 4)]).waves <= 1


def test_the_counters_are_those_of_the_server(server, cold):
    v = cold()
    ask(v, places(30, 1))
    assert KEYS[5] in v
    log = server.requests(v.stats.requests)
    assert sum(record.sent for record in log) == v.stats.bytes
    assert {record.status for record in log} == {206}
    (opening,) = (record for record in log if "If-Match" not in record.headers)
    assert opening.headers["Range"].startswith("bytes=0-")
    assert len({record.headers["Range"] for record in log}) == len(log)  # nothing twice
    assert v.stats.retries == 0


def test_a_block_of_code_can_be_measured(cold):
    v = cold()
    before = v.stats.requests
    with v.stats.measure() as used:
        ask(v, places(9, 1))
    assert 0 < used.requests == v.stats.requests - before
    assert 0 < used.waves <= used.requests
    assert used.bytes >= 4096
    assert measured(v, ask, v, places(9, 1)).requests == 0  # the vectors are remembered
    used = None

    def fail():
        nonlocal used
        with v.stats.measure() as used:
            ask(v, places(9, 2))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert used.requests > 0


def test_a_later_object_knows_the_way_to_every_leaf(server, kept):
    with kept() as v:
        ask(v, places(25, 1))
        count = v.stats.requests
    server.requests(count)
    with kept() as v:
        assert v.stats.requests == 0
        used = measured(v, ask, v, places(25, 2))
        assert used.waves == 2
        log = server.requests(count + used.requests)[count:]
        assert all("If-Match" in record.headers for record in log)
        assert {record.status for record in log} == {206}
    with kept() as v:  # all that is asked for is in the cache, and the server says it still holds
        assert measured(v, ask, v, [*places(25, 1), *places(25, 2)]).requests == 1
        last = server.requests(count + used.requests + 1)[-1]
        assert last.sent == 4096
        assert "If-Match" in last.headers


def test_the_way_is_kept_also_by_an_object_that_is_never_closed(kept):
    v = kept()
    assert measured(v, ask, v, places(25, 1)).waves == 3
    with kept() as w:
        assert measured(w, ask, w, places(25, 2)).waves == 2
    v.close()


ASK = """
import random, sys
from streamfile import Magnitude
url, cache, seed, keys = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
with Magnitude(url, stream=True, stream_options={"cache_dir": cache, "cache_size": 1 << 26}) as v:
    opening = v.stats.requests
    vectors = v.query(keys)
    print(opening, v.stats.waves, v.stats.requests, vectors.tobytes().hex())
"""


def test_a_later_process_knows_the_way_too(server, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(streamfile.__file__).parents[1])}

    def run(seed):
        keys = [KEYS[n] for n in places(25, seed)]
        command = [sys.executable, "-c", ASK, server.url + "compact", str(tmp_path), str(seed)]
        answer = subprocess.run(
            [*command, *keys], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        *counts, vectors = answer.stdout.split()
        assert vectors == EXPECTED[places(25, seed)].tobytes().hex()
        return list(map(int, counts))

    opening, waves, requests = run(1)
    assert (opening, waves) == (1, 4)
    opening, waves, requests = run(2)
    assert (opening, waves) == (0, 2)
    opening, waves, requests = run(2)
    assert (opening, waves, requests) == (0, 1, 1)


@pytest.mark.parametrize("ask_first", [len, lambda v: v.dim, lambda v: v.emb_dim])
def test_facts_from_the_cache_are_asked_about_once(server, kept, ask_first):
    with kept() as v:
        ask(v, places(5, 1))
        count = v.stats.requests
    with kept() as v:
        assert v.stats.requests == 0
        expected = ask_first(v)
        assert expected in (ROWS, DIM)
        assert v.stats.requests == 1
        assert "If-Match" in server.requests(count + 1)[-1].headers
        for _ in range(3):
            assert (ask_first(v), len(v), v.dim, v.emb_dim) == (expected, ROWS, DIM, DIM)
        ask(v, places(5, 1))
        assert v.stats.requests == 1


def test_whether_a_key_is_there_takes_no_pages_of_the_table(folder, server, cold):
    path = mf.write_magnitude(folder / "pages", KEYS, VECTORS, page_size=4096)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    leaves = connection.execute(
        "SELECT pageno FROM dbstat WHERE name = 'magnitude' AND pagetype = 'leaf'"
    )
    of_table = {number for (number,) in leaves}
    v = cold("pages")
    for n in places(30, 1):
        assert KEYS[n] in v
        assert KEYS[n] + "!" not in v
    fetched = set()
    for record in server.requests(v.stats.requests)[1:]:
        start, end = asked_range(record)
        fetched |= set(range(start // 4096 + 1, -(-end // 4096) + 1))
    assert len(fetched) > 20
    assert not fetched & of_table
    ask(v, places(30, 1))
    log = server.requests(v.stats.requests)
    assert any(asked_range(record)[0] // 4096 + 1 in of_table for record in log)


def test_no_sql_is_issued_when_streaming(folder, cold, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("SQL")

    monkeypatch.setattr(apsw, "Connection", fail)
    v = cold()
    ask(v, places(20, 1))
    assert KEYS[3] in v
    assert v[7][0] == KEYS[7]
    assert len(list(itertools.islice(v, 5))) == 5
    with pytest.raises(AssertionError, match="SQL"):  # which is what a local file does use
        assert KEYS[3] in Magnitude(folder / "compact")


def test_going_through_a_file_reads_each_byte_once(folder, server, cold):
    v = cold()
    for (key, vector), expected_key, expected in zip(v, KEYS, EXPECTED, strict=True):
        assert key == expected_key
        np.testing.assert_array_equal(vector, expected)
    size = (folder / "compact").stat().st_size
    assert v.stats.bytes <= 1.1 * size
    assert v.stats.waves <= 2 * ROWS / 2000 + 3


@needs_nginx
def test_nginx_serves_a_file(folder, versions, tmp_path):
    own = {"cache_dir": tmp_path / "cache", "cache_size": 1 << 26}
    with nginx_server(folder) as server:
        with Magnitude(f"{server}/compact", stream=True, stream_options=own) as v:
            assert v.stats.requests == 1
            assert measured(v, ask, v, places(30, 1)).waves == 3
            assert v[17][0] == KEYS[17]
            assert KEYS[9] in v
            assert "not there" not in v
            requests, received = v.stats.requests, v.stats.bytes
        log = server.requests()
        assert len(log) == requests
        assert sum(entry["body_bytes_sent"] for entry in log) == received
        assert log[0]["range"] == f"bytes=0-{HEAD - 1}"
        assert [bool(entry["if_match"]) for entry in log] == [False] + [True] * (requests - 1)
        with Magnitude(f"{server}/compact", stream=True, stream_options=own) as v:
            assert measured(v, ask, v, places(25, 2)).waves == 2
        with Magnitude(f"{server}/compact", stream=True, stream_options=own) as v:
            assert measured(v, ask, v, places(25, 2)).requests == 1
        path, keys, vectors = versions["other dimension"]
        shutil.copy(folder / "compact", folder / "changing")
        with (
            Magnitude(f"{server}/changing", stream=True, stream_options=own) as v,
            Magnitude(f"{server}/changing", stream=True, stream_options={"cache_size": 0}) as w,
        ):
            ask(v, places(25, 1))
            replace_file(folder / "changing", shutil.copy(path, tmp_path / "new"))
            for old in (v, w):
                with pytest.raises(vfs.FileChangedError):
                    ask(old, places(25, 2))
        with Magnitude(f"{server}/changing", stream=True, stream_options=own) as v:
            assert v.stats.requests == 0
            np.testing.assert_array_equal(v.query(keys[:50]), vectors[:50])


# Options


def test_budgets_are_kept_and_can_be_raised(server, cold):
    with pytest.raises(vfs.BudgetError, match=r"127\.0\.0\.1.*max_requests=0"):
        cold(max_requests=0)
    with pytest.raises(vfs.BudgetError, match="max_bytes=1,000"):
        cold(max_bytes=1000)
    assert server.log == []
    v = cold(max_requests=1)
    with pytest.raises(vfs.BudgetError, match=r"max_requests=1 would be passed.*call again"):
        v.query(KEYS[0])
    assert v.stats.requests == 1
    v.budget.max_requests = None
    ask(v, places(9, 1))
    used = v.stats.bytes
    v.budget.max_bytes = used
    ask(v, places(9, 1))  # remembered
    with pytest.raises(vfs.BudgetError, match=f"max_bytes={used:,}"):
        ask(v, places(9, 2))
    assert v.stats.bytes == used
    v.budget.max_bytes = 10**9
    ask(v, places(9, 2))
    server.requests(v.stats.requests)


def test_unknown_options_are_refused_with_the_known_ones(server):
    with pytest.raises(vfs.OptionError, match=r"'cache_directory'.*cache_dir.*max_bytes"):
        Magnitude(server.url + "compact", stream=True, stream_options={"cache_directory": "/"})
    with pytest.raises(vfs.OptionError, match=r"max_bytes=-1"):
        Magnitude(server.url + "compact", stream=True, stream_options={"max_bytes": -1})
    assert server.log == []


def test_options_reach_the_server(server, cold):
    v = cold(headers={"X-Mine": "yes"}, connections=3)
    ask(v, places(60, 1))
    log = server.requests(v.stats.requests)
    assert {record.headers["X-Mine"] for record in log} == {"yes"}
    assert sum(record.first for record in log) <= 3


# Changes


def variant(path, *, dim=DIM, rows=ROWS, seed=2, **options):
    """Write another version: other vectors, the keys in another order."""
    keys = KEYS[:rows]
    random.Random(seed).shuffle(keys)
    vectors = mf.random_vectors(rows, dim, seed)
    mf.write_magnitude(path, keys, vectors, page_size=1024, **options)
    return keys, mf.decode(mf.quantize(vectors, 7)[0], 1.0, 7)[0]


VARIANTS = {
    "same shape": {},
    "other dimension": {"dim": 5},
    "few rows": {"rows": 300},
}

FIRST = {
    "query": lambda v, keys, vectors: v.query(keys[:9]),
    "cached key": lambda v, keys, vectors: v.query(KEYS[places(25, 1)[0]]),
    "number": lambda v, keys, vectors: v.query(3),
    "numbers": lambda v, keys, vectors: v.query([3, 4.5], normalized=True),
    "nothing": lambda v, keys, vectors: v.query([]),
    "empty lists": lambda v, keys, vectors: v.query([[], []], pad_to_length=2),
    "unknown": lambda v, keys, vectors: v.query(["not there", 3]),
    "in": lambda v, keys, vectors: KEYS[0] in v,
    "len": lambda v, keys, vectors: len(v),
    "dim": lambda v, keys, vectors: v.dim,
    "first row": lambda v, keys, vectors: v[0],
    "no rows": lambda v, keys, vectors: v.index([]),
    "slice": lambda v, keys, vectors: v[:3],
    "iteration": lambda v, keys, vectors: next(iter(v)),
}


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Write each other version once: its path, keys and vectors by name."""
    folder = tmp_path_factory.mktemp("versions")
    written = {}
    for number, (name, options) in enumerate(VARIANTS.items()):
        path = folder / str(number)
        written[name] = path, *variant(path, **options)
    return written


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("change", VARIANTS)
def test_a_file_that_changed_between_two_objects(folder, kept, versions, tmp_path, change, first):
    name = f"changing-{change}-{first}".replace(" ", "-")
    shutil.copy(folder / "compact", folder / name)
    with kept(name) as v:
        ask(v, places(25, 1))
    path, keys, vectors = versions[change]
    replace_file(folder / name, shutil.copy(path, tmp_path / "new"))
    with kept(name) as v:
        assert v.stats.requests == 0
        answer = FIRST[first](v, keys, vectors)
        dim = vectors.shape[1]
        if first in ("query", "cached key", "number", "numbers", "nothing", "unknown"):
            assert answer.shape[-1] == dim
        assert (len(v), v.dim, v.normalized, v.ngram_oov) == (len(keys), dim, True, True)
        numbers = random.Random(3).sample(range(len(keys)), 40)
        got = v.query([keys[n] for n in numbers], normalized=True)
        np.testing.assert_array_equal(got, vectors[numbers])
        for n in numbers[:5]:
            assert v[n][0] == keys[n]
        assert v.query([3]).shape == (1, dim)
        again = FIRST[first](v, keys, vectors)
        assert np.array_equal(answer, again) or first in ("first row", "slice", "iteration")
    with kept(name) as v:  # and the cache now has the new version
        assert v.stats.requests == 0
        np.testing.assert_array_equal(
            v.query([keys[n] for n in numbers], normalized=True), vectors[numbers]
        )
        assert v.stats.requests == 1
    (folder / name).unlink()


def test_threads_that_meet_a_changed_file_at_once(folder, kept, versions, tmp_path):
    path, keys, vectors = versions["other dimension"]
    for attempt in range(5):
        name = f"met-{attempt}"
        shutil.copy(folder / "compact", folder / name)
        with kept(name) as v:
            ask(v, places(25, 1))
        replace_file(folder / name, shutil.copy(path, tmp_path / "new"))
        with kept(name) as v, ThreadPoolExecutor(8) as pool:
            ready = threading.Barrier(8)

            def meet(seed, v=v, ready=ready):
                ready.wait(PATIENCE)
                numbers = places(20, seed)
                return numbers, v.query([keys[n] for n in numbers])

            for numbers, got in pool.map(meet, range(8)):
                np.testing.assert_array_equal(got, vectors[numbers])
        (folder / name).unlink()


@pytest.mark.parametrize("change", VARIANTS)
def test_a_file_that_changes_under_an_open_object(folder, cold, versions, tmp_path, change):
    name = f"moving-{change}".replace(" ", "-")
    shutil.copy(folder / "compact", folder / name)
    v, idle = cold(name), cold(name)
    ask(v, places(25, 1))
    path, keys, vectors = versions[change]
    replace_file(folder / name, shutil.copy(path, tmp_path / "new"))
    for _ in range(2):
        for task in (
            lambda: ask(v, places(25, 2)),
            lambda: v[places(9, 5)],
            lambda: list(v),
            lambda: idle.query(KEYS[ROWS // 2]),
        ):
            with pytest.raises(vfs.FileChangedError, match=rf"{name}.*[Oo]pen it again"):
                task()
    ask(v, places(25, 1))  # what is remembered is of the version that was opened
    assert (len(v), v.dim) == (ROWS, DIM)
    new = cold(name)
    numbers = random.Random(3).sample(range(len(keys)), 40)
    got = new.query([keys[n] for n in numbers], normalized=True)
    np.testing.assert_array_equal(got, vectors[numbers])
    assert len(new) == len(keys)


def test_a_file_that_changed_and_is_no_magnitude_file_any_more(folder, kept, tmp_path):
    shutil.copy(folder / "compact", folder / "ruined")
    with kept("ruined") as v:
        ask(v, places(25, 1))
    (tmp_path / "new").write_bytes(b"<html>moved</html>" * 9000)
    replace_file(folder / "ruined", tmp_path / "new")
    with kept("ruined") as v:
        for _ in range(2):
            with pytest.raises(vfs.DatabaseError, match="not a SQLite database"):
                v.query(KEYS[0])
            with pytest.raises(vfs.DatabaseError, match="not a SQLite database"):
                len(v)
    with pytest.raises(vfs.DatabaseError, match="not a SQLite database"):
        kept("ruined")
    shutil.copy(folder / "compact", tmp_path / "new")
    replace_file(folder / "ruined", tmp_path / "new")
    with kept("ruined") as v:  # the cache still has the wrong one
        ask(v, places(25, 1))
