"""Open files and sockets: none is left after a failure, a forgotten object, or many objects."""

import gc
import os
import pickle
from pathlib import Path

import magnitude_files as mf
import numpy as np
import pytest
import sentences
from children import fork_succeeds
from scripted_server import ScriptedServer, Status

import vfs
from streamfile import FeaturizerMagnitude, Magnitude, StreamfileError
from streamfile.readers.open import open_reader
from vfs.cache.blocks import BlockCache
from vfs.options import Options

LISTED = Path("/proc/self/fd")
KEYS = mf.random_words(800, 5)

pytestmark = pytest.mark.skipif(not LISTED.is_dir(), reason="open files cannot be listed here")


def open_files():
    """List the regular files that this process has open, except what the test's machinery has."""
    found = []
    for entry in LISTED.iterdir():
        try:
            name = str(entry.readlink())
        except OSError:
            continue
        if name.startswith("/") and not name.startswith(("/proc", "/dev", "/usr", "/root")):
            found.append(name)
    return sorted(found)


@pytest.fixture
def nothing_left():
    """Check that a test leaves no file open; its objects have been forgotten by then."""
    gc.collect()
    before = open_files()
    yield
    gc.collect()
    assert open_files() == before


@pytest.fixture(scope="module")
def file(folder):
    return mf.write_magnitude(
        folder / "counted", KEYS, mf.random_vectors(len(KEYS), 5, 4), subwords=True
    )


@pytest.fixture
def options(tmp_path):
    return {"cache_dir": tmp_path / "cache", "cache_size": 8 << 20, "connections": 4}


def not_found(server):
    server.script.extend([Status(404)] * 9)


def gone(server):
    server.script.extend([Status(410)] * 9)


def forbidden(server):
    server.script.extend([Status(403)] * 9)


def broken(server):
    server.script.extend([Status(500)] * 9)


def no_ranges(server):
    server.script.extend([Status(200, body=server.content)] * 9)


FAILURES = [not_found, gone, forbidden, broken, no_ranges]
OPENERS = {
    "vfs.open": vfs.open,
    "vfs.connect": vfs.connect,
    "Magnitude": lambda url, **options: Magnitude(url, stream=True, stream_options=options),
}


@pytest.fixture(params=OPENERS)
def opener(request):
    return OPENERS[request.param]


@pytest.mark.parametrize("fail", FAILURES)
def test_an_open_that_the_server_refuses_leaves_nothing(opener, options, fail, nothing_left):
    with ScriptedServer(bytes(200_000)) as server:
        before = open_files()
        for _ in range(3):
            fail(server)
            with pytest.raises(vfs.VFSError) as caught:
                opener(server.url, retries=0, **options)
            assert open_files() == before  # while the error, with its frames, is still there
            del caught


