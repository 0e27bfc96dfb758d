"""Rankings and distances, local and streamed, held against float64 numpy on the vectors."""

import os
import pickle
import signal
import subprocess
import sys
import time

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from serving import LoggingServer

import vfs
from streamfile import ArgumentError, FormatError, Magnitude
from streamfile.search import matrix, scan
from vfs.btree.pages import LocalPages
from vfs.btree.table import Table
from vfs.btree.walk import run

DIM = 6
SIZES = {"plain": (1500, DIM, 1024), "wide": (40, 1536, 4096), "big": (20_000, 48, 4096)}
DUPLICATES = ["the", "The", "cat", "the", "dog", "THE", "É", "é", "cat", "", "dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("similarity")


@pytest.fixture(scope="module")
def server(folder):
    with LoggingServer(folder) as running:
        yield running


@pytest.fixture(params=["local", "streamed", "not kept"])
def opened(request, server, monkeypatch):
    """Open a file of the folder: on the disk, on the server, with too little memory for it."""
    objects = []
    if request.param == "not kept":
        monkeypatch.setattr(matrix, "MOST_IN_MEMORY", 100)
    monkeypatch.setattr(scan, "BATCH", 32 << 10)

    def open_(path, **options):
        if request.param == "local":
            v = Magnitude(path, **options)
        else:
            streaming = {"stream": True, "stream_options": {"cache_size": 0, "connections": 8}}
            v = Magnitude(server.url + path.name, **(streaming | options))
        objects.append(v)
        return v

    yield open_
    for v in objects:
        v.close()


@pytest.fixture(scope="module", params=list(SIZES))
def any_file(request, folder):
    return _written(folder, request.param)


@pytest.fixture(scope="module")
def plain(folder):
    return _written(folder, "plain")


@pytest.fixture(scope="module")
def big(folder):
    return _written(folder, "big")


@pytest.fixture(scope="module")
def duplicates(folder):
    vectors = mf.random_vectors(len(DUPLICATES), DIM, 5)
    return mf.write_magnitude(folder / "duplicates", DUPLICATES, vectors, page_size=512)


def _written(folder, name):
    path = folder / name
    if not path.exists():
        count, dim, page_size = SIZES[name]
        keys, vectors = mf.random_words(count, 2), mf.random_vectors(count, dim, 2)
        mf.write_magnitude(path, keys, vectors, page_size=page_size)
    return path


class Reference:
    """The stored unit vectors of a file in float64."""

    def __init__(self, path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        rows = connection.execute("SELECT * FROM magnitude ORDER BY rowid").fetchall()
        connection.close()
        self.keys = [row[0] for row in rows]
        vectors = np.array([row[1:-1] for row in rows], np.float64)
        self.lengths = np.array([row[-1] for row in rows], np.float64)
        self.units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.at = {key: place for place, key in reversed(list(enumerate(self.keys)))}

    def unit(self, key):
        return self.units[self.at[key]]

    def ranked(self, scores, excluded=()):
        order = np.argsort(-scores, kind="stable")
        return [(self.keys[i], scores[i]) for i in order if self.keys[i] not in excluded]


def same(found, expected):
    """Compare rankings, in which keys may change places within the rounding of float32."""
    scores = dict(expected)
    assert set(scores) == {key for key, _ in found}
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-6)
    np.testing.assert_allclose([s for _, s in found], [scores[k] for k, _ in found], atol=1e-6)


def test_a_key_is_ranked_by_cosine(opened, any_file):
    v, truth = opened(any_file), Reference(any_file)
    for key in truth.keys[:: len(truth.keys) // 7]:
        expected = truth.ranked(truth.units @ truth.unit(key), {key})
        same(v.most_similar(key), expected[:10])
        same(v.most_similar([key], topn=25), expected[:25])
        assert v.most_similar(key, topn=3, return_similarities=False) == [
            other for other, _ in expected[:3]
        ]
        above = [pair for pair in expected if pair[1] >= 0.3]
        same(v.most_similar(key, topn=None, min_similarity=0.3), above)
        same(v.most_similar(key, topn=2, min_similarity=0.3), above[:2])
        same(v.most_similar(key, topn=None), expected)


def test_positive_and_negative_keys_are_unit_vectors_and_vectors_are_not(opened, plain):
    truth = Reference(plain)
    a, b, c = truth.keys[3], truth.keys[50], truth.keys[700]
    raw = np.arange(1.0, 1 + DIM)
    goal = truth.unit(a) + raw - truth.unit(b) - truth.unit(c)
    cosines = truth.units @ goal / np.linalg.norm(goal)
    for normalized in (True, False):
        v = opened(plain, normalized=normalized)
        same(v.most_similar([a, raw], [b, c]), truth.ranked(cosines, {a, b, c})[:10])
        same(v.most_similar((a, raw.tolist()), (b, c)), truth.ranked(cosines, {a, b, c})[:10])
    alone = truth.units @ raw / np.linalg.norm(raw)
    for vector in (raw, raw.tolist(), [raw], raw[None]):
        same(v.most_similar(vector), truth.ranked(alone)[:10])
    same(v.most_similar([], a), truth.ranked(-truth.units @ truth.unit(a), {a})[:10])


def test_cosmul(opened, any_file):
    v, truth = opened(any_file), Reference(any_file)
    a, b, c = truth.keys[3], truth.keys[17], truth.keys[30]
    shares = [(1 + truth.units @ truth.unit(key)) / 2 for key in (a, b, c)]
    expected = truth.ranked(shares[0] * shares[1] / (shares[2] + 1e-6), {a, b, c})
    found = v.most_similar_cosmul([a, b], [c])
    assert [key for key, _ in found] == [key for key, _ in expected[:10]]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected[:10]], rtol=1e-4)
    same(v.most_similar_cosmul(a, topn=5), truth.ranked(shares[0], {a})[:5])


