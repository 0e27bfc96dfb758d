"""Approximate neighbours, held against Annoy itself, and index files that nobody should believe."""

import math
import os
import pickle
import sys

import apsw
import lz4.frame
import magnitude_files as mf
import needed
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import LoggingServer

import streamfile
from streamfile import ArgumentError, FormatError, Magnitude, NoIndexError
from streamfile.search.annoy_index import Annoy, IndexFile, open_index

DIM = 6
TREES = 4
ALL = 10**6
DUPLICATES = ["the", "The", "cat", "the", "dog", "THE", "É", "é", "cat", "", "dog", "zoo"]


@pytest.fixture(scope="session")
def annoy():
    return needed.module("annoy", "-e '.[annoy]'")


@pytest.fixture(scope="session")
def build(annoy, tmp_path_factory):
    """Give an index of vectors, and its file."""
    folder = tmp_path_factory.mktemp("indexes")

    def build_(vectors, trees=TREES, seed=1, places=None):
        index = annoy.AnnoyIndex(vectors.shape[1], "angular")
        index.set_seed(seed)
        for place, vector in zip(places or range(len(vectors)), vectors, strict=True):
            index.add_item(place, vector.tolist())
        index.build(trees, 1)
        path = folder / f"{len(list(folder.iterdir()))}.ann"
        index.save(str(path))
        return index, path

    return build_


def normal(n, dim, seed):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def squares(vectors, direction):
    """Compute squared distances of unit vectors in float64."""
    vectors, direction = vectors.astype(np.float64), direction.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(direction)
    return 2 - 2 * np.divide(vectors @ direction, lengths, out=0 * lengths, where=lengths > 0)


def assert_as_annoy(index, file, vectors, direction, n, search_k):
    """Compare answers, whose items may change places within the rounding of float32."""
    items, distances = file.search(direction, n, search_k)
    theirs, their_distances = index.get_nns_by_vector(
        direction.tolist(), n, search_k, include_distances=True
    )
    assert len(items) == len(set(items.tolist())) == len(theirs)
    np.testing.assert_allclose(distances**2, np.square(their_distances), atol=2e-6)
    exact = squares(vectors, direction)
    np.testing.assert_allclose(exact[items], exact[np.array(theirs, int)], atol=2e-6)


@pytest.mark.parametrize("trees", [1, 10, 50])
@pytest.mark.parametrize(
    ("dim", "n"),
    [(dim, n) for dim in (3, 50, 300) for n in (1, 2, dim + 1, dim + 2, dim + 3, 700)]
    + [(3, 5000), (50, 5000)],
)
def test_a_search_finds_what_annoy_finds(build, dim, n, trees):
    vectors = normal(n, dim, n)
    index, path = build(vectors, trees)
    file = IndexFile(path, dim, n, "x")
    file.check()
    for direction in [*normal(3, dim, 5), vectors[0]]:
        for search_k in (0, 1, 20, 500, n * trees):
            for topn in (0, 1, 10, n + 1):
                assert_as_annoy(index, file, vectors, direction, topn, search_k)


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 120), st.integers(1, 6), st.data()
)
@settings(deadline=None)
def test_any_small_index_is_searched_as_annoy_does(build, seed, dim, n, trees, data):
    vectors = normal(n, dim, seed)
    index, path = build(vectors, trees, seed % 1000 + 1)
    file = IndexFile(path, dim, n, "x")
    file.check()
    search_k = data.draw(st.integers(0, n * trees))
    assert_as_annoy(index, file, vectors, normal(1, dim, seed + 1)[0], n, search_k)
    path.unlink()


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 80), st.integers(1, 3))
@settings(deadline=None)
def test_equal_and_zero_vectors_come_in_the_order_of_the_file(build, seed, dim, n, trees):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, (n, dim)).astype(np.float32)
    index, path = build(vectors, trees, seed % 1000 + 1)
    file = IndexFile(path, dim, n, "x")
    file.check()
    direction = rng.integers(-1, 2, dim).astype(np.float32)
    items, _ = file.search(direction, n, ALL)
    assert items.tolist() == np.lexsort((range(n), squares(vectors, direction).round(6))).tolist()
    assert_as_annoy(index, file, vectors, direction, n, ALL)
    path.unlink()


