"""Distances and similarities, local and streamed, held against float64 numpy."""

import numpy as np
import pytest
from ranked_files import DIM, Reference

from streamfile import ArgumentError


def test_distance_and_similarity(searched, plain):
    truth = Reference(plain)
    a, b, c = truth.keys[:3]
    for normalized in (True, False):
        v = searched(plain, normalized=normalized)
        scale = np.ones(len(truth.keys)) if normalized else truth.lengths
        vectors = truth.units * scale[:, None]
        distances = np.linalg.norm(vectors[[0, 1, 2]] - vectors[0], axis=1)
        np.testing.assert_allclose(v.distance(a, [a, b, c]), distances, atol=1e-5)
        assert v.distance(a, b) == pytest.approx(distances[1], abs=1e-5)
        assert v.distance(a, vectors[1]) == pytest.approx(distances[1], abs=1e-5)
        assert v.distance(vectors[0].tolist(), vectors[:2]) == pytest.approx(
            distances[:2], abs=1e-5
        )
        cosines = truth.units[:3] @ truth.units[0]
        np.testing.assert_allclose(v.similarity(a, [a, b, c]), cosines, atol=1e-6)
        assert isinstance(v.similarity(a, b), float)
        assert v.similarity(3 * vectors[0], b) == pytest.approx(cosines[1], abs=1e-6)
        assert v.distance(a, []) == v.similarity(a, []) == []
        assert v.similarity(a, "no such key") == pytest.approx(
            v.query("no such key") @ truth.units[0] / np.linalg.norm(v.query("no such key")),
            abs=1e-5,
        )


def test_choices_among_given_keys(searched, plain):
    v, truth = searched(plain, pad_to_length=2, use_numpy=False), Reference(plain)
    keys = truth.keys[10:30]
    units = truth.units[10:30]
    assert v.most_similar_to_given(truth.keys[5], keys) == keys[np.argmax(units @ truth.units[5])]
    mean = units.mean(0) / np.linalg.norm(units.mean(0))
    assert v.doesnt_match(keys) == keys[np.argmin(units @ mean)]
    for call in (lambda: v.most_similar_to_given(keys[0], []), lambda: v.doesnt_match([])):
        with pytest.raises(ArgumentError, match="empty list"):
            call()


@pytest.mark.parametrize("options", [{}, {"normalized": False, "dtype": "f8"}, {"placeholders": 3}])
def test_all_vectors(searched, any_file, options):
    v = searched(any_file, **options)
    found = v.get_vectors_mmap()
    assert found.shape == (len(v), v.dim)
    assert found.dtype == v.dtype
    np.testing.assert_array_equal(found, np.array([vector for _, vector in v]))
    assert v.unroll(found) is found


def test_wrong_arguments(searched, plain):
    v = searched(plain)
    key = Reference(plain).keys[0]
    for wrong in (np.zeros(DIM + 1), [1.0] * (DIM - 1), np.full(DIM, np.nan)):
        with pytest.raises(ArgumentError, match=f"expected {DIM} finite numbers"):
            v.most_similar(wrong)
        with pytest.raises(ArgumentError, match=f"expected {DIM} finite numbers"):
            v.similarity(key, wrong)
    for options in ({"topn": -1}, {"restrict_vocab": -1}):
        with pytest.raises(ArgumentError, match="expected 0 or more"):
            v.most_similar(key, **options)
    assert v.most_similar([]) == v.most_similar([], []) == v.most_similar_cosmul([]) == []
