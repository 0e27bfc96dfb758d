"""gensim's names, held against plain numpy on all vectors of a file."""

import itertools

import magnitude_files as mf
import numpy as np
import pytest
from serving import LoggingServer

from streamfile import ArgumentError, FeaturizerMagnitude, Magnitude

DIM = 9
KEYS = [*dict.fromkeys(word.lower() for word in mf.random_words(600, 1))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keyed")
    mf.write_magnitude(folder / "words", KEYS, mf.random_vectors(len(KEYS), DIM, 1))
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with LoggingServer(folder) as running:
        yield running


@pytest.fixture(scope="module", params=["local", "streamed"])
def opened(request, folder, server):
    def open_(**options):
        if request.param == "local":
            return Magnitude(folder / "words", **options)
        own = {"stream": True, "stream_options": {"cache_size": 0, "connections": 4}}
        return Magnitude(server.url + "words", **own, **options)

    return open_


@pytest.fixture(scope="module")
def v(opened):
    with opened() as v:
        yield v


@pytest.fixture(scope="module")
def vectors(v):
    return v.query(KEYS).astype(np.float64)


def cosines(vectors, vector):
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector)
    return vectors @ vector / lengths


def test_vectors_and_size(v):
    assert v.vector_size == v.dim == DIM
    np.testing.assert_array_equal(v.get_vector(KEYS[3]), v.query(KEYS[3]))
    np.testing.assert_array_equal(
        v.get_vector(KEYS[3], norm=False), v.query(KEYS[3], normalized=False)
    )
    assert v.get_vector("not there").shape == (DIM,)


def test_places_of_keys(v):
    assert [v.get_index(key) for key in KEYS[:50]] == list(range(50))
    assert v.get_index("not there", default=-5) == -5
    assert v.get_index("not there", default=0) == 0
    for key in ("not there", 7):
        with pytest.raises(KeyError):
            v.get_index(key)


def test_keys_as_a_sequence(v):
    keys = v.index_to_key
    assert len(keys) == len(KEYS)
    assert list(keys) == KEYS
    assert (keys[0], keys[-1], keys[5:9], keys[::-200]) == (
        KEYS[0],
        KEYS[-1],
        KEYS[5:9],
        KEYS[::-200],
    )
    assert list(reversed(keys))[:3] == KEYS[:-4:-1]
    assert KEYS[7] in keys
    assert "not there" not in keys
    assert keys.index(KEYS[9]) == keys.index(KEYS[9], 9) == keys.index(KEYS[9], 0, 10) == 9
    for arguments in [("not there",), (KEYS[9], 10), (KEYS[9], 0, 9), (7,)]:
        with pytest.raises(ValueError, match="is not there"):
            keys.index(*arguments)
    with pytest.raises(IndexError):
        keys[len(KEYS)]


def test_places_as_a_mapping(v):
    places = v.key_to_index
    assert len(places) == len(KEYS)
    assert places[KEYS[4]] == places.get(KEYS[4]) == 4
    assert places.get("not there") is None
    assert "not there" not in places
    assert KEYS[4] in places
    assert dict(itertools.islice(places.items(), 5)) == {key: at for at, key in enumerate(KEYS[:5])}
    with pytest.raises(KeyError):
        places["not there"]


def test_first_keys_are_not_a_full_read(folder, server):
    options = {"cache_size": 0, "connections": 1}
    with Magnitude(server.url + "words", stream=True, stream_options=options) as v:
        with v.stats.measure() as used:
            assert v.index_to_key[0] == KEYS[0]
            assert v.key_to_index[KEYS[1]] == 1
        assert used.requests < 10
        assert used.bytes < (folder / "words").stat().st_size


def test_similar_by_key_and_vector(v, vectors):
    order = np.argsort(-cosines(vectors, vectors[0]), kind="stable")
    expected = [KEYS[at] for at in order[1:6]]
    assert [key for key, _ in v.similar_by_key(KEYS[0], topn=5)] == expected
    got = v.similar_by_vector(vectors[0], topn=6)
    assert [key for key, _ in got] == [KEYS[0], *expected]
    assert v.similar_by_key(KEYS[0]) == v.most_similar(KEYS[0])
    assert len(v.similar_by_key(KEYS[0])) == 10
    first = [key for key, _ in v.similar_by_key(KEYS[0], topn=None, restrict_vocab=20)]
    assert sorted(first) == sorted(KEYS[1:20])
    assert len(v.similar_by_vector(vectors[0], restrict_vocab=4)) == 4


