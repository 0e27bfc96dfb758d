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
from streamfile import Magnitude
options = {"cache_dir": sys.argv[2]}
with Magnitude(sys.argv[1], stream=True, stream_options=options) as v:
    print(v.most_similar("sun", topn=None, return_similarities=False), len(v), v.dim, v[0][0])
"""


@pytest.mark.parametrize("flags", [[], ["-O"]])
def test_a_search_does_not_see_the_old_file_whatever_the_interpreter_leaves_out(replaced, flags):
    server, cache = replaced
    done = subprocess.run(
        [sys.executable, *flags, "-c", SCRIPT, server.url + "a", str(cache)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    with Magnitude(server.directory / "a") as local:
        found = local.most_similar("sun", topn=None, return_similarities=False)
    assert done.stdout.strip() == f"{found} 3 6 sun", done.stderr


def test_a_query_in_the_new_file_is_that_of_a_local_one(replaced):
    server, cache = replaced
    options = {"stream": True, "stream_options": {"cache_dir": cache}}
    with Magnitude(server.url + "a", **options) as v, Magnitude(server.directory / "a") as local:
        asked = [*NEW, "dog", "no such"]
        np.testing.assert_array_equal(v.query(asked), local.query(asked))
