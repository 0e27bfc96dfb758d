"""Paths that begin with a tilde, in all functions that take local paths."""

import magnitude_files as mf
import numpy as np
import pytest
from serving import LoggingServer

import streamfile
import vfs
from streamfile import Magnitude

KEYS = ["cat", "dog", "mouse"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", "~/cache")
    mf.write_magnitude(tmp_path / "words.magnitude", KEYS, mf.random_vectors(3, 4, seed=1))
    return tmp_path


def test_every_function_finds_the_home_directory(home, monkeypatch):
    with Magnitude("~/words.magnitude") as v:
        expected = v.query("cat")
        assert v.path == "~/words.magnitude"
        assert repr(v) == f"<Magnitude {home}/words.magnitude>"
    assert streamfile.info("~/words.magnitude").rows == 3
    streamfile.repack("~/words.magnitude", "~/repacked.magnitude", log=False)
    streamfile.route("~/words.magnitude", "~/words.route")
    text = "".join(f"{key} 1 2 3 4\n" for key in KEYS)
    (home / "words.txt").write_text(text)
    streamfile.convert("~/words.txt", "~/converted.magnitude", log=False)
    vfs.DatabaseWriter("~/empty.db").close()
    names = {"repacked.magnitude", "words.route", "converted.magnitude", "empty.db"}
    assert names <= {path.name for path in home.iterdir()}
    with LoggingServer(home) as server, monkeypatch.context() as elsewhere:
        elsewhere.chdir("/")
        url = server.url + "words.magnitude"
        with Magnitude(url, stream=True, route="~/words.route") as v:
            np.testing.assert_array_equal(v.query("cat"), expected)
        assert (home / "cache" / "blocks.v1").is_file()


def test_a_missing_file_is_named_as_it_was_looked_for(home):
    with pytest.raises(streamfile.PathError, match=f"{home}/nothing"):
        Magnitude("~/nothing")
    with pytest.raises(streamfile.PathError, match="~nobody-has-this-name/nothing"):
        Magnitude("~nobody-has-this-name/nothing")