def test_an_index_of_nothing_and_one_with_gaps(build):
    index, path = build(normal(0, 3, 0))
    file = IndexFile(path, 3, 0, "x")
    file.check()
    assert file.search(np.ones(3), 5, 50)[0].tolist() == []
    vectors, places = normal(30, 3, 1), list(range(5, 65, 2))
    index, path = build(vectors, TREES, 1, places)
    found, _ = IndexFile(path, 3, 64, "x").search(vectors[4], 64, ALL)
    assert found.tolist() == index.get_nns_by_vector(vectors[4].tolist(), 64, ALL)
    assert sorted(found.tolist()) == places
    index, path = build(vectors[:2], TREES, 1, [1, 3])  # its lists are filled up with item 0
    found, _ = IndexFile(path, 3, 4, "x").search(vectors[0], 4, ALL)
    assert found.tolist() == index.get_nns_by_vector(vectors[0].tolist(), 4, ALL) == [1, 3]


def test_annoy_itself_searches_where_it_is_installed(build, monkeypatch):
    vectors = normal(200, 5, 2)
    _, path = build(vectors)
    real = open_index(path, 5, 200, "x")
    assert isinstance(real, Annoy)
    monkeypatch.setitem(sys.modules, "annoy", None)
    ours = open_index(path, 5, 200, "x")
    assert isinstance(ours, IndexFile)
    for index in (real, ours):
        items, distances = index.search(vectors[7], 5, 100)
        assert items.dtype == np.int64
        assert distances.dtype == np.float32
        assert items[0] == 7
    np.testing.assert_array_equal(items, real.search(vectors[7], 5, 100)[0])


# An index of ten items, two dimensions, and one tree, by hand: node 13 is the root, 14 its copy.
LISTS = {10: [0, 1, 2, 3], 11: [4, 5, 6, 7], 13: [8, 9]}


def by_hand():
    """Give nodes as numbers: how many items, two children or a list, and a vector."""
    nodes = np.zeros((16, 5), np.int32)
    vectors = nodes.view(np.float32)[:, 3:]
    nodes[:10, 0] = 1
    vectors[:10] = normal(10, 2, 3)
    for node, items in LISTS.items():
        nodes[node, 0] = len(items)
        nodes[node, 1 : 1 + len(items)] = items
    nodes[12, :3] = 8, 10, 11
    nodes[14, :3] = 10, 12, 13
    vectors[12], vectors[14] = (1, 0), (0, 1)
    nodes[15] = nodes[14]
    return nodes


def write(path, nodes):
    path.write_bytes(nodes.tobytes())
    return path


def test_an_index_made_by_hand_is_searched(tmp_path):
    nodes = by_hand()
    vectors = nodes.view(np.float32)[:10, 3:]
    file = IndexFile(write(tmp_path / "a", nodes), 2, 10, "x")
    file.check()
    direction = np.array([-0.9, 2], np.float32)  # margins: 13 has 2, 10 has 0.9 less
    assert sorted(file.search(direction, 10, 2)[0]) == [8, 9]
    direction = np.array([0.5, -2], np.float32)
    assert sorted(file.search(direction, 10, 3)[0]) == [4, 5, 6, 7]
    exact = np.argsort(squares(vectors, direction)).tolist()
    assert file.search(direction, 10, ALL)[0].tolist() == exact


