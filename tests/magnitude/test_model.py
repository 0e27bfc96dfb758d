"""A model of nothing but dimensions and vectors of keys; and what a concatenation compares."""

import magnitude_files as mf
import numpy as np
import pytest

from streamfile import ArgumentError, FeaturizerMagnitude, Magnitude, VectorModel

TABLE = {"cat": [1.0, 0.0, 0.0], "dog": [0.6, 0.8, 0.0], "sun": [0.0, 0.0, 2.0]}


class Table(VectorModel):
    """Vectors of a dict, and zeros for all other keys."""

    dim = 3

    def _of_keys(self, keys, normalized):
        return np.array([TABLE.get(key, [0, 0, 0]) for key in keys], self.dtype).reshape(-1, 3)


def test_queries_need_no_more():
    v = Table(pad_to_length=2, dtype=np.float64)
    np.testing.assert_array_equal(v.query("dog"), TABLE["dog"])
    got = v.query([["cat"], ["dog", "sun", "cat"]])
    np.testing.assert_array_equal(got[0], [TABLE["cat"], [0, 0, 0]])
    np.testing.assert_array_equal(got[1], [TABLE["dog"], TABLE["sun"]])
    assert (v.emb_dim, v.vector_size, v.query([]).shape) == (3, 3, (2, 3))
    assert "cat" not in v
    assert v.stats.requests == 0


def test_comparisons_need_no_more():
    with Table() as v:
        assert v.similarity("cat", "dog") == pytest.approx(0.6)
        assert v.similarity("cat", ["dog", "sun"]) == pytest.approx([0.6, 0])
        assert v.distance("cat", "sun") == pytest.approx(5**0.5)
        assert v.distances("cat", ["cat", "sun"]) == pytest.approx([0, 1])
        assert v.n_similarity(["cat", "dog"], ["dog", "cat"]) == pytest.approx(1)
        assert v.doesnt_match(["cat", "dog", "sun"]) == "sun"
        assert v.most_similar_to_given("cat", ["sun", "dog"]) == "dog"


def test_without_rows_there_is_nothing_to_compare_with():
    with pytest.raises(ArgumentError, match=r"distances: expected other keys.*no rows of its own"):
        Table().distances("cat")


def test_a_word_is_one_key_and_no_list_of_letters():
    assert Table().n_similarity("cat", ["dog"]) == pytest.approx(0.6)


KEYS = ["king", "queen", "man", "woman"]


@pytest.fixture
def parts(tmp_path):
    mf.write_magnitude(tmp_path / "a", KEYS, mf.random_vectors(4, 5, 1))
    with Magnitude(tmp_path / "a") as words:
        yield words, FeaturizerMagnitude(100, "pos")


@pytest.fixture
def both(parts):
    return Magnitude(*parts)


def vector(parts, key):
    """Put what each part answers one behind the other."""
    forms = key if isinstance(key, tuple) else (key, key)
    answers = [part.query(form) for part, form in zip(parts, forms, strict=True)]
    return np.concatenate(answers).astype(np.float64)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


PAIRS = [
    (("king", "NN"), ("queen", "NN")),
    (("king", "NN"), ("queen", "VB")),
    ("king", ("man", "NN")),
    (("no such", 7), "woman"),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_a_tuple_is_one_key_in_comparisons(parts, both, one, other):
    a, b = vector(parts, one), vector(parts, other)
    assert both.similarity(one, other) == pytest.approx(cosine(a, b), abs=1e-6)
    assert both.distance(one, other) == pytest.approx(np.linalg.norm(a - b), abs=1e-6)
    assert both.n_similarity(one, other) == pytest.approx(cosine(a, b), abs=1e-6)
    assert both.distances(one, other) == pytest.approx([1 - cosine(a, b)], abs=1e-6)


def test_a_list_of_tuples_is_several_keys(parts, both):
    keys = [("queen", "NN"), ("man", "VB"), "woman"]
    a, others = vector(parts, ("king", "NN")), [vector(parts, key) for key in keys]
    expected = [cosine(a, b) for b in others]
    assert both.similarity(("king", "NN"), keys) == pytest.approx(expected, abs=1e-6)
    assert both.distance(("king", "NN"), keys) == pytest.approx(
        [np.linalg.norm(a - b) for b in others], abs=1e-6
    )
    assert both.distances(("king", "NN"), keys) == pytest.approx(1 - np.array(expected), abs=1e-6)
    assert both.n_similarity(keys, [("king", "NN")]) == pytest.approx(
        cosine(np.mean(others, axis=0), a), abs=1e-6
    )
    np.testing.assert_allclose(
        both.get_mean_vector(keys, pre_normalize=False), np.mean(others, axis=0), atol=1e-6
    )
    assert both.most_similar_to_given(("king", "NN"), keys) == keys[int(np.argmax(expected))]
    assert both.doesnt_match([*keys, ("king", "NN")]) in [*keys, ("king", "NN")]


def test_vectors_stand_for_keys(parts, both):
    a = vector(parts, ("king", "NN"))
    assert both.similarity(a, ("king", "NN")) == pytest.approx(1, abs=1e-6)
    assert both.similarity(("king", "NN"), a.tolist()) == pytest.approx(1, abs=1e-6)
    assert both.similarity(("king", "NN"), [a, ("king", "NN")]) == pytest.approx([1, 1], abs=1e-6)


def test_tuples_of_numbers_are_keys_too(parts, both):
    expected = cosine(vector(parts, (1, 2)), vector(parts, (3, 4)))
    assert both.similarity((1, 2), (3, 4)) == pytest.approx(expected, abs=1e-6)


def test_tuples_of_another_length_are_refused(both):
    for ask in (both.similarity, both.distance, both.n_similarity, both.distances):
        with pytest.raises(ArgumentError, match="3 keys for a concatenation of 2"):
            ask(("king", "NN", "x"), "queen")


@pytest.mark.parametrize("name", ["rank", "closer_than", "most_similar", "index_to_key", "budget"])
def test_searches_are_those_of_a_part(both, name):
    with pytest.raises(AttributeError, match=rf"no file of its own.*\({name}\).*v\.parts\[0\]"):
        getattr(both, name)


def test_all_of_the_family_are_accepted_where_a_magnitude_is(parts, both):
    for v in (*parts, both):
        assert isinstance(v, VectorModel)
        assert isinstance(v, Magnitude)