def test_the_first_rows_alone_are_searched(opened, plain):
    v, truth = opened(plain), Reference(plain)
    key = truth.keys[900]
    for count in (1, 7, 200, 1500, 10**9):
        ranked = truth.ranked(truth.units @ truth.unit(key), {key})
        first = [pair for pair in ranked if truth.at[pair[0]] < count]
        same(v.most_similar(key, restrict_vocab=count), first[:10])
    assert v.most_similar(key, restrict_vocab=0) == []
    assert v.most_similar(key, topn=0) == []


def test_repeats_and_the_keys_given_are_left_out(opened, duplicates):
    truth = Reference(duplicates)
    scores = truth.units @ truth.unit("the")
    v = opened(duplicates)
    found = v.most_similar("the", topn=None)
    assert sorted(key for key, _ in found) == sorted(set(DUPLICATES) - {"the"})
    best = {
        key: max(s for k, s in zip(truth.keys, scores, strict=True) if k == key)
        for key in set(DUPLICATES)
    }
    np.testing.assert_allclose([s for _, s in found], [best[key] for key, _ in found], atol=1e-6)
    assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)
    folded = opened(duplicates, case_insensitive=True)
    keys = [key.lower() for key, _ in folded.most_similar("tHe", topn=None)]
    assert sorted(keys) == sorted({key.lower() for key in DUPLICATES} - {"the"})
    assert len(folded.most_similar("the", topn=4)) == 4


def test_ties_are_in_the_order_of_the_file(opened, folder):
    rng = np.random.default_rng(3)
    few = rng.standard_normal((5, DIM))
    keys = [f"k{i}" for i in range(700)]
    path = mf.write_magnitude(folder / "ties", keys, few[rng.integers(0, 5, 700)], page_size=512)
    v, truth = opened(path), Reference(path)
    cosines = np.round(truth.units @ truth.unit("k9"), 12)
    expected = [key for key, _ in truth.ranked(cosines, {"k9"})]
    for count in (3, 400):
        found = v.most_similar("k9", topn=count, return_similarities=False)
        assert found == expected[:count]


