"""Rankings, local and streamed, held against float64 numpy on the vectors."""

import os
import pickle

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from ranked_files import DIM, Reference

from streamfile import FormatError, Magnitude
from streamfile.search import matrix

DUPLICATES = ["the", "The", "cat", "the", "dog", "THE", "É", "é", "cat", "", "dog"]


@pytest.fixture(scope="module")
def duplicates(folder):
    vectors = mf.random_vectors(len(DUPLICATES), DIM, 5)
    return mf.write_magnitude(folder / "duplicates", DUPLICATES, vectors, page_size=512)


def same(found, expected):
    """Compare rankings, in which keys may change places within the rounding of float32."""
    scores = dict(expected)
    assert set(scores) == {key for key, _ in found}
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-6)
    np.testing.assert_allclose([s for _, s in found], [scores[k] for k, _ in found], atol=1e-6)


def test_a_key_is_ranked_by_cosine(searched, any_file):
    v, truth = searched(any_file), Reference(any_file)
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


def test_positive_and_negative_keys_are_unit_vectors_and_vectors_are_not(searched, plain):
    truth = Reference(plain)
    a, b, c = truth.keys[3], truth.keys[50], truth.keys[700]
    raw = np.arange(1.0, 1 + DIM)
    goal = truth.unit(a) + raw - truth.unit(b) - truth.unit(c)
    cosines = truth.units @ goal / np.linalg.norm(goal)
    for normalized in (True, False):
        v = searched(plain, normalized=normalized)
        same(v.most_similar([a, raw], [b, c]), truth.ranked(cosines, {a, b, c})[:10])
        same(v.most_similar((a, raw.tolist()), (b, c)), truth.ranked(cosines, {a, b, c})[:10])
    alone = truth.units @ raw / np.linalg.norm(raw)
    for vector in (raw, raw.tolist(), [raw], raw[None]):
        same(v.most_similar(vector), truth.ranked(alone)[:10])
    same(v.most_similar([], a), truth.ranked(-truth.units @ truth.unit(a), {a})[:10])


def test_cosmul(searched, any_file):
    v, truth = searched(any_file), Reference(any_file)
    a, b, c = truth.keys[3], truth.keys[17], truth.keys[30]
    shares = [(1 + truth.units @ truth.unit(key)) / 2 for key in (a, b, c)]
    expected = truth.ranked(shares[0] * shares[1] / (shares[2] + 1e-6), {a, b, c})
    found = v.most_similar_cosmul([a, b], [c])
    assert [key for key, _ in found] == [key for key, _ in expected[:10]]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected[:10]], rtol=1e-4)
    same(v.most_similar_cosmul(a, topn=5), truth.ranked(shares[0], {a})[:5])


def test_the_first_rows_alone_are_searched(searched, plain):
    v, truth = searched(plain), Reference(plain)
    key = truth.keys[900]
    for count in (1, 7, 200, 1500, 10**9):
        ranked = truth.ranked(truth.units @ truth.unit(key), {key})
        first = [pair for pair in ranked if truth.at[pair[0]] < count]
        same(v.most_similar(key, restrict_vocab=count), first[:10])
    assert v.most_similar(key, restrict_vocab=0) == []
    assert v.most_similar(key, topn=0) == []


def test_repeats_and_the_keys_given_are_left_out(searched, duplicates):
    truth = Reference(duplicates)
    scores = truth.units @ truth.unit("the")
    v = searched(duplicates)
    found = v.most_similar("the", topn=None)
    assert sorted(key for key, _ in found) == sorted(set(DUPLICATES) - {"the"})
    best = {
        key: max(s for k, s in zip(truth.keys, scores, strict=True) if k == key)
        for key in set(DUPLICATES)
    }
    np.testing.assert_allclose([s for _, s in found], [best[key] for key, _ in found], atol=1e-6)
    assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)
    folded = searched(duplicates, case_insensitive=True)
    keys = [key.lower() for key, _ in folded.most_similar("tHe", topn=None)]
    assert sorted(keys) == sorted({key.lower() for key in DUPLICATES} - {"the"})
    assert len(folded.most_similar("the", topn=4)) == 4


def test_ties_are_in_the_order_of_the_file(searched, folder):
    rng = np.random.default_rng(3)
    few = rng.standard_normal((5, DIM))
    keys = [f"k{i}" for i in range(700)]
    path = mf.write_magnitude(folder / "ties", keys, few[rng.integers(0, 5, 700)], page_size=512)
    v, truth = searched(path), Reference(path)
    cosines = np.round(truth.units @ truth.unit("k9"), 12)
    expected = [key for key, _ in truth.ranked(cosines, {"k9"})]
    for count in (3, 400):
        found = v.most_similar("k9", topn=count, return_similarities=False)
        assert found == expected[:count]


def test_closer_than(searched, plain):
    v, truth = searched(plain), Reference(plain)
    a, b = truth.keys[4], truth.keys[77]
    cosines = truth.units @ truth.unit(a)
    expected = [k for k, s in truth.ranked(cosines, {a}) if s >= cosines[truth.at[b]] + 1e-5]
    assert v.closer_than(a, b) == expected
    assert v.closer_than(a, b, topn=3) == expected[:3]


def test_placeholders_do_not_count(searched, plain):
    v, bare = searched(plain, placeholders=2), searched(plain)
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


def test_a_file_without_rows_names_the_one_to_take(searched, folder):
    path = mf.write_magnitude(folder / "elmo", [], np.zeros((0, DIM)), elmo=True)
    v = searched(path)
    for call in (v.most_similar, v.most_similar_cosmul):
        with pytest.raises(FormatError, match="with Google News word2vec vocabulary"):
            call("key")
    assert v.get_vectors_mmap().shape == (0, DIM)


def test_a_row_that_is_missing(searched, folder):
    path = mf.write_magnitude(folder / "gap", list("abcdef"), mf.random_vectors(6, DIM, 1))
    connection = apsw.Connection(str(path))
    connection.execute("DELETE FROM magnitude WHERE rowid = 3")
    connection.close()
    with pytest.raises(FormatError, match="row 3 is missing"):
        searched(path).most_similar("a")


def test_a_copy_by_pickle_and_a_fork_rank_the_same(searched, plain):
    v = searched(plain)
    key = v[0][0]
    expected = v.most_similar(key)
    with pickle.loads(pickle.dumps(v)) as copy:
        assert copy.most_similar(key) == expected
    child = os.fork()
    if not child:
        os._exit(0 if v.most_similar(key) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
