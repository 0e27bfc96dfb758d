"""Several objects as one, held against numpy's concatenation of what each answers."""

import pickle

import magnitude_files as mf
import numpy as np
import pytest
from serving import LoggingServer

from streamfile import ArgumentError, FeaturizerMagnitude, Magnitude

A_KEYS, B_KEYS = ["cat", "dog", "Fish"], ["dog", "bird"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("concatenation")
    mf.write_magnitude(folder / "a", A_KEYS, mf.random_vectors(3, 4, 1))
    mf.write_magnitude(folder / "b", B_KEYS, mf.random_vectors(2, 7, 2))
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with LoggingServer(folder) as running:
        yield running


@pytest.fixture(scope="module", params=["local", "streamed"])
def parts(request, folder, server):
    """Open the two files, with options for both."""
    objects = []

    def open_(**options):
        if request.param == "local":
            two = [Magnitude(folder / name, **options) for name in "ab"]
        else:
            own = {"stream": True, "stream_options": {"cache_size": 0, "connections": 2}}
            two = [Magnitude(server.url + name, **own, **options) for name in "ab"]
        objects.extend(two)
        return two

    yield open_
    for v in objects:
        v.close()


def joined(parts, queries, **options):
    """Ask each part, and put the answers behind each other."""
    answers = [v.query(q, **options) for v, q in zip(parts, queries, strict=True)]
    return np.concatenate(answers, axis=-1)


PADDINGS = [
    {},
    {"pad_to_length": 1},
    {"pad_to_length": 4, "pad_left": True},
    {"pad_to_length": 1, "truncate_left": True},
    {"normalized": False},
]

QUERIES = [
    ("dog", "dog", "dog"),
    ("no such", "no such", "no such"),
    (7, 7, 7),
    (("cat", "bird"), "cat", "bird"),
    (("cat", 2), "cat", 2),
    (["cat", "dog"], ["cat", "dog"], ["cat", "dog"]),
    ([("cat", "bird"), ("dog", "dog")], ["cat", "dog"], ["bird", "dog"]),
    (["dog", ("cat", "bird")], ["dog", "cat"], ["dog", "bird"]),
    ([["cat"], ["dog", "x"]], [["cat"], ["dog", "x"]], [["cat"], ["dog", "x"]]),
    (
        [[("cat", "bird")], [("dog", "dog"), "x"]],
        [["cat"], ["dog", "x"]],
        [["bird"], ["dog", "x"]],
    ),
    (np.array(["cat", "dog"]), ["cat", "dog"], ["cat", "dog"]),
    (range(3), range(3), range(3)),
    ([], [], []),
    ([[]], [[]], [[]]),
    ([[], ["dog"]], [[], ["dog"]], [[], ["dog"]]),
]


@pytest.mark.parametrize("options", PADDINGS, ids=str)
@pytest.mark.parametrize(("q", "for_a", "for_b"), QUERIES, ids=lambda q: repr(q)[:30])
def test_answers_are_those_of_the_parts_side_by_side(parts, q, for_a, for_b, options):
    a, b = parts()
    v = Magnitude(a, b)
    assert isinstance(v, Magnitude)
    assert v.dim == v.emb_dim == 11
    got = v.query(q, **options)
    expected = joined((a, b), (for_a, for_b), **options)
    np.testing.assert_array_equal(got, expected, strict=True)
    assert got.dtype == np.float32


def test_options_of_the_parts_hold_for_the_whole(parts):
    options = {"pad_to_length": 3, "pad_left": True, "truncate_left": True, "placeholders": 2}
    a, b = parts(**options)
    v = Magnitude(a, b)
    assert (v.dim, v.placeholders, v.pad_to_length, v.pad_left) == (15, 0, 3, True)
    got = v.query([["cat", "dog"]])
    np.testing.assert_array_equal(got, joined((a, b), ([["cat", "dog"]],) * 2))
    assert got.shape == (1, 3, 15)
    assert not got[0, 0].any()


def test_types(parts):
    a, b = parts()
    (wide, _) = parts(dtype=np.float64)
    assert Magnitude(a, b).dtype == np.float32
    v = Magnitude(wide, b)
    assert v.dtype == v.query("dog").dtype == np.float64
    a, b = parts(use_numpy=False)
    v = Magnitude(a, b)
    assert v.query("dog") == a.query("dog") + b.query("dog")
    assert v.query([]) == []


def test_words_with_features(parts):
    a, _ = parts()
    tags, relations = FeaturizerMagnitude(100, "PartsOfSpeech"), FeaturizerMagnitude(100, "Deps")
    v = Magnitude(a, tags, relations)
    assert v.dim == 4 + 4 + 4
    q = [("cat", "NN", "nsubj"), ("sits", "VBZ", "root")]
    expected = joined((a, tags, relations), zip(*q, strict=True))
    np.testing.assert_array_equal(v.query(q), expected)
    assert ("cat", "NN", "nsubj") in v
    assert ("sits", "VBZ", "root") not in v


def test_a_concatenation_is_a_part_too(parts):
    a, b = parts()
    tags = FeaturizerMagnitude(100)
    v = Magnitude(Magnitude(a, b), tags)
    assert v.dim == 15
    expected = joined((a, b, tags), ("cat", "bird", "NN"))
    np.testing.assert_array_equal(v.query((("cat", "bird"), "NN")), expected)
    np.testing.assert_array_equal(v.query([("dog", "NN")])[0, :11], Magnitude(a, b).query("dog"))


def test_whether_a_key_is_in_it(parts):
    a, b = parts()
    v = Magnitude(a, b)
    assert "dog" in v
    assert "cat" not in v
    assert ("cat", "bird") in v
    assert ("bird", "cat") not in v
    assert ("dog", "dog", "dog") not in v
    assert 7 not in v
    assert ["dog"] not in v
    assert "dog" not in Magnitude(FeaturizerMagnitude(9), FeaturizerMagnitude(9))


def test_counters_are_sums(folder, server):
    options = {"stream": True, "stream_options": {"cache_size": 0, "connections": 2}}
    with (
        Magnitude(server.url + "a", **options) as a,
        Magnitude(server.url + "b", **options) as b,
        Magnitude(folder / "a") as local,
    ):
        v = Magnitude(a, b, local, a)
        stats = v.stats
        assert stats.requests == a.stats.requests + b.stats.requests >= 2
        with v.stats.measure() as used:
            a.stats.add(requests=5, bytes=7)
        assert (used.requests, used.bytes) == (5, 7)
        assert stats.requests == a.stats.requests + b.stats.requests


def test_closing_it_closes_its_parts(parts):
    closed = []
    a, b = parts()
    for v in (a, b):
        v.close = lambda v=v: closed.append(v)
    with Magnitude(a, b) as whole:
        assert whole.parts == (a, b)
    assert closed == [a, b]


def test_it_can_be_pickled(parts):
    a, b = parts(placeholders=1)
    v = Magnitude(a, FeaturizerMagnitude(100, "x"), b)
    with pickle.loads(pickle.dumps(v)) as copy:
        assert isinstance(copy, type(v))
        np.testing.assert_array_equal(copy.query("dog"), v.query("dog"))


@pytest.mark.parametrize(
    "ask",
    [
        len,
        list,
        lambda v: v[0],
        lambda v: v[0:2],
        lambda v: v.index([0]),
        lambda v: v.budget,
    ],
)
def test_what_only_a_part_can_answer(parts, ask):
    v = Magnitude(*parts())
    assert v
    with pytest.raises(AttributeError, match=r"concatenation has no file.*v\.parts\[0\]"):
        ask(v)


def test_what_cannot_be_concatenated(parts, folder):
    a, b = parts()
    with pytest.raises(ArgumentError, match="two or more"):
        Magnitude(a)
    with pytest.raises(ArgumentError, match="two or more"):
        Magnitude(a, "b")
    with pytest.raises(ArgumentError, match=r"Magnitude\(a, b\)"):
        Magnitude(folder / "a", b)
    with pytest.raises(TypeError, match="stream"):
        Magnitude(a, b, stream=True)
    for name, value in [("use_numpy", False), ("pad_to_length", 2), ("pad_left", True)]:
        _, other = parts(**{name: value})
        with pytest.raises(ArgumentError, match=f"different {name}"):
            Magnitude(a, other)


def test_tuples_of_another_length(parts):
    v = Magnitude(*parts())
    for q in [("dog",), [("dog", "dog", "dog")], [["dog", ()]]]:
        with pytest.raises(ArgumentError, match="concatenation of 2"):
            v.query(q)
    with pytest.raises(ArgumentError, match="key"):
        v.query(None)


def test_round_trips_of_streamed_parts_overlap(tmp_path):
    keys = mf.random_words(3000, 1)
    for seed, name in enumerate("ab"):
        mf.write_magnitude(tmp_path / name, keys, mf.random_vectors(3000, 20, seed))
    own = {"stream": True, "stream_options": {"cache_size": 0}}
    with LoggingServer(tmp_path, latency=0.2) as server:
        a, b = (Magnitude(server.url + name, **own) for name in "ab")
        opened = a.stats.requests + b.stats.requests
        server.requests(opened)
        with Magnitude(a, b) as v:
            answer = v.query(keys[1000:1003])
            np.testing.assert_array_equal(
                answer, np.hstack([a.query(keys[1000:1003]), b.query(keys[1000:1003])])
            )
            log = server.requests(v.stats.requests)[opened:]
            with pytest.raises(ArgumentError, match="no key"):
                v.query([None])
    arrived, ended = {}, {}
    for record in log:
        arrived[record.path] = min(record.arrived, arrived.get(record.path, np.inf))
        ended[record.path] = min(record.ended, ended.get(record.path, np.inf))
    assert arrived["/a"] < ended["/b"]
    assert arrived["/b"] < ended["/a"]