def test_similarity_of_lists(v, vectors):
    first, second = vectors[:3].mean(0), vectors[5:7].mean(0)
    expected = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert v.n_similarity(KEYS[:3], KEYS[5:7]) == pytest.approx(expected, abs=1e-6)
    assert v.n_similarity(KEYS[:3], KEYS[:3]) == pytest.approx(1)
    for wrong in [([], ["a"]), (["a"], [])]:
        with pytest.raises(ArgumentError, match="mean of 0 keys"):
            v.n_similarity(*wrong)


def test_ranks(v, vectors):
    order = np.argsort(-cosines(vectors, vectors[2]), kind="stable")
    for place in (1, 2, 10):
        assert v.rank(KEYS[2], KEYS[order[place]]) == place


@pytest.mark.parametrize("normalized", [True, False])
def test_means(opened, normalized):
    with opened(normalized=normalized, dtype=np.float64) as v:
        some = v.query(KEYS[:3])
        units = some / np.linalg.norm(some, axis=1, keepdims=True)
        weights = [1, -2, 0.5]
        np.testing.assert_allclose(v.get_mean_vector(KEYS[:3]), units.mean(0), atol=1e-9)
        got = v.get_mean_vector(KEYS[:3], pre_normalize=False)
        np.testing.assert_allclose(got, some.mean(0), atol=1e-9)
        expected = (units * np.array(weights)[:, None]).sum(0) / 3.5
        got = v.get_mean_vector([KEYS[0], some[1], KEYS[2]], weights)
        np.testing.assert_allclose(got, expected, atol=1e-9)
        got = v.get_mean_vector(KEYS[:3], weights, post_normalize=True)
        np.testing.assert_allclose(got, expected / np.linalg.norm(expected), atol=1e-9)
        assert not v.get_mean_vector(KEYS[:1], [0]).any()
        for keys, shares in [([], None), (KEYS[:2], [1]), (KEYS[:2], [[1], [2]])]:
            with pytest.raises(ArgumentError, match=r"mean of \d keys"):
                v.get_mean_vector(keys, shares)


def test_cosine_distances(v, vectors):
    expected = 1 - cosines(vectors, vectors[0])
    np.testing.assert_allclose(v.distances(KEYS[0]), expected, atol=2e-6)
    np.testing.assert_allclose(v.distances(vectors[0] * 3), expected, atol=2e-6)
    np.testing.assert_allclose(v.distances(KEYS[0], KEYS[4:7]), expected[4:7], atol=2e-6)
    assert v.distances(KEYS[0]).dtype == np.float32


def test_lists_and_placeholders(opened):
    with opened(use_numpy=False, placeholders=2) as v, opened() as plain:
        assert v.vector_size == DIM + 2
        mean = v.get_mean_vector(KEYS[:2])
        assert isinstance(mean, list)
        assert mean[DIM:] == [0, 0]
        np.testing.assert_allclose(v.distances(KEYS[0]), plain.distances(KEYS[0]), atol=1e-6)
        assert isinstance(v.distances(KEYS[0], KEYS[:2]), list)


def test_concatenations_have_what_needs_no_rows(v):
    whole = Magnitude(v, FeaturizerMagnitude(100))
    assert whole.vector_size == DIM + 4
    np.testing.assert_array_equal(whole.get_vector(KEYS[0]), whole.query(KEYS[0]))
    assert whole.n_similarity(KEYS[:2], KEYS[:2]) == pytest.approx(1)
    assert whole.similarity(KEYS[0], KEYS[0]) == pytest.approx(1)
    for ask in (
        lambda: whole.similar_by_key(KEYS[0]),
        lambda: whole.index_to_key[0],
        lambda: whole.get_index(KEYS[0]),
        lambda: whole.get_vectors_mmap(),
    ):
        with pytest.raises(AttributeError, match=r"v\.parts\[0\]"):
            ask()
