"""What holds on every real server that answers ranges."""

import json
import os
import shutil
from pathlib import Path
from urllib.parse import quote

import magnitude_files as mf
import numpy as np
import pytest
from children import child
from recipes import DOCUMENTED, RECIPES, recipes
from served import serving, timely
from serving import LoggingServer, replace_file
from twin_files import FIRST, KEYS, LATER, SECOND, write_twins

import vfs
from streamfile import Magnitude

SPECIAL = {"http.server", "nginx with a limit", "Apache with two copies"}
SERVERS = [name for name in RECIPES if name not in SPECIAL]
NAME = "100% of a+b, größe 日本語 #;=&'s.magnitude"


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    with serving(request.param, tmp_path_factory.mktemp("vectors")) as served:
        yield served


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    return write_twins(tmp_path_factory.mktemp("twins"))


@pytest.fixture(scope="module")
def local(twins):
    return Magnitude(twins[0])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small"
    return mf.write_magnitude(path, KEYS[:200], FIRST[:200])


def cold(url, **options):
    """Open a file with an empty cache, ask for five keys, and return the counters."""
    with timely(), Magnitude(url, **options) as v:
        np.testing.assert_array_equal(v.query(KEYS[5:10]), FIRST[5:10])
        return v.stats.requests, v.stats.waves, v.stats.retries


@pytest.fixture(scope="module")
def usual(twins):
    """How many requests a good server needs."""
    with LoggingServer(twins[0].parent) as good:
        return cold(f"{good.url}first", stream=True, stream_options={"cache_size": 0})[0]


@pytest.fixture(scope="module")
def later_process():
    """Ask in a process that knows nothing but the cache: its requests, and the vectors."""
    with child(ASK) as process:

        def ask(server, url, cache, keys):
            process.stdin.write(json.dumps([url, str(cache), server.certificate, keys]) + "\n")
            process.stdin.flush()
            count, vectors = json.loads(process.stdout.readline())
            assert vectors, count
            return count, np.frombuffer(bytes.fromhex(vectors), np.float32).reshape(len(keys), -1)

        yield ask
        process.stdin.close()


ASK = """
import json, os, sys
import requests
from streamfile import Magnitude

def ask(url, cache, certificate, keys):
    session = requests.Session()
    session.verify = certificate or True
    own = {"cache_dir": cache, "cache_size": 1 << 26, "session": session, "deadline": 10}
    with Magnitude(url, stream=True, stream_options=own) as v:
        vectors = v.query(keys)
        print(json.dumps([v.stats.requests, vectors.tobytes().hex()]), flush=True)

for line in sys.stdin:  # each in a process of its own, which need not import everything again
    process = os.fork()
    if not process:
        try:
            ask(*json.loads(line))
        except Exception as failure:
            print(json.dumps([repr(failure), ""]), flush=True)
        os._exit(0)
    os.waitpid(process, 0)
"""


def rewrite(path, new):
    """Write another version into the same file."""
    path.write_bytes(new.read_bytes())
    shutil.copystat(new, path)


def cut(path):
    """Leave the beginning of a file."""
    os.truncate(path, 200_000)
    os.utime(path, (LATER, LATER))


def test_every_server_of_the_document_is_tested():
    documented = recipes(DOCUMENTED)
    assert len(documented) > 10
    assert not documented.keys() - {*SERVERS}


def test_a_cold_query_costs_no_more_than_on_a_good_server(server, twins, usual):
    count, waves, retries = cold(server.copy(twins[0], "cold.magnitude"), **server.options())
    assert waves <= 4
    assert count <= usual
    assert retries == 0


def test_answers_are_those_of_the_local_file(server, twins, local):
    url = server.copy(twins[0], "answers.magnitude")
    with timely(), Magnitude(url, **server.options()) as v:
        words = [KEYS[17] + "x", "unknown word", KEYS[3]]
        np.testing.assert_array_equal(v.query(words), local.query(words))
        assert KEYS[9] in v
        assert "not there" not in v
        streamed, expected = (each.most_similar(KEYS[7], topn=5) for each in (v, local))
        assert [key for key, _ in streamed] == [key for key, _ in expected]


