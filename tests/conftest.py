"""Files on a server, opened from the disk or streamed."""

import magnitude_files as mf
import pytest
from serving import LoggingServer
from sql_rows import DIM, Sql

from streamfile import Magnitude


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def server(folder):
    with LoggingServer(folder) as running:
        yield running


@pytest.fixture(scope="module", params=["local", "streamed"])
def way(request):
    return request.param


@pytest.fixture
def opened(way, server):
    """Open a file of the folder, from the disk or from the server."""
    objects = []

    def open_(path, **options):
        if way == "streamed":
            streaming = {"stream": True, "stream_options": {"cache_size": 0, "connections": 8}}
            v = Magnitude(server.url + path.name, **(streaming | options))
        else:
            v = Magnitude(path, **options)
        objects.append(v)
        return v

    yield open_
    for v in objects:
        v.close()


@pytest.fixture(scope="module")
def words(folder):
    """A light file of 1,500 rows."""
    return mf.write_magnitude(
        folder / "words", mf.random_words(1500, 3), mf.random_vectors(1500, DIM, 3), page_size=1024
    )


@pytest.fixture(scope="module")
def sql(words):
    return Sql(words)
