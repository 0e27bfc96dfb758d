"""The public class: rows by their places, arguments, and what becomes of the object."""

import itertools
import pickle

import magnitude_files as mf
import numpy as np
import pytest
from sql_rows import DIM, same

import vfs
from streamfile import ArgumentError, Magnitude, PathError, StreamfileError

# Places


def test_rows_by_place(words, sql, opened):
    v = opened(words)
    for place in [0, 1, 749, 1499, -1, -2, -1500, np.int64(7), True]:
        key, vector = v[place]
        assert key == sql.keys[int(place)]
        same(vector, sql.rows[int(place)].normalized)
        assert v.index(place, return_vector=False) == key
        again = v.index(place)
        assert again[0] == key
        same(again[1], vector)


@pytest.mark.parametrize(
    "places",
    [
        slice(None, 5),
        slice(2, 9, 3),
        slice(-4, None),
        slice(None, None, -1),
        slice(9, 2, -2),
        slice(1490, 9999),
        slice(5, 5),
        slice(5, 2),
    ],
    ids=str,
)
def test_slices_are_those_of_a_list(words, sql, opened, places):
    got = opened(words)[places]
    expected = sql.rows[places]
    assert [key for key, _ in got] == [row.key for row in expected]
    for (_, vector), row in zip(got, expected, strict=True):
        same(vector, row.normalized)


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_several_places(words, sql, opened, kind):
    v = opened(words)
    places = [5, 3, -1, 5, 0]
    expected = [sql.rows[place] for place in places]
    for got in (v[kind(places)], v.index(kind(places))):
        assert [key for key, _ in got] == [row.key for row in expected]
        for (_, vector), row in zip(got, expected, strict=True):
            same(vector, row.normalized)
    assert v.index(kind(places), return_vector=False) == [row.key for row in expected]
    assert [key for key, _ in v[5, 3, -1]] == [row.key for row in expected[:3]]
    assert v.index([]) == v[[]] == v.index(range(0)) == []
    assert v.index(range(3), return_vector=False) == sql.keys[:3]


@pytest.mark.parametrize("place", [1500, -1501, 10**30, [0, 1500], (0, -1501), np.array([9999])])
def test_places_outside_of_the_file(words, opened, place):
    v = opened(words)
    with pytest.raises(IndexError, match="1500 vectors"):
        v[place]
    with pytest.raises(IndexError, match="1500 vectors"):
        v.index(place, return_vector=False)


@pytest.mark.parametrize("place", ["a", 1.0, None, [0.5], ["a"], b"a"])
def test_what_is_no_place(words, opened, place):
    with pytest.raises(TypeError):
        opened(words)[place]


def test_iteration_is_in_the_order_of_the_file(folder, opened):
    """Also beyond the rows that are read at once."""
    keys = [str(n) for n in range(4500)]
    path = folder / "many"
    if not path.exists():
        mf.write_magnitude(path, keys, mf.random_vectors(4500, 2, 7))
    v = opened(path)
    got = list(v)
    assert [key for key, _ in got] == keys
    np.testing.assert_array_equal([vector for _, vector in got], v.query(keys))
    assert [key for key, _ in itertools.islice(v, 3)] == keys[:3]
    first, second = iter(v), iter(v)
    next(first)
    assert next(first)[0] == "1"
    assert next(second)[0] == "0"


# Objects


def test_an_object_can_be_pickled(words, sql, opened):
    options = {"placeholders": 2, "normalized": False, "dtype": np.float64, "use_numpy": False}
    v = opened(words, **options)
    v.query(sql.keys[0])
    copy = pickle.loads(pickle.dumps(v))
    assert copy.query(sql.keys[:3]) == v.query(sql.keys[:3])
    assert (copy.dim, copy.normalized, len(copy), copy.path) == (DIM + 2, False, 1500, v.path)
    v.close()
    assert copy[3] == (sql.keys[3], copy.query(sql.keys[3]))
    copy.close()


