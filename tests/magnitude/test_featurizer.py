"""Vectors of features: every key is outside of any file, in a namespace."""

import math
import pickle

import numpy as np
import pytest
from plain_hashing import KEYS, NUMBERS, hashed, seeded

from streamfile import ArgumentError, FeaturizerMagnitude, FormatError, Magnitude

NAMESPACE = "PartsOfSpeech"


def expected_dim(count):
    """Count dimensions up until so many values collide with a chance of at most 0.1 %."""
    dim = 2
    while 100.0**dim < count**2 / (-2 * math.log(0.999)):
        dim += 1
    return dim


def test_the_published_numbers():
    pos = FeaturizerMagnitude(100, namespace=NAMESPACE)
    assert (pos.dim, pos.emb_dim) == (4, 4)
    expected = [0.08040417, -0.71705252, 0.61228951, 0.32322192]
    np.testing.assert_allclose(pos.query("NN"), expected, atol=5e-8)
    assert pos.query("NN").dtype == np.float32


@pytest.mark.parametrize("count", [1, 2, 4, 5, 44, 45, 100, 447, 448, 1000, 10**6, 10**9])
def test_dimensions(count):
    assert FeaturizerMagnitude(count).dim == expected_dim(count)


@pytest.mark.parametrize("namespace", [None, NAMESPACE, "ß"])
@pytest.mark.parametrize("case_insensitive", [False, True])
@pytest.mark.parametrize("ngram_oov", [None, False])
@pytest.mark.parametrize("normalized", [None, False])
def test_every_key_is_hashed(namespace, case_insensitive, ngram_oov, normalized):
    f = FeaturizerMagnitude(
        10**6,
        namespace,
        case_insensitive=case_insensitive,
        ngram_oov=ngram_oov,
        normalized=normalized,
        dtype=np.float64,
    )
    expected = [
        hashed(
            key,
            8,
            namespace=namespace,
            case_insensitive=case_insensitive,
            ngram_oov=ngram_oov is None,
            normalized=normalized is None,
        )
        for key in KEYS
    ]
    np.testing.assert_allclose(f.query(KEYS), expected, rtol=0, atol=1e-12)


def test_numbers_are_in_the_namespace_too():
    f = FeaturizerMagnitude(10**6, NAMESPACE)
    expected = np.array([seeded(type(n).__name__, 8, NAMESPACE) for n in NUMBERS])
    got = f.query(NUMBERS)
    np.testing.assert_array_equal(got[:, :-1], expected[:, :-1].astype(np.float32))
    last = [np.float32(number) / np.finfo(np.float32).max for number in NUMBERS]
    np.testing.assert_array_equal(got[:, -1], last)


def test_namespaces_are_apart():
    vectors = [FeaturizerMagnitude(100, name).query("NN") for name in (None, "a", "b")]
    assert len({vector.tobytes() for vector in vectors}) == 3


def test_shapes_and_padding():
    f = FeaturizerMagnitude(100, NAMESPACE, placeholders=1)
    nn, vb, dt = f.query(["NN", "VB", "DT"])
    none = np.zeros(5, np.float32)
    assert f.dim == 5
    assert nn[4] == 0
    np.testing.assert_array_equal(f.query([["NN"], ["VB", "DT"]]), [[nn, none], [vb, dt]])
    np.testing.assert_array_equal(
        f.query([["NN"], ["VB", "DT"]], pad_left=True), [[none, nn], [vb, dt]]
    )
    got = f.query([["NN"], ["VB", "DT"]], pad_to_length=1, truncate_left=True)
    np.testing.assert_array_equal(got, [[nn], [dt]])
    np.testing.assert_array_equal(f.query(["NN"], pad_to_length=3), [nn, none, none])
    assert f.query([]).shape == (0, 5)
    assert FeaturizerMagnitude(100, use_numpy=False).query(["a"]) == [
        FeaturizerMagnitude(100).query("a").tolist()
    ]


def test_it_has_no_keys():
    with FeaturizerMagnitude(100, NAMESPACE, lazy_loading=-1, blocking=True) as f:
        assert isinstance(f, Magnitude)
        assert len(f) == 0
        assert "NN" not in f
        assert list(f) == []
        assert f[:] == []
        with pytest.raises(IndexError, match="0 vectors"):
            f[0]
        f.query("NN")
        assert (f.stats.requests, f.stats.bytes) == (0, 0)
        assert NAMESPACE in repr(f)


def test_it_can_be_pickled():
    f = FeaturizerMagnitude(100, NAMESPACE, use_numpy=False)
    copy = pickle.loads(pickle.dumps(f))
    assert isinstance(copy, FeaturizerMagnitude)
    assert copy.query("NN") == f.query("NN")


def test_arguments_that_cannot_be():
    for count in (0, -5):
        with pytest.raises(ArgumentError, match=f"number_of_values={count}.*1 or more"):
            FeaturizerMagnitude(count)
    with pytest.raises(ArgumentError, match="no file to stream"):
        FeaturizerMagnitude(100, stream=True)
    with pytest.raises(TypeError):
        FeaturizerMagnitude(100, colour="red")
    with pytest.raises(ArgumentError, match="key"):
        FeaturizerMagnitude(100).query(None)


def test_there_is_nothing_to_search():
    pos = FeaturizerMagnitude(100, namespace=NAMESPACE)
    with pytest.raises(FormatError, match=rf"{NAMESPACE}: there are no rows to search$"):
        pos.most_similar("NN")
    assert pos.similarity("NN", "NN") == pytest.approx(1)
