"""The shapes and types of answers, local and streamed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sql_rows import DIM, same


def test_shapes_of_queries(words, sql, opened):
    v = opened(words)
    a, b, c = sql.keys[:3]
    x, y, z = sql.vectors([a, b, c])
    zero = np.zeros(DIM, np.float32)
    same(v.query(a), x)
    same(v.query([a]), [x])
    same(v.query([c, a, c]), [z, x, z])
    same(v.query([[a, b], [c]]), [[x, y], [z, zero]])
    same(v.query([[a]]), [[x]])
    same(v.query([[c, c], [], [b]]), [[z, z], [zero, zero], [y, zero]])
    same(v.query([]), np.zeros((0, DIM)))
    same(v.query([[]]), np.zeros((1, 0, DIM)))
    same(v.query([[], []]), np.zeros((2, 0, DIM)))
    same(v.query([[], []], pad_to_length=2), np.zeros((2, 2, DIM)))


def test_padding_and_truncation(words, sql, opened):
    a, b, c = sql.keys[:3]
    x, y, z = sql.vectors([a, b, c])
    o = np.zeros(DIM, np.float32)
    lists = [[a, b, c], [c], []]
    expected = {
        (False, False): [[x, y], [z, o], [o, o]],
        (False, True): [[y, z], [z, o], [o, o]],
        (True, False): [[x, y], [o, z], [o, o]],
        (True, True): [[y, z], [o, z], [o, o]],
    }
    v = opened(words)
    for (left, keep_last), answer in expected.items():
        options = {"pad_to_length": 2, "pad_left": left, "truncate_left": keep_last}
        same(v.query(lists, **options), answer)
        for keys, vectors in zip(lists, answer, strict=True):
            same(v.query(keys, **options), vectors)
        own = opened(words, **options)
        same(own.query(lists), answer)
        same(own.query(a), x)
        turned = {"pad_left": not left, "truncate_left": not keep_last}
        same(own.query(lists, **turned), expected[not left, not keep_last])
        same(own.query(lists, pad_to_length=0), np.zeros((3, 0, DIM)))
        assert own.query(lists, pad_to_length=4).shape == (3, 4, DIM)
    same(v.query([a], pad_to_length=3), [x, o, o])
    same(v.query([a], pad_to_length=3, pad_left=True), [o, o, x])
    same(v.query([], pad_to_length=2), [o, o])
    same(v.query([a, b], pad_to_length=0), np.zeros((0, DIM)))


small = st.lists(st.integers(0, 30), max_size=6)


@settings(max_examples=60)
@given(
    lists=st.lists(small, min_size=1, max_size=5),
    length=st.none() | st.integers(0, 8),
    left=st.booleans(),
    keep_last=st.booleans(),
    placeholders=st.integers(0, 2),
)
def test_any_lists_are_padded_as_numpy_does(
    opened, words, sql, lists, length, left, keep_last, placeholders
):
    v = opened(words, placeholders=placeholders)
    options = {"pad_to_length": length, "pad_left": left, "truncate_left": keep_last}
    got = v.query([[sql.keys[n] for n in numbers] for numbers in lists], **options)
    width = max(map(len, lists)) if length is None else length
    expected = []
    for numbers in lists:
        kept = numbers[::-1][:width][::-1] if keep_last else numbers[:width]
        vectors = np.reshape([sql.rows[n].normalized for n in kept], (len(kept), DIM))
        empty = width - len(kept)
        expected.append(np.pad(vectors, ((empty, 0) if left else (0, empty), (0, placeholders))))
    same(got, np.reshape(expected, (len(lists), width, DIM + placeholders)))
    v.close()


def test_queries_may_be_tuples_and_arrays(words, sql, opened):
    v = opened(words)
    a, b, c, d = sql.keys[:4]
    flat, nested = sql.vectors([a, b]), sql.vectors([a, b, c, d]).reshape(2, 2, DIM)
    same(v.query((a, b)), flat)
    same(v.query(np.array([a, b])), flat)
    same(v.query(np.array([a, b], object)), flat)
    same(v.query(np.array([[a, b], [c, d]])), nested)
    same(v.query([(a, b), [c, d]]), nested)
    same(v.query([np.array([a, b]), (c, d)]), nested)
    same(v.query(np.str_(a)), flat[0])
    same(v.query(np.array(a)), flat[0])
    assert np.str_(a) in v


def test_placeholders_are_zeros_behind(words, sql, opened):
    v = opened(words, placeholders=3)
    assert (v.dim, v.emb_dim, v.placeholders) == (DIM + 3, DIM, 3)
    keys = [*sql.keys[:2], "not there"]
    answer = v.query(keys)
    assert answer.shape == (3, DIM + 3)
    same(answer[:2, :DIM], sql.vectors(keys[:2]))
    assert np.all(answer[:, DIM:] == 0)
    assert v.query([keys, keys[:1]]).shape == (2, 3, DIM + 3)
    assert v.query([]).shape == (0, DIM + 3)
    for _, vector in [v[0], *v[:2], *v[1, 2], v.index(3), next(iter(v))]:
        assert vector.shape == (DIM + 3,)
        assert np.all(vector[DIM:] == 0)
        assert np.all(vector[:DIM] != 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, "float64", ">f4"])
def test_every_answer_has_the_type_asked_for(words, sql, opened, dtype):
    v = opened(words, dtype=dtype, placeholders=1)
    expected = np.dtype(dtype)
    known = sql.vectors(sql.keys[:2])
    for _ in range(2):  # fresh, then remembered
        same(v.query(sql.keys[:2])[:, :DIM], known, expected)
        answers = [
            v.query(sql.keys[0]),
            v.query("not there"),
            v.query(["not there"]),
            v.query(["not there", sql.keys[0]]),
            v.query([["not there", 5], [sql.keys[0]]]),
            v.query(5),
            v.query(2.5, normalized=False),
            v.query("not there", normalized=False),
            v.query(sql.keys[1], normalized=False),
            v.query([]),
            v.query([[]]),
            v.query(["not there"], pad_to_length=3),
        ]
        answers += [v[0][1], v[1, 2][0][1], v[:1][0][1], v.index(2)[1], next(iter(v))[1]]
        assert {answer.dtype for answer in answers} == {expected}


def test_lists_instead_of_arrays(words, sql, opened):
    v = opened(words, use_numpy=False)
    a, b = sql.keys[:2]
    x, y = sql.vectors([a, b]).tolist()
    assert v.query(a) == x
    assert v.query([a, b]) == [x, y]
    assert v.query([[a, b], [b]]) == [[x, y], [y, [0.0] * DIM]]
    assert v.query([]) == []
    assert v.query([[], []]) == [[], []]
    assert v.query([a], pad_to_length=2) == [x, [0.0] * DIM]
    assert v[0] == (a, x)
    assert v[:2] == v[0, 1] == v.index([0, 1]) == [(a, x), (b, y)]
    assert next(iter(v)) == (a, x)
    assert all(type(value) is float for value in v.query("not there"))


def test_answers_are_no_views_of_each_other(words, sql, opened):
    v = opened(words)
    a, b = sql.keys[:2]
    x, y = sql.vectors([a, b])
    strange = v.query("not there").copy()
    for _ in range(3):
        for query in (a, [a, b], [[a], [b, a]], [a, a], "not there", ["not there", a, 5]):
            v.query(query)[...] = 99
        for _, vector in [v[0], v.index(0), *v[0, 0, 1], *v[:2], next(iter(v))]:
            vector[:] = 99
    same(v.query([a, b]), [x, y])
    same(v.query("not there"), strange)
    same(v[0][1], x)
    rows = v[0, 0]
    rows[0][1][:] = 99
    same(rows[1][1], x)
    neighbours = v[:2]
    neighbours[0][1][:] = 99
    same(neighbours[1][1], y)


def test_the_whole_is_not_kept_alive_by_one_vector(words, opened):
    v = opened(words)
    for vector in (v.query("not there"), v[0][1], v[:100][0][1]):
        assert vector.base is None or vector.base.size <= 2 * DIM