SMALL, WHOLE = "a search", "the whole file"
CHANGES = {
    "a child below 0": (14, 1, -1, "before its children", (SMALL, WHOLE)),
    "a child behind the end": (15, 2, 16, "before its children", (SMALL, WHOLE)),
    "a child far behind the end": (15, 2, 2**31 - 1, "before its children", (SMALL, WHOLE)),
    "its own child": (15, 1, 15, "before its children", (SMALL, WHOLE)),
    "a cycle": (12, 1, 15, "before its children", (SMALL, WHOLE)),
    "a negative number of items": (11, 0, -1, "negative number", (SMALL, WHOLE)),
    "the least number of items": (11, 0, -(2**31), "negative number", (SMALL, WHOLE)),
    "an item below 0": (13, 1, -1, "does not have", (SMALL, WHOLE)),
    "an item that is none": (13, 2, 10, "does not have", (SMALL, WHOLE)),
    "too large a part": (12, 0, 9, "fewer items than its children", (WHOLE,)),
    "a part of no items": (13, 0, 0, "fewer items than its children", (WHOLE,)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_number_in_an_index_is_refused(tmp_path, change):
    row, column, value, message, where = CHANGES[change]
    nodes = by_hand()
    nodes[row, column] = value
    file = IndexFile(write(tmp_path / "a", nodes), 2, 10, "the name")
    if SMALL in where:
        with pytest.raises(FormatError, match=f"the name: malformed: .*{message}"):
            file.search(np.ones(2), 10, ALL)
    if WHOLE in where:
        with pytest.raises(FormatError, match=f"the name: malformed: .*{message}"):
            file.check()


@pytest.mark.parametrize("size", [0, 1, 19, 16 * 20 - 1, 16 * 20 + 4])
def test_an_index_of_a_wrong_length_is_refused(tmp_path, size):
    (tmp_path / "a").write_bytes((by_hand().tobytes() * 2)[:size])
    with pytest.raises(FormatError, match="no multiple of 20"):
        IndexFile(tmp_path / "a", 2, 10, "x")


def test_an_index_of_other_vectors_is_refused(tmp_path):
    path = write(tmp_path / "a", by_hand())
    with pytest.raises(FormatError, match="10 items for the 11 vectors"):
        IndexFile(path, 2, 11, "x")
    short = write(tmp_path / "b", by_hand()[-5:])
    with pytest.raises(FormatError, match="10 items for the 10 vectors"):
        IndexFile(short, 2, 10, "x")


def forest(items, splits, children):
    """Give nodes of which each but the items has children, the last one being a root."""
    nodes = np.zeros((items + splits, 4), np.int32)
    nodes[:items, 0] = 1
    nodes[items:, 0] = items - 1
    nodes[-1, 0] = items
    for number in range(splits):
        nodes[items + number, 1:3] = children(number)
    return nodes


def test_nodes_with_many_parents_and_deep_trees_end(tmp_path):
    both = forest(10, 60, lambda number: (0, 1) if not number else (9 + number, 9 + number))
    nothing = both.copy()
    nothing[10, 0] = 0  # 2**59 ways to a node without items
    chain = forest(10, 30_000, lambda number: (number % 10, 9 + number))
    for name, nodes in {"both": both, "nothing": nothing, "chain": chain}.items():
        file = IndexFile(write(tmp_path / name, nodes), 1, 10, "x")
        with pytest.raises(FormatError, match="no trees, or trees that are too deep"):
            file.search(np.ones(1), 10, 2**31 - 1)
        with pytest.raises(FormatError, match="fewer items than its children"):
            file.check()
    roots = forest(10, 30_000, lambda number: (9, 9) if number < 100 else (9 + number % 100, 9))
    roots[:, 0] = np.where(np.arange(len(roots)) < 10, 1, 10)
    file = IndexFile(write(tmp_path / "roots", roots), 1, 10, "x")
    with pytest.raises(FormatError, match="30000 trees in 30010 nodes"):
        file.check()
    with pytest.raises(FormatError, match="no trees"):
        file.search(np.ones(1), 10, 2**31 - 1)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 15),
            st.integers(0, 4),
            st.integers(-3, 20) | st.integers(-(2**31), 2**31 - 1) | st.just(0x7F800000),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(deadline=None)
def test_a_damaged_index_gives_items_or_an_error(tmp_path_factory, changes):
    nodes = by_hand()
    for row, column, value in changes:
        nodes[row, column] = value
    path = write(tmp_path_factory.getbasetemp() / "damaged", nodes)
    for search_k in (1, ALL):
        try:
            items, distances = IndexFile(path, 2, 10, "x").search(np.ones(2), 10, search_k)
        except FormatError:
            continue
        assert set(items.tolist()) <= set(range(10))
        assert ((distances >= 0) & (distances <= 2.001)).all()


# The rest is about Magnitude.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("approximate")


@pytest.fixture(scope="module")
def server(folder):
    with LoggingServer(folder) as running:
        yield running


@pytest.fixture(params=["numpy", "annoy"])
def backend(request, monkeypatch, tmp_path):
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(tmp_path / "cache"))
    if request.param == "numpy":
        monkeypatch.setitem(sys.modules, "annoy", None)
    return request.param