def test_a_with_block_closes_the_file(words, sql, server):
    for path, options in [
        (words, {}),
        (server.url + words.name, {"stream": True, "stream_options": {"cache_size": 0}}),
    ]:
        with Magnitude(path, **options) as v:
            same(v.query(sql.keys[0]), sql.rows[0].normalized)
            assert v.path == str(path)
            assert "words" in repr(v)
        v.close()  # once more is no harm


def test_a_local_file_uses_no_network(words, sql):
    with Magnitude(str(words)) as v:
        v.query(sql.keys[:100])
        list(itertools.islice(v, 10))
        assert (v.stats.requests, v.stats.bytes, v.stats.waves) == (0, 0, 0)


# Arguments


@pytest.mark.parametrize(
    ("options", "error", "words_"),
    [
        ({"lazy_loading": -2}, ArgumentError, r"lazy_loading=-2.*-1 or more"),
        ({"placeholders": -1}, ArgumentError, r"placeholders=-1.*0 or more"),
        ({"pad_to_length": -1}, ArgumentError, r"pad_to_length=-1.*0 or more"),
        ({"dtype": int}, ArgumentError, r"dtype.*int.*float32"),
        ({"dtype": np.complex64}, ArgumentError, r"dtype.*complex64.*float32"),
        ({"dtype": "U5"}, ArgumentError, r"dtype.*U5.*float32"),
        ({"dtype": "nonsense"}, TypeError, "nonsense"),
        ({"lazy_loading": "all"}, TypeError, "str"),
        ({"pad_to_length": "3"}, TypeError, "str"),
        ({"eager_beaver": True}, TypeError, "eager_beaver"),
    ],
)
def test_arguments_that_cannot_be(words, opened, options, error, words_):
    with pytest.raises(error, match=words_):
        opened(words, **options)


def test_paths_that_cannot_be(words, tmp_path):
    with pytest.raises(PathError, match=r"no-such.*no such file.*stream=True") as caught:
        Magnitude(tmp_path / "no-such")
    assert isinstance(caught.value, (StreamfileError, FileNotFoundError))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        Magnitude(tmp_path)
    with pytest.raises(ArgumentError, match=r"stream_options.*stream=True"):
        Magnitude(words, stream_options={"max_bytes": 5})
    with pytest.raises(vfs.OptionError, match=r"no URL.*http://.*https://"):
        Magnitude(words, stream=True)
    for path in (None, 5, ["a"]):
        with pytest.raises(TypeError):
            Magnitude(path)


@pytest.mark.parametrize(
    "query",
    [
        None,
        b"bytes",
        1j,
        {"a": 1},
        {"a"},
        object(),
        ["a", None],
        ["a", ["b"]],
        [["a"], "b"],
        [["a", ["b"]]],
        [[["a"]]],
        (c for c in "ab"),
        slice(3),
        10**400,
        [["a", 10**400]],
    ],
    ids=lambda query: repr(query)[:20],
)
def test_what_is_no_key(words, opened, query):
    v = opened(words)
    with pytest.raises(ArgumentError, match="key"):
        v.query(query)
    assert v.query("not there").shape == (DIM,)


def test_a_query_with_a_length_that_cannot_be(words, opened):
    with pytest.raises(ArgumentError, match="pad_to_length=-2"):
        opened(words).query(["a"], pad_to_length=-2)
    with pytest.raises(TypeError):
        opened(words).query(["a"], pad_to_length="2")
    with pytest.raises(TypeError):
        opened(words).query(["a"], 2)


def test_arguments_of_the_original_that_mean_nothing_here(words):
    legacy = {"supress_warnings": True, "batch_size": 10, "eager": False, "temp_dir": "/nowhere"}
    with Magnitude(words, **legacy) as v:
        assert len(v)
    with pytest.raises(TypeError, match="no argument 'eagre', 'normalised'"):
        Magnitude(words, eagre=True, normalised=True)