def test_distance_and_similarity(opened, plain):
    truth = Reference(plain)
    a, b, c = truth.keys[:3]
    for normalized in (True, False):
        v = opened(plain, normalized=normalized)
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


def test_choices_among_given_keys(opened, plain):
    v, truth = opened(plain, pad_to_length=2, use_numpy=False), Reference(plain)
    keys = truth.keys[10:30]
    units = truth.units[10:30]
    assert v.most_similar_to_given(truth.keys[5], keys) == keys[np.argmax(units @ truth.units[5])]
    mean = units.mean(0) / np.linalg.norm(units.mean(0))
    assert v.doesnt_match(keys) == keys[np.argmin(units @ mean)]
    for call in (lambda: v.most_similar_to_given(keys[0], []), lambda: v.doesnt_match([])):
        with pytest.raises(ArgumentError, match="empty list"):
            call()


def test_closer_than(opened, plain):
    v, truth = opened(plain), Reference(plain)
    a, b = truth.keys[4], truth.keys[77]
    cosines = truth.units @ truth.unit(a)
    expected = [k for k, s in truth.ranked(cosines, {a}) if s >= cosines[truth.at[b]] + 1e-5]
    assert v.closer_than(a, b) == expected
    assert v.closer_than(a, b, topn=3) == expected[:3]


@pytest.mark.parametrize("options", [{}, {"normalized": False, "dtype": "f8"}, {"placeholders": 3}])
def test_all_vectors(opened, any_file, options):
    v = opened(any_file, **options)
    found = v.get_vectors_mmap()
    assert found.shape == (len(v), v.dim)
    assert found.dtype == v.dtype
    np.testing.assert_array_equal(found, np.array([vector for _, vector in v]))
    assert v.unroll(found) is found


def test_placeholders_do_not_count(opened, plain):
    v, bare = opened(plain, placeholders=2), opened(plain)
    key = Reference(plain).keys[8]
    assert v.most_similar(key) == bare.most_similar(key)
    assert v.most_similar(v.query(key)) == bare.most_similar(bare.query(key))


def test_local_and_streamed_answers_are_the_same_bit_for_bit(server, any_file, monkeypatch):
    answers = []
    with (
        Magnitude(any_file) as local,
        Magnitude(server.url + any_file.name, stream=True) as streamed,
    ):
        keys = [key for key, _ in local[:3]]
        for v in (local, streamed, streamed):
            answers.append((v.most_similar(keys[0], topn=30), v.most_similar_cosmul(keys)))
            monkeypatch.setattr(matrix, "MOST_IN_MEMORY", 0)
    assert answers[0] == answers[1] == answers[2]


def test_wrong_arguments(opened, plain):
    v = opened(plain)
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


def test_a_file_without_rows_names_the_one_to_take(opened, folder):
    path = mf.write_magnitude(folder / "elmo", [], np.zeros((0, DIM)), elmo=True)
    v = opened(path)
    for call in (v.most_similar, v.most_similar_cosmul):
        with pytest.raises(FormatError, match="with Google News word2vec vocabulary"):
            call("key")
    assert v.get_vectors_mmap().shape == (0, DIM)


def test_a_row_that_is_missing(opened, folder):
    path = mf.write_magnitude(folder / "gap", list("abcdef"), mf.random_vectors(6, DIM, 1))
    connection = apsw.Connection(str(path))
    connection.execute("DELETE FROM magnitude WHERE rowid = 3")
    connection.close()
    with pytest.raises(FormatError, match="row 3 is missing"):
        opened(path).most_similar("a")


def table_bytes(path):
    """Count the bytes of the pages of the vectors' table."""
    pages = LocalPages(path)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name='magnitude'").get
    connection.close()
    table = Table(pages, root)
    leaves = run(pages, table.leaves(10**9))
    return (len(leaves) + len(table.interior)) * pages.layout.page_size