@pytest.fixture(params=["local", "streamed"])
def opened(request, server, backend):
    """Open a file of the folder: on the disk, on the server."""
    objects = []

    def open_(path, **options):
        if request.param == "local":
            objects.append(Magnitude(path, **options))
        else:
            objects.append(Magnitude(server.url + path.name, stream=True, **options))
        return objects[-1]

    yield open_
    for v in objects:
        v.close()


def write_approx(path, keys, vectors, build, trees=TREES, index=None):
    """Write a file with an index, or with these bytes for one."""
    mf.write_magnitude(path, keys, vectors)
    ints, _ = mf.quantize(vectors, 7)
    built = None
    if index is None:
        built, file = build((ints / 1e7).astype(np.float32), trees)
        index = file.read_bytes()
    frame = lz4.frame.compress(index)
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE magnitude_approx (trees INTEGER, index_file BLOB)")
    for piece in (frame[: len(frame) // 2], frame[len(frame) // 2 :]):
        connection.execute("INSERT INTO magnitude_approx VALUES (?, ?)", (trees, piece))
    for key, value in (("approx", 1), ("approx_trees", trees)):
        connection.execute("UPDATE magnitude_format SET value = ? WHERE key = ?", (value, key))
    connection.close()
    return built


class Words:
    """A file of a thousand words, with the index that is in it."""

    def __init__(self, folder, build):
        self.path = folder / "words"
        self.keys = list(dict.fromkeys(mf.random_words(1000, 2)))
        self.vectors = mf.random_vectors(len(self.keys), DIM, 2)
        self.index = write_approx(self.path, self.keys, self.vectors, build)
        folded = [key.lower() for key in self.keys]
        self.most_duplicates = max(map(folded.count, folded))

    def expected(self, direction, excluded, topn=10, effort=1.0):
        """Give what Annoy finds."""
        n = self.most_duplicates * (topn + len(excluded))
        search_k = int(effort * n * TREES)
        items, distances = self.index.get_nns_by_vector(
            direction.tolist(), n, search_k, include_distances=True
        )
        found = [(self.keys[i], 1 - d * d / 2) for i, d in zip(items, distances, strict=True)]
        return [pair for pair in found if pair[0] not in excluded][:topn]


@pytest.fixture(scope="module")
def words(folder, build):
    return Words(folder, build)


def same(found, expected):
    assert [key for key, _ in found] == [key for key, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=2e-6)


def test_the_answers_are_those_of_annoy(opened, words):
    v = opened(words.path)
    a, b, c = words.keys[3], words.keys[50], words.keys[700]
    for topn in (1, 10, 40):
        same(v.most_similar_approx(a, topn=topn), words.expected(v.query(a), {a}, topn))
    assert len(words.expected(v.query(a), {a}, 200, 0.05)) < 200
    for effort in (0.05, 0.5, 1, 7.5):
        expected = words.expected(v.query(a), {a}, 200, min(effort, 1))
        same(v.most_similar_approx([a], topn=200, effort=effort), expected)
        answer = v.most_similar_approx(a, [], 200, 0.9, return_similarities=False, effort=effort)
        assert answer == [key for key, _ in expected]
    raw = np.arange(1.0, 1 + DIM)
    goal = v.query(a) + raw - v.query(b) - v.query(c)
    same(v.most_similar_approx([a, raw], [b, c]), words.expected(goal, {a, b, c}))
    same(v.most_similar_approx(raw.tolist()), words.expected(raw, set()))


def test_nothing_to_look_for_finds_nothing(opened, words):
    v = opened(words.path)
    assert v.most_similar_approx([]) == []
    assert v.most_similar_approx(words.keys[0], topn=0) == []
    assert v.most_similar_approx(words.keys[0], effort=0) == []
    assert v.most_similar_approx(words.keys[0], effort=-1) == []


def test_all_answers_are_those_of_the_exact_search(opened, words):
    v = opened(words.path, placeholders=2)
    features = np.arange(1.0, 3 + DIM)
    for given_ in (words.keys[9], [words.keys[9], words.keys[2]], features):
        exact = v.most_similar(given_, topn=None)
        for topn in (None, 5000):
            found = v.most_similar_approx(given_, topn=topn)
            assert len(found) == len(exact)
            assert dict(found) == pytest.approx(dict(exact), abs=2e-6)
            scores = [score for _, score in found]
            assert scores == sorted(scores, reverse=True)


def test_keys_given_and_repeats_of_a_key_are_left_out(opened, folder, build):
    vectors = mf.random_vectors(len(DUPLICATES), DIM, 5)
    write_approx(folder / "duplicates", DUPLICATES, vectors, build)
    v = opened(folder / "duplicates")
    assert sorted(v.most_similar_approx("the", topn=None, return_similarities=False)) == sorted(
        {*DUPLICATES} - {"the"}
    )
    assert len(v.most_similar_approx(["cat", "dog"], topn=6)) == 6
    assert dict(v.most_similar_approx("cat", topn=None)) == pytest.approx(
        dict(v.most_similar("cat", topn=None)), abs=2e-6
    )
    folding = opened(folder / "duplicates", case_insensitive=True)
    found = folding.most_similar_approx("tHE", topn=None, return_similarities=False)
    assert sorted(key.lower() for key in found) == ["", "cat", "dog", "zoo", "é"]


def test_a_file_without_an_index_says_how_to_make_one(opened, folder):
    mf.write_magnitude(folder / "light", ["a", "b"], mf.random_vectors(2, DIM, 1))
    v = opened(folder / "light")
    with pytest.raises(NoIndexError, match="-a") as caught:
        v.most_similar_approx("a")
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value, streamfile.StreamfileError)


def test_arguments_that_cannot_be_are_refused(opened, words):
    v = opened(words.path)
    with pytest.raises(ArgumentError, match="topn=-1"):
        v.most_similar_approx(words.keys[0], topn=-1)
    with pytest.raises(ArgumentError, match="expected 6 finite numbers"):
        v.most_similar_approx([math.nan] * DIM)
    with pytest.raises(ArgumentError, match="expected 6 finite numbers"):
        v.most_similar_approx(np.ones(DIM + 1))


def test_an_index_of_something_else_is_refused(opened, folder):
    vectors = mf.random_vectors(10, 2, 1)
    for name, change in {"cycle": (15, 1, 15), "less": (15, 0, 9)}.items():
        nodes = by_hand()
        nodes[change[:2]] = change[2]
        write_approx(folder / name, list("abcdefghij"), vectors, None, 1, nodes.tobytes())
        v = opened(folder / name)
        for _ in range(2):
            with pytest.raises(FormatError, match=f"{name}: malformed: an approximate index"):
                v.most_similar_approx("a")
        assert v.most_similar("a")


def test_a_fork_a_pickle_and_a_closed_object(opened, words):
    v = opened(words.path)
    expected = v.most_similar_approx(words.keys[0])
    child = os.fork()
    if not child:
        os._exit(0 if v.most_similar_approx(words.keys[0]) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
    with pickle.loads(pickle.dumps(v)) as copy:
        assert copy.most_similar_approx(words.keys[0]) == expected
    assert v.most_similar_approx(words.keys[0]) == expected


def test_the_index_is_fetched_once(server, words, backend):
    connection = apsw.Connection(str(words.path))
    size = connection.execute("SELECT sum(length(index_file)) FROM magnitude_approx").get
    connection.close()
    costs = []
    for _ in range(2):
        with Magnitude(server.url + words.path.name, stream=True) as v:
            found = v.most_similar_approx(words.keys[0])
            costs.append((v.stats.requests, v.stats.bytes))
    with Magnitude(words.path) as local:
        assert local.most_similar_approx(words.keys[0]) == found
    assert costs[0][1] > size
    assert costs[1] == (1, 4096)  # whether the file is still the same
