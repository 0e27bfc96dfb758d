"""The contract of readers, held by each of them."""

import magnitude_files as mf
import pytest
from reader_contract import ReaderContract
from serving import LoggingServer

from streamfile.errors import PathError
from streamfile.readers import local
from streamfile.readers.local import LocalReader
from streamfile.readers.open import open_reader
from streamfile.readers.remote import RemoteReader


class TestLocalReader(ReaderContract):
    """A file on this machine, whose keys SQLite finds."""

    @pytest.fixture
    def open_reader(self):
        return lambda path: LocalReader(str(path))


class TestLocalReaderOfWideFiles(ReaderContract):
    """A file on this machine that is too wide for SQLite to find its keys."""

    @pytest.fixture
    def open_reader(self, monkeypatch):
        monkeypatch.setattr(local, "MOST_SQL_COLUMNS", 3)
        return lambda path: LocalReader(str(path))


class TestRemoteReader(ReaderContract):
    """A file on a web server."""

    @pytest.fixture
    def open_reader(self, path):
        with LoggingServer(path.parent) as server:
            yield lambda path: RemoteReader(server.url + path.name, cache_size=0)


class TestRemoteReaderThatKnowsTheFile(ReaderContract):
    """A file on a web server, opened with what an earlier reader left in the cache."""

    @pytest.fixture
    def open_reader(self, path, tmp_path):
        with LoggingServer(path.parent) as server:
            options = {"cache_dir": tmp_path / "cache"}
            reader = RemoteReader(server.url + path.name, **options)
            reader.find(["dog", "x"], case_insensitive=False)
            reader.close()
            yield lambda path: RemoteReader(server.url + path.name, **options)


def test_a_path_or_a_url_is_opened_by_the_reader_of_its_kind(tmp_path):
    path = mf.write_magnitude(tmp_path / "a", ["cat"], mf.random_vectors(1, 3, 1))
    assert isinstance(open_reader(path), LocalReader)
    with LoggingServer(tmp_path) as server:
        reader = open_reader(server.url.upper().replace("HTTP", "Http") + "a", cache_size=0)
        assert isinstance(reader, RemoteReader)
        reader.close()
    with pytest.raises(PathError, match=r"absent: no such file; expected.*URL"):
        open_reader(tmp_path / "absent")
