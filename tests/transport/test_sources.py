"""The contract of sources, held by the one over HTTP and by one that is no server at all."""

import pytest
from file_source import FileSource
from serving import LoggingServer
from source_contract import SourceContract

from vfs.transport.http import HttpSource


class TestHttpSource(SourceContract):
    """A file on a web server."""

    @pytest.fixture
    def open_source(self, path):
        with LoggingServer(path.parent) as server:
            yield lambda path, options: HttpSource(server.url + path.name, options)


class TestFileSource(SourceContract):
    """A file on this machine."""

    @pytest.fixture
    def open_source(self):
        return FileSource