def test_a_later_process_sends_one_request_at_most(server, twins, tmp_path, later_process):
    url = server.copy(twins[0], "kept.magnitude")
    own = server.options(cache_dir=tmp_path, cache_size=1 << 26)
    with timely(), Magnitude(url, **own) as v:
        v.query(KEYS[:5])
    count, vectors = later_process(server, url, tmp_path, KEYS[:5])
    np.testing.assert_array_equal(vectors, FIRST[:5])
    if server.tells_versions:
        assert count == 1


@pytest.mark.parametrize("change", [replace_file, rewrite])
def test_a_changed_file_is_noticed(server, twins, tmp_path, later_process, change):
    name = f"{change.__name__}.magnitude"
    url = server.copy(twins[0], name)
    own = server.options(cache_dir=tmp_path / "cache", cache_size=1 << 26)
    with timely(), Magnitude(url, **own) as v:
        np.testing.assert_array_equal(v.query(KEYS[:5]), FIRST[:5])
        server.change(name, lambda path: change(path, Path(shutil.copy2(twins[1], tmp_path))))
        if server.tells_versions:
            for _ in range(2):
                with pytest.raises(vfs.FileChangedError):
                    v.query(KEYS[2000:2005])
    with timely(), Magnitude(url, **own) as v:
        np.testing.assert_array_equal(v.query(KEYS[2000:2005]), SECOND[2000:2005])
    _, vectors = later_process(server, url, tmp_path / "cache", KEYS[:5])
    np.testing.assert_array_equal(vectors, SECOND[:5])


def test_a_small_file_is_one_request(server, small):
    assert small.stat().st_size < 128 << 10
    url = server.copy(small, "small.magnitude")
    with timely(), Magnitude(url, **server.options()) as v:
        np.testing.assert_array_equal(v.query(KEYS[:200]), Magnitude(small).query(KEYS[:200]))
        assert v.stats.requests == 1
        assert v.stats.bytes == small.stat().st_size


def test_an_empty_file_has_no_bytes(server):
    (server.folder / "empty.bin").write_bytes(b"")
    own = server.options()["stream_options"]
    if server.name.startswith("Bottle"):  # it tells no size with status 416
        with timely(), pytest.raises(vfs.StatusError, match="416"):
            vfs.open(server.url + "empty.bin", **own)
        return
    with timely(), vfs.open(server.url + "empty.bin", **own) as file:
        assert (file.size, file.read(0, 100)) == (0, b"")
    with pytest.raises(vfs.DatabaseError, match=r"empty"), timely():
        Magnitude(server.url + "empty.bin", **server.options())


def test_a_read_that_begins_at_the_end_gives_no_bytes(server, twins):
    url = server.copy(twins[0], "end.magnitude")
    with timely(), vfs.open(url, **server.options()["stream_options"]) as file:
        data = twins[0].read_bytes()
        assert file.read(len(data) - 10, 100) == data[-10:]
        assert file.read(len(data), 10) == b""
        assert file.read(len(data) + 5, 10) == b""


def test_a_file_cut_short_is_noticed(server, twins):
    url = server.copy(twins[0], "cut.magnitude")
    own = server.options()["stream_options"]
    with timely(), vfs.open(url, **own) as file:
        server.change("cut.magnitude", cut)
        for _ in range(2):
            with pytest.raises(vfs.FileChangedError):
                file.read(1_000_000, 100)  # behind the new end


def test_names_are_percent_encoded(server, small):
    server.copy(small, NAME)
    url = server.url + quote(NAME)
    with timely(), Magnitude(url, **server.options()) as v:
        assert v.query(KEYS[3]).tobytes() == Magnitude(small).query(KEYS[3]).tobytes()


def test_an_absent_file_is_told(server):
    with pytest.raises(vfs.NotFoundError, match=r"127\.0\.0\.1.*absent.*not found"), timely():
        Magnitude(server.url + "absent.magnitude", **server.options())