CONTENTS = {
    "an empty file": b"",
    "zeros": bytes(100_000),
    "text": b"no database " * 10_000,
    "half a header": b"SQLite format 3\0" + bytes(50),
    "a truncated database": "truncated",
    "another database": "other",
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("way", ["vfs.connect", "Magnitude", "local"])
def test_a_file_of_another_kind_leaves_nothing(tmp_path, options, file, content, way, nothing_left):
    if content == "truncated":
        content = file.read_bytes()[:20_000]
    elif content == "other":
        if way == "vfs.connect":
            pytest.skip("any database can be opened")
        content = other_database(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(content)
    with ScriptedServer(content) as server:
        for _ in range(3):
            with pytest.raises((vfs.VFSError, StreamfileError)):
                _ = Magnitude(path) if way == "local" else OPENERS[way](server.url, **options)
            gc.collect()


def other_database(folder):
    import apsw

    connection = apsw.Connection(str(folder / "other"))
    connection.execute("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    connection.close()
    return (folder / "other").read_bytes()


def test_an_open_beyond_a_budget_leaves_nothing(opener, options, file, nothing_left):
    with ScriptedServer(file.read_bytes()) as server:
        before = open_files()
        for limit in ({"max_requests": 0}, {"max_bytes": 100}):
            with pytest.raises(vfs.BudgetError):
                opener(server.url, **limit, **options)
            assert open_files() == before


def test_an_option_that_is_wrong_leaves_nothing(opener, options, nothing_left):
    with pytest.raises(vfs.OptionError):
        opener("http://127.0.0.1:9/x", **options | {"cache_size": 1})
    with pytest.raises(vfs.CacheDirectoryError):
        opener("http://127.0.0.1:9/x", **options | {"cache_dir": "/dev/null/x"})
    with pytest.raises(vfs.ConnectError):
        opener("http://127.0.0.1:9/x", retries=0, **options)


USES = {
    "vfs.open": lambda v: v.read(20_000, 10),
    "vfs.connect": lambda v: v.execute("SELECT max(rowid) FROM magnitude").fetchall(),
    "Magnitude": lambda v: (v.query([KEYS[3], "unknown", 'by"sql']), v.most_similar(KEYS[1])),
}


@pytest.mark.parametrize("way", OPENERS)
@pytest.mark.parametrize("end", ["forgotten", "closed", "copied", "in a cycle"])
def test_many_objects_leave_nothing(server, options, file, way, end, nothing_left):
    url = server.url + file.name
    most = 0
    for _ in range(50 if end == "closed" else 12):
        opened = OPENERS[way](url, **options)
        USES[way](opened)
        most = max(most, len(open_files()))
        if end == "closed":
            opened.close()
            opened.close()
        elif end == "copied" and way != "vfs.connect":
            copy = pickle.loads(pickle.dumps(opened))
            USES[way](copy)
            del copy
        elif end == "in a cycle" and way != "vfs.connect":
            opened.itself = opened
        del opened
        gc.collect()
    assert most > 0
    assert [name for name in open_files() if str(options["cache_dir"]) in name] == []


@pytest.mark.parametrize("end", ["forgotten", "closed"])
def test_local_files_leave_nothing(file, cache, end, nothing_left):
    before = open_files()
    for _ in range(50 if end == "closed" else 12):
        v = Magnitude(file)
        v.query([KEYS[3], "unknown"])
        v.most_similar(KEYS[1])
        assert str(file) in open_files()
        if end == "closed":
            v.close()
            assert open_files() == before  # at once, while the object is still there
        del v
        gc.collect()


def test_a_concatenation_leaves_nothing(server, file, cache, nothing_left):
    url = server.url + file.name
    for number in range(6):
        v = Magnitude(
            Magnitude(url, stream=True, stream_options={"connections": 2}),
            Magnitude(file),
            FeaturizerMagnitude(9),
        )
        assert v.query([(KEYS[0], KEYS[1], "NN")]).shape[0] == 1
        if number % 2:
            v.close()
        del v
        gc.collect()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("closed", [False, True])
def test_elmo_models_leave_nothing(server, files, cache, streamed, closed, nothing_left):
    pytest.importorskip("torch")
    path = files["words"]
    for _ in range(3):
        given = {"stream": True, "stream_options": {"connections": 2}} if streamed else {}
        v = Magnitude(server.url + path.name if streamed else path, **given)
        assert np.isfinite(v.query([sentences.KEYS[0], "unheard"])).all()
        if closed:
            v.close()
        del v
        gc.collect()


@pytest.mark.parametrize("streamed", [False, True])
def test_readers_leave_nothing(server, file, cache, streamed, nothing_left):
    for _ in range(5):
        reader = open_reader(server.url + file.name if streamed else file)
        reader.find(KEYS[:5], case_insensitive=True)
        reader.sql.execute("SELECT 1", ())
        del reader
        gc.collect()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_leaves_nothing_and_takes_nothing(tmp_path, nothing_left):
    cache = BlockCache(Options(cache_dir=tmp_path, cache_size=1 << 20))
    cache.put(bytes(16), {1: b"block"}, on_disk=True)
    count = len(open_files())

    def use():
        nonlocal cache
        assert len(open_files()) == count
        assert cache.disk.get([(bytes(16), 1)]) == {(bytes(16), 1): b"block"}
        del cache
        gc.collect()
        assert len(open_files()) == count - 2

    assert fork_succeeds(use)
    assert len(open_files()) == count
    assert cache.disk.get([(bytes(16), 1)]) == {(bytes(16), 1): b"block"}
