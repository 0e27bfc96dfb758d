"""Closed objects: nothing answers, nothing hangs, nothing stays open."""

import contextlib
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import apsw
import magnitude_files as mf
import numpy as np
import pytest
import sentences
from scripted_server import Held, ScriptedServer
from serving import LoggingServer
from waiting import wait_until

import vfs
from streamfile import FeaturizerMagnitude, Magnitude, VectorModel
from streamfile.readers.open import open_reader

DIM = 6
KEYS = mf.random_words(3000, 5)
VECTOR = np.ones(DIM)

QUERIES = {
    "query": lambda v: v.query(KEYS[0]),
    "query of a vector in memory": lambda v: v.query(KEYS[5]),
    "query of keys": lambda v: v.query(KEYS[:3]),
    "query of lists": lambda v: v.query([KEYS[:3], KEYS[3:5]]),
    "query of nothing": lambda v: v.query([]),
    "query of a number": lambda v: v.query(5),
    "query of an unknown key": lambda v: v.query("unknown"),
    "query, normalized": lambda v: v.query(KEYS[5], normalized=True),
    "get_vector": lambda v: v.get_vector(KEYS[0]),
    "in": lambda v: KEYS[0] in v,
    "in, for no key": lambda v: 5 in v,
    "similarity": lambda v: v.similarity(KEYS[0], KEYS[1]),
    "similarity of vectors": lambda v: v.similarity(np.ones(v_dim(v)), np.ones(v_dim(v))),
    "distance": lambda v: v.distance(KEYS[0], KEYS[1]),
    "distances": lambda v: v.distances(KEYS[0], KEYS[1:3]),
    "doesnt_match": lambda v: v.doesnt_match(KEYS[:3]),
    "most_similar_to_given": lambda v: v.most_similar_to_given(KEYS[0], KEYS[1:3]),
    "n_similarity": lambda v: v.n_similarity(KEYS[:2], KEYS[2:4]),
    "get_mean_vector": lambda v: v.get_mean_vector(KEYS[:2]),
}
ROWS = {
    "len": len,
    "index": lambda v: v.index(0),
    "index of nothing": lambda v: v.index([]),
    "index, keys alone": lambda v: v.index([0, 1], return_vector=False),
    "index, no keys": lambda v: v.index([], return_vector=False),
    "item": lambda v: v[0],
    "slice": lambda v: v[0:2],
    "empty slice": lambda v: v[0:0],
    "iter": lambda v: next(iter(v), None),
    "list": list,
    "get_vectors_mmap": lambda v: v.get_vectors_mmap(),
    "get_index": lambda v: v.get_index(KEYS[0], -1),
    "get_index of no key": lambda v: v.get_index(5, -1),
    "index_to_key": lambda v: list(v.index_to_key),
    "index_to_key, one": lambda v: v.index_to_key[0],
    "key_to_index": lambda v: dict(v.key_to_index),
    "key_to_index, one": lambda v: v.key_to_index.get(KEYS[0]),
    "most_similar": lambda v: v.most_similar(KEYS[0]),
    "most_similar of nothing": lambda v: v.most_similar([]),
    "most_similar_cosmul": lambda v: v.most_similar_cosmul(KEYS[0]),
    "most_similar_approx": lambda v: v.most_similar_approx(KEYS[0]),
    "closer_than": lambda v: v.closer_than(KEYS[0], KEYS[1]),
    "similar_by_key": lambda v: v.similar_by_key(KEYS[0]),
    "similar_by_vector": lambda v: v.similar_by_vector(VECTOR),
    "rank": lambda v: v.rank(KEYS[0], KEYS[1]),
    "distances of all": lambda v: v.distances(KEYS[0]),
}
OF_FILES = {
    "dim": lambda v: v.dim,
    "emb_dim": lambda v: v.emb_dim,
    "vector_size": lambda v: v.vector_size,
}
ALL = QUERIES | ROWS | OF_FILES


def v_dim(v):
    """Tell the number of dimensions, of a closed model too."""
    return v.known_dim


@pytest.fixture(scope="module")
def file(folder):
    return mf.write_magnitude(folder / "closing", KEYS, mf.random_vectors(len(KEYS), DIM, 4))


