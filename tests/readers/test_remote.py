"""A file on a web server that was replaced since the cache learned of it."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import magnitude_files as mf
import numpy as np
import pytest
from serving import LoggingServer, replace_file

from streamfile import Magnitude
from streamfile.readers.remote import RemoteReader
from vfs.errors import FileChangedError

ROOT = Path(__file__).parents[2]
OLD, NEW = ["cat", "dog"], ["sun", "moon", "cat"]


@pytest.fixture
def replaced(tmp_path):
    """Let the cache learn of a file, and replace the file; return its URL and the cache."""
    old = mf.write_magnitude(tmp_path / "a", OLD, mf.random_vectors(2, 4, 1))
    new = mf.write_magnitude(tmp_path / "new", NEW, mf.random_vectors(3, 6, 2))
    cache = tmp_path / "cache"
    with LoggingServer(tmp_path) as server:
        with closing(RemoteReader(server.url + "a", cache_dir=cache)) as reader:
            reader.find(OLD, case_insensitive=False)
        replace_file(old, new)
        server.log.clear()
        yield server, cache


def open_(replaced):
    server, cache = replaced
    return closing(RemoteReader(server.url + "a", cache_dir=cache))


def test_contents_are_those_of_the_cache_and_cost_nothing(replaced):
    server, _ = replaced
    with open_(replaced) as reader:
        assert reader.contents.format.size == reader.contents.format.size == len(OLD)
        assert reader.stats.requests == 0
    assert server.log == []


def test_current_asks_and_reads_the_new_file_from_there_on(replaced):
    with open_(replaced) as reader:
        old = reader.contents
        assert reader.current().format.size == len(NEW)
        assert reader.contents is reader.current() is not old
        requests = reader.stats.requests
        assert reader.current().format.dim == 6
        assert reader.stats.requests == requests
        assert reader.find(OLD, case_insensitive=False) == {"cat": 3}


@pytest.mark.parametrize(
    "ask",
    [
        lambda reader: reader.find(NEW, case_insensitive=False) == {"sun": 1, "moon": 2, "cat": 3},
        lambda reader: reader.rows([1, 2, 3]).keys() == NEW,
        lambda reader: reader.run(lambda it: it.table.find([3])).rowids.tolist() == [3],
    ],
)
def test_whatever_is_asked_first_is_answered_by_the_new_file(replaced, ask):
    with open_(replaced) as reader:
        assert ask(reader)
        assert reader.contents.format.size == len(NEW)


def test_a_file_replaced_after_an_answer_is_an_error(replaced, tmp_path):
    with open_(replaced) as reader:
        assert reader.find(["sun"], case_insensitive=False)
        newer = mf.write_magnitude(tmp_path / "newer", OLD * 500, mf.random_vectors(1000, 9, 3))
        replace_file(tmp_path / "a", newer)
        reader.file._cache.close()
        with pytest.raises(FileChangedError):
            reader.rows([1, 2, 3])


SCRIPT = """
import sys
from streamfile.readers.kept_blobs import keep_blob
from streamfile.readers.remote import RemoteReader
reader = RemoteReader(sys.argv[1], cache_dir=sys.argv[2])
print(keep_blob(reader, "magnitude_meta_2").path.read_text())
"""


@pytest.mark.parametrize("flags", [[], ["-O"]])
def test_no_kept_file_of_the_old_one_is_used_whatever_the_interpreter_leaves_out(tmp_path, flags):
    for name, options in (("a", b"the old options"), ("new", b"the new ones")):
        meta = (b"weights", options)
        mf.write_magnitude(tmp_path / name, OLD, mf.random_vectors(2, 4, 1), elmo=True, meta=meta)
    with LoggingServer(tmp_path) as server:
        command = [sys.executable, *flags, "-c", SCRIPT, server.url + "a", str(tmp_path / "cache")]
        for expected in ("the old options", "the new ones"):
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.stdout.strip() == expected, done.stderr
            if expected == "the old options":
                replace_file(tmp_path / "a", tmp_path / "new")


def test_a_query_in_the_new_file_is_that_of_a_local_one(replaced):
    server, cache = replaced
    options = {"stream": True, "stream_options": {"cache_dir": cache}}
    with Magnitude(server.url + "a", **options) as v, Magnitude(server.directory / "a") as local:
        asked = [*NEW, "dog", "no such"]
        np.testing.assert_array_equal(v.query(asked), local.query(asked))
