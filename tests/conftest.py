"""Files on a server, opened from the disk or streamed; files that hold an ELMo model."""

import contextlib
import signal

import elmo_files
import magnitude_files as mf
import numpy as np
import pytest
import sentences
from hypothesis import HealthCheck, settings
from ranked_files import SIZES, written
from serving import LoggingServer
from sql_rows import DIM, Sql
from wide_sqlite import wide_sqlite

from streamfile import Magnitude
from streamfile.elmo import Encoder
from streamfile.search import matrix, scan

# A busy machine may take any time for an example.
settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("patient")


def pytest_collection_finish(session):
    """Build what takes minutes before the first test, whose time is limited."""
    needed = any("wide_sqlite" in vars(item.module) for item in session.items)
    if needed and not session.config.option.collectonly:
        with contextlib.suppress(RuntimeError):  # the tests that need it will tell
            wide_sqlite()


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


@contextlib.contextmanager
def opening(server, *, streamed):
    """Open files of the server's folder, from the disk or from the server."""
    objects = []

    def open_(path, **options):
        if streamed:
            streaming = {"stream": True, "stream_options": {"cache_size": 0, "connections": 8}}
            v = Magnitude(server.url + path.name, **(streaming | options))
        else:
            v = Magnitude(path, **options)
        objects.append(v)
        return v

    yield open_
    for v in objects:
        v.close()


@pytest.fixture
def opened(way, server):
    with opening(server, streamed=way == "streamed") as open_:
        yield open_


@pytest.fixture(params=["local", "streamed", "not kept"])
def searched(request, server, monkeypatch):
    """Open a file: on the disk, on the server, with too little memory for it."""
    if request.param == "not kept":
        monkeypatch.setattr(matrix, "MOST_IN_MEMORY", 100)
    monkeypatch.setattr(scan, "BATCH", 32 << 10)
    with opening(server, streamed=request.param != "local") as open_:
        yield open_


@pytest.fixture(scope="module", params=list(SIZES))
def any_file(request, folder):
    return written(folder, request.param)


@pytest.fixture(scope="module")
def plain(folder):
    return written(folder, "plain")


@pytest.fixture(scope="module")
def words(folder):
    """A light file of 1,500 rows."""
    return mf.write_magnitude(
        folder / "words", mf.random_words(1500, 3), mf.random_vectors(1500, DIM, 3), page_size=1024
    )


@pytest.fixture(scope="module")
def sql(words):
    return Sql(words)


@pytest.fixture
def ctrl_c():
    """Let SIGINT interrupt this process, also where the shell started it with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A folder for what is kept, of the test's own."""
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The paths of a small ELMo model's options and weights."""
    return elmo_files.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def meta(model):
    """The model as files hold it."""
    options, weights = model
    return weights.read_bytes(), options.read_bytes()


@pytest.fixture(scope="module")
def elmo_vectors():
    """The vectors that are stored, which are not those that the model gives."""
    return mf.random_vectors(len(sentences.KEYS), sentences.DIM, 3)


@pytest.fixture(scope="module")
def stored(elmo_vectors):
    """The same, as they come back."""
    rows = zip(*mf.quantize(elmo_vectors, 7), strict=True)
    normalized, as_given = zip(*(mf.decode(*row, 7) for row in rows), strict=True)
    return {True: np.array(normalized), False: np.array(as_given)}


@pytest.fixture(scope="module")
def files(folder, meta, elmo_vectors):
    """Files with the model, with words and without, and one without the model."""
    empty = np.zeros((0, sentences.DIM), np.float32)
    contents = {
        "words": (sentences.KEYS, elmo_vectors, {"elmo": True, "meta": meta}),
        "no_words": ([], empty, {"elmo": True, "meta": meta}),
        "no_elmo": (sentences.KEYS, elmo_vectors, {}),
    }
    return {
        name: mf.write_magnitude(folder / name, keys, vectors, **options)
        for name, (keys, vectors, options) in contents.items()
    }


@pytest.fixture
def opened_file(opened, files):
    """Open one of the files by its name, in either way."""

    def open_it(name="words", **options):
        return opened(files[name], **({"stream_options": None} | options))

    return open_it


@pytest.fixture(scope="module")
def encode(model):
    """Compute the vectors of one sentence with the bare model."""
    encoder = Encoder(*model)
    return lambda sentence: next(iter(encoder.embed([sentence])))