@pytest.fixture
def open_model(server, file, files, cache):
    """Open a model of a kind, which has been used before."""
    options = {"stream": True, "stream_options": {"connections": 4}}

    def open_it(kind, **more):
        if kind == "featurizer":
            v = FeaturizerMagnitude(100, **more)
        elif kind == "concatenated":
            v = Magnitude(open_it("streamed"), open_it("local"), FeaturizerMagnitude(10))
        else:
            path = files["words"] if "ELMo" in kind else file
            streamed = "streamed" in kind
            v = (
                Magnitude(server.url + path.name, **options, **more)
                if streamed
                else (Magnitude(path, **more))
            )
        v.query([KEYS[5], "unknown"]) if "ELMo" not in kind else v.query(sentences.KEYS[0])
        v.__dict__["known_dim"] = v.dim
        return v

    return open_it


KINDS = ["local", "streamed", "concatenated", "featurizer"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_model_answers_nothing(open_model, kind):
    v = open_model(kind)
    if kind in ("local", "streamed"):
        v.most_similar(KEYS[0])  # the rows are in memory
    v.close()
    asked = QUERIES if kind == "concatenated" else QUERIES | ROWS
    if kind in ("local", "streamed"):
        asked = ALL
    answered = set(asked)
    for name, ask in asked.items():
        with contextlib.suppress(vfs.ClosedError):
            ask(v)
            continue
        answered.remove(name)
    assert answered == set()


def test_the_error_is_of_both_kinds():
    assert issubclass(vfs.ClosedError, vfs.VFSError)
    assert issubclass(vfs.ClosedError, ValueError)


@pytest.mark.parametrize("kind", ["local ELMo", "streamed ELMo"])
def test_a_closed_elmo_model_answers_nothing(open_model, kind):
    v = open_model(kind, ngram_oov=True)
    vector = np.zeros(v.dim)
    v.close()
    key = sentences.KEYS[0]
    for ask in (
        lambda: v.query(key),
        lambda: v.query([key, "unknown"]),
        lambda: v.query([[key], []]),
        lambda: v.query([]),
        lambda: v.unroll(vector),
        lambda: key in v,
        lambda: v[0],
        lambda: len(v),
        lambda: v.most_similar(key),
        lambda: v.similarity(vector, vector),
    ):
        with pytest.raises(vfs.ClosedError):
            ask()


@pytest.mark.parametrize("kind", [*KINDS, "streamed ELMo"])
def test_what_is_left_of_a_closed_model(open_model, kind):
    v = open_model(kind)
    requests = v.stats.requests
    before = repr(v)
    v.close()
    v.close()
    assert repr(v) == before
    assert v.stats.requests == requests
    assert isinstance(v, VectorModel)
    with v:
        pass
    v.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_copy_of_a_closed_model_is_open(open_model, kind):
    v = open_model(kind)
    expected = v.query(KEYS[:3])
    v.close()
    copy = pickle.loads(pickle.dumps(v))
    np.testing.assert_array_equal(copy.query(KEYS[:3]), expected)
    copy.close()
    with pytest.raises(vfs.ClosedError):
        v.query(KEYS[0])


@pytest.mark.parametrize("kind", ["local", "streamed"])
@pytest.mark.parametrize("begin", [iter, lambda v: iter(v.index_to_key)], ids=["rows", "keys"])
def test_an_iterator_ends_with_the_file(open_model, kind, begin):
    v = open_model(kind)
    rows = begin(v)
    assert next(rows)
    v.close()
    with pytest.raises(vfs.ClosedError):
        next(rows)


@pytest.mark.parametrize("kind", ["local", "streamed"])
def test_views_of_a_closed_file(open_model, kind):
    v = open_model(kind)
    keys, places = v.index_to_key, v.key_to_index
    v.close()
    for ask in (
        lambda: len(keys),
        lambda: keys[0],
        lambda: KEYS[0] in keys,
        lambda: places[KEYS[0]],
        lambda: KEYS[0] in places,
        lambda: keys.index(KEYS[0]),
    ):
        with pytest.raises(vfs.ClosedError):
            ask()


def test_a_part_that_is_closed_alone_closes_the_concatenation(open_model):
    v = open_model("concatenated")
    v.parts[1].close()
    with pytest.raises(vfs.ClosedError):
        v.query(KEYS[5])
    assert len(v.parts[0].query(KEYS[5])) == DIM
    v.close()


def test_a_with_block_closes_after_an_error(open_model):
    with pytest.raises(ZeroDivisionError), open_model("streamed") as v:
        raise ZeroDivisionError
    with pytest.raises(vfs.ClosedError):
        v.query(KEYS[5])


@pytest.mark.parametrize("kind", ["local", "streamed"])
def test_calls_of_other_threads_end(open_model, kind):
    """Each gives the right answer or the error, and none of them hangs."""
    expected = dict(zip(KEYS, open_model("local", normalized=False).query(KEYS), strict=True))
    for attempt in range(5):
        v = open_model(kind, normalized=False)
        started = threading.Barrier(9)
        done = []

        def ask(number, v=v, started=started, done=done):
            started.wait()
            rng = np.random.default_rng(number)
            with contextlib.suppress(vfs.ClosedError):
                while True:
                    keys = [KEYS[n] for n in rng.integers(0, len(KEYS), 20)]
                    found = v.query(keys)
                    np.testing.assert_array_equal(found, [expected[key] for key in keys])
                    if number % 4 == 0:
                        v.most_similar(KEYS[0])
                    if number % 4 == 1:
                        v.query([f"unknown {key}" for key in keys[:2]])
                    done.append(number)

        with ThreadPoolExecutor(8) as threads:
            calls = [threads.submit(ask, number + 8 * attempt) for number in range(8)]
            started.wait()
            wait_until(lambda done=done: done)
            v.close()
            for call in calls:
                call.result(timeout=60)


def test_closing_does_not_wait_for_the_server():
    release = threading.Event()
    whole = bytes(range(256)) * 4000
    with ScriptedServer(whole) as server:
        file = vfs.open(server.url, cache_size=0)
        server.script.extend([Held(release)] * 20)
        asked = len(server.requests)
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(file.read, 500_000, 10)
            wait_until(lambda: len(server.requests) > asked)
            file.close()
            release.set()
            with contextlib.suppress(vfs.ClosedError):
                assert call.result(timeout=60) == whole[500_000:500_010]
        with pytest.raises(vfs.ClosedError):
            file.read(500_000, 10)


def test_a_closed_remote_file(tmp_path):
    with ScriptedServer(bytes(1 << 20)) as server:
        for _ in range(2):
            file = vfs.open(server.url, cache_dir=tmp_path, cache_size="2MiB")
            assert file.read(0, 10) == bytes(10)
            before = repr(file), file.stats.requests, file.url, file.assumed
            file.close()
            file.close()
            for ask in (
                lambda file=file: file.read(0, 10),
                lambda file=file: file.read_many([]),
                lambda file=file: file.read_past_cache([(0, 10)]),
                lambda file=file: file.cached(0, 10),
                lambda file=file: file.size,
                lambda file=file: file.identity,
                lambda file=file: file.validate(),
                lambda file=file: file.recall("a"),
                lambda file=file: file.remember("a", b""),
                lambda file=file: file.kept_name("a"),
            ):
                with pytest.raises(vfs.ClosedError, match="it was closed"):
                    ask()
            assert (repr(file), file.stats.requests, file.url, file.assumed) == before
            copy = pickle.loads(pickle.dumps(file))
            assert copy.read(0, 10) == bytes(10)
            copy.close()


def test_a_closed_connection(folder, file, server):
    connection = vfs.connect(server.url + file.name, cache_size=0)
    remote = vfs.file_of(connection)
    cursor = connection.execute("SELECT key FROM magnitude")
    assert next(cursor)
    connection.close()
    connection.close()
    with pytest.raises(apsw.Error):
        connection.execute("SELECT 1")
    with pytest.raises(apsw.Error):
        next(cursor)
    with pytest.raises(vfs.ClosedError):
        remote.read(0, 10)
    assert vfs.file_of(connection) is remote


@pytest.mark.parametrize("streamed", [False, True])
def test_a_closed_reader(file, server, cache, streamed):
    reader = open_reader(server.url + file.name if streamed else file)
    assert reader.find([KEYS[0]], case_insensitive=False) == {KEYS[0]: 1}
    reader.sql.execute("SELECT 1", ())
    reader.close()
    reader.close()
    for ask in (
        lambda: reader.contents,
        reader.current,
        lambda: reader.find([KEYS[0]], case_insensitive=False),
        lambda: reader.find([], case_insensitive=True),
        lambda: reader.rows([1]),
        lambda: reader.rows([]),
        lambda: reader.run(lambda contents: iter(())),
        lambda: reader.kept("a"),
        lambda: reader.sql.execute("SELECT 1", ()),
        reader.check_open,
    ):
        with pytest.raises(vfs.ClosedError):
            ask()


def test_a_closed_file_cannot_be_read_where_the_server_is_gone(folder, file, cache):
    """The error tells that the file was closed, not that the server is unreachable."""
    with LoggingServer(folder) as server:
        v = Magnitude(server.url + file.name, stream=True)
        v.query(KEYS[0])
        v.close()
    with pytest.raises(vfs.ClosedError, match=file.name):
        v.query(KEYS[1])