def cold(server, path, **options):
    return Magnitude(
        server.url + path.name, stream=True, stream_options={"cache_size": 0, **options}
    )


def test_a_streamed_scan_reads_the_table_once(server, big):
    with cold(server, big) as v:
        key = v[0][0]
        with v.stats.measure() as first:
            v.most_similar(key)
        with v.stats.measure() as second:
            v.most_similar(v[1][0])
        assert first.bytes <= 1.1 * table_bytes(big)
        assert second.bytes <= 100_000
        assert first.requests < 100


def test_restricted_it_reads_little(server, big):
    with cold(server, big) as v:
        with v.stats.measure() as counted:
            v.most_similar("no such key", restrict_vocab=200)
        assert counted.bytes < table_bytes(big) / 4


def test_a_budget_refuses_before_anything_is_sent(server, big):
    with cold(server, big) as v:
        key = v[0][0]
        v.budget.max_bytes = v.stats.bytes + len(v) * v.dim // 2
        before = v.stats.requests
        with pytest.raises(vfs.BudgetError, match="more needed now"):
            v.most_similar(key)
        assert v.stats.requests == before
        v.budget.max_bytes = v.stats.bytes + table_bytes(big) - 100_000
        with pytest.raises(vfs.BudgetError, match="max_bytes"):
            v.most_similar(key)
        assert v.stats.bytes < table_bytes(big) / 4  # interior pages at most
        v.budget.max_bytes = None
        v.budget.max_requests = v.stats.requests + 5
        with pytest.raises(vfs.BudgetError, match="max_requests"):
            v.most_similar(key)
        v.budget.max_requests = None
        assert len(v.most_similar(key)) == 10


def test_a_copy_by_pickle_and_a_fork_rank_the_same(opened, plain):
    v = opened(plain)
    key = v[0][0]
    expected = v.most_similar(key)
    with pickle.loads(pickle.dumps(v)) as copy:
        assert copy.most_similar(key) == expected
    child = os.fork()
    if not child:
        os._exit(0 if v.most_similar(key) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0


INTERRUPTED = """
import sys, time
from streamfile import Magnitude
from streamfile.search import scan
scan.BATCH = 1 << 16
v = Magnitude(sys.argv[1], stream=True, stream_options={"cache_size": 0, "connections": 2})
key = v[0][0]
print("ready", flush=True)
try:
    v.most_similar(key)
except KeyboardInterrupt:
    print("interrupted", flush=True)
v.query(key)
print(len(v.most_similar(key, restrict_vocab=100)), flush=True)
"""


def test_ctrl_c_stops_a_scan_and_leaves_the_object_usable(folder, big):
    with LoggingServer(folder, latency=0.1) as slow:
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, slow.url + big.name],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.stdout.readline() == "interrupted\n"
        assert time.monotonic() - began < 1
        assert process.communicate(timeout=30)[0] == "10\n"
        assert process.returncode == 0


MEMORY = """
import sys
from streamfile import Magnitude
from streamfile.search import matrix
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
matrix.MOST_IN_MEMORY = 0
v = Magnitude(sys.argv[1], stream=True, stream_options={"cache_size": 0})
v.query("key")
v.most_similar("key", restrict_vocab=10)
before = peak()
v.most_similar("key")
print(peak() - before)
"""


def test_a_scan_that_keeps_nothing_takes_little_memory(folder):
    count, dim = 60_000, 300
    path = folder / "large"
    keys = [f"key{i}" for i in range(count)]
    mf.write_magnitude(path, keys, np.tile(mf.random_vectors(1000, dim, 1), (count // 1000, 1)))
    with LoggingServer(folder) as server:
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, server.url + "large"],
            capture_output=True,
            text=True,
            check=True,
        )
    path.unlink()
    assert int(done.stdout) < 72 << 10  # KiB, of 82 MB
