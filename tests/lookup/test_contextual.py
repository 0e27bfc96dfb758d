"""Vectors of words in their sentences, by the ELMo model that the file holds."""

import multiprocessing
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import apsw
import elmo_files as ef
import lz4.frame
import magnitude_files as mf
import needed
import numpy as np
import pytest
from sentences import BATCH, DIM, KEYS, LAYER_DIM, LAYERS, SENTENCE, close, unit
from waiting import PATIENCE
from wide_sqlite import why_no_wide_sqlite, wide_sqlite

from streamfile import FeaturizerMagnitude, Magnitude
from streamfile.elmo import Encoder
from streamfile.errors import ArgumentError, FormatError

needed.module("torch")

pytestmark = pytest.mark.usefixtures("cache")
FILES = ["words", "no_words"]


def padded(encode, batch, length, *, pad_left=False, truncate_left=False):
    """Lay out the vectors of sentences, each word's as in the whole sentence."""
    answer = np.zeros((len(batch), length, DIM), np.float32)
    for row, sentence in zip(answer, batch, strict=True):
        if not sentence:
            continue
        vectors = encode(sentence)
        vectors = vectors[-length:] if truncate_left else vectors[:length]
        if pad_left:
            row[length - len(vectors) :] = vectors
        else:
            row[: len(vectors)] = vectors
    return answer


# Sentences


@pytest.mark.parametrize("name", FILES)
def test_a_list_is_a_sentence(opened_file, encode, name):
    close(opened_file(name).query(SENTENCE), encode(SENTENCE))


def test_words_in_a_sentence_have_other_vectors_than_stored_ones(opened_file, stored):
    got = opened_file().query(KEYS)
    assert np.abs(got - stored[False]).max(axis=1).min() > 0.01


def test_tuples_and_arrays_are_sentences_too(opened_file, encode):
    v = opened_file()
    close(v.query(tuple(SENTENCE)), encode(SENTENCE))
    close(v.query(np.array(SENTENCE)), encode(SENTENCE))
    close(v.query((tuple(SENTENCE), ["dog"])), padded(encode, [SENTENCE, ["dog"]], 5))


@pytest.mark.parametrize("pad_left", [False, True])
@pytest.mark.parametrize("truncate_left", [False, True])
@pytest.mark.parametrize("length", [None, 1, 2, 5, 7])
def test_a_list_of_lists_is_a_batch(opened_file, encode, length, pad_left, truncate_left):
    sides = {"pad_left": pad_left, "truncate_left": truncate_left}
    v = opened_file()
    expected = padded(encode, BATCH, length or 5, **sides)
    close(v.query(BATCH, pad_to_length=length, **sides), expected)


def test_padding_chosen_when_opening(opened_file, encode):
    sides = {"pad_left": True, "truncate_left": True}
    v = opened_file(pad_to_length=3, **sides)
    close(v.query(BATCH), padded(encode, BATCH, 3, **sides))
    close(v.query(SENTENCE), encode(SENTENCE)[-3:])


def test_a_truncated_sentence_keeps_the_vectors_of_the_whole(opened_file, encode):
    v = opened_file()
    close(v.query(SENTENCE, pad_to_length=2), encode(SENTENCE)[:2])
    close(v.query(SENTENCE, pad_to_length=2, truncate_left=True), encode(SENTENCE)[-2:])
    assert np.abs(encode(SENTENCE[:2]) - encode(SENTENCE)[:2]).max() > 1e-3


def test_placeholders_are_zeros_behind_each_vector(opened_file, encode):
    v = opened_file(placeholders=2)
    assert (v.dim, v.emb_dim) == (DIM + 2, DIM)
    behind = [(0, 0), (0, 2)]
    close(v.query(SENTENCE), np.pad(encode(SENTENCE), behind))
    close(v.query(BATCH), np.pad(padded(encode, BATCH, 5), [(0, 0), *behind]))
    close(v.query("zebra"), np.pad(encode(["zebra"]), behind)[0])


def test_lists_instead_of_arrays(opened_file, encode):
    v = opened_file(use_numpy=False)
    for q, expected in [
        (SENTENCE, encode(SENTENCE)),
        (BATCH, padded(encode, BATCH, 5)),
        ("zebra", encode(["zebra"])[0]),
    ]:
        got = v.query(q)
        assert type(got) is list
        close(np.array(got, np.float32), expected)
        assert type(v.unroll(got)) is list


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_the_type_of_answers(opened_file, encode, dtype):
    v = opened_file(dtype=dtype)
    for q, expected in [(SENTENCE, encode(SENTENCE)), ("zebra", encode(["zebra"])[0])]:
        got = v.query(q)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, atol=1e-3 if dtype == np.float16 else 1e-6)


def test_queries_without_words_need_no_model(opened_file, cache):
    v = opened_file()
    assert v.query([]).shape == (0, DIM)
    assert v.query([[]]).shape == (1, 0, DIM)
    close(v.query([], pad_to_length=2), np.zeros((2, DIM)))
    close(v.query([[], []], pad_to_length=2), np.zeros((2, 2, DIM)))
    assert not list(cache.glob("files/*"))


def test_an_empty_sentence_among_others(opened_file, encode):
    batch = [[], SENTENCE, [], ["dog"]]
    close(opened_file().query(batch), padded(encode, batch, 5))


@pytest.mark.parametrize("q", [["the", 7], [["the"], ["cat", None]], ["the", ["cat"]], [b"the"]])
def test_what_is_no_word_in_a_sentence(opened_file, q):
    with pytest.raises(ArgumentError, match="expected words"):
        opened_file().query(q)


def test_vectors_are_not_normalized_unless_asked(opened_file, encode):
    v, scaled = opened_file(), opened_file(normalized=True)
    assert (v.normalized, v.ngram_oov, scaled.normalized) == (False, False, True)
    for q, expected in [
        (SENTENCE, encode(SENTENCE)),
        ("zebra", encode(["zebra"])[0]),
    ]:
        close(v.query(q), expected)
        close(v.query(q, normalized=True), unit(expected))
        close(scaled.query(q), unit(expected))
        close(scaled.query(q, normalized=False), expected)


def test_padding_stays_zero_when_normalized(opened_file, encode):
    expected = padded(encode, BATCH, 5)
    lengths = np.linalg.norm(expected, axis=-1, keepdims=True)
    expected = np.divide(expected, lengths, out=expected, where=lengths > 0)
    close(opened_file(normalized=True).query(BATCH), expected)


@pytest.mark.parametrize("normalized", [False, True])
def test_words_outside_the_vocabulary_may_be_hashed(opened_file, encode, normalized):
    v = opened_file(ngram_oov=True, normalized=normalized)
    other = opened_file("no_elmo", ngram_oov=True, normalized=normalized)
    got, expected = v.query(SENTENCE), encode(SENTENCE)
    if normalized:
        expected = unit(expected)
    outside = [1, 4]
    expected[outside] = other.query(["quick", "down"])
    close(got, expected)
    close(got[outside], expected[outside], atol=0)
    close(v.query("quick"), expected[1], atol=0)
    close(v.query("cat"), other.query("cat"), atol=0)


def test_a_sentence_of_hashed_words_needs_no_model(opened_file, cache):
    v = opened_file("no_words", ngram_oov=True)
    assert v.query(BATCH).shape == (3, 5, DIM)
    assert not list(cache.glob("files/*"))


def test_unroll_separates_the_layers(opened_file, encode):
    v = opened_file(placeholders=3)
    whole = encode(SENTENCE)
    layers = np.array([whole[:, at : at + LAYER_DIM] for at in range(0, DIM, LAYER_DIM)])
    got = v.unroll(v.query(SENTENCE))
    close(got, layers)
    close(got[0][:, : LAYER_DIM // 2], got[0][:, LAYER_DIM // 2 :], atol=0)  # characters twice
    several = v.unroll(v.query([["dog"], SENTENCE]))
    assert several.shape == (2, LAYERS, len(SENTENCE), LAYER_DIM)
    close(several[1], layers)
    key = v.query("cat")
    close(v.unroll(key), key[:DIM].reshape(LAYERS, LAYER_DIM), atol=0)
    assert v.unroll(v.query([])).shape == (LAYERS, 0, LAYER_DIM)
    assert v.unroll(v.query([[]])).shape == (1, LAYERS, 0, LAYER_DIM)


@pytest.mark.parametrize("shape", [(), (DIM - 1,), (2, DIM + 1), (1, 1, 1, DIM), (DIM, 2)])
def test_unroll_refuses_other_shapes(opened_file, shape):
    with pytest.raises(ArgumentError, match=f"{DIM} dimensions"):
        opened_file().unroll(np.zeros(shape))


def test_unroll_of_other_files_gives_back_what_it_was_given(opened_file):
    vectors = np.zeros((2, 5))
    assert opened_file("no_elmo").unroll(vectors) is vectors


# Keys


@pytest.mark.parametrize("normalized", [None, False, True])
def test_a_stored_key_has_its_stored_vector(opened_file, stored, normalized):
    v = opened_file(normalized=normalized)
    for at, key in enumerate(KEYS):
        close(v.query(key), stored[bool(normalized)][at], atol=1e-6)
        close(v.query(key, normalized=True), stored[True][at], atol=1e-6)


def test_a_stored_key_needs_no_model(opened_file, cache):
    v = opened_file()
    v.query("cat")
    assert v.similarity("cat", "sat") == pytest.approx(v.similarity("sat", "cat"))
    assert not list(cache.glob("files/*"))


def test_keys_by_themselves_are_looked_up_once(opened_file, stored, monkeypatch):
    v, asked = opened_file(), []
    find = v._reader.find

    def spy(keys, **options):
        asked.append(list(keys))
        return find(keys, **options)

    monkeypatch.setattr(v._reader, "find", spy)
    got = mf.by_themselves(v, ["cat", 7, "zebra", "the", "cat"])
    close(got[[0, 3, 4]], stored[False][[1, 0, 1]], atol=1e-6)
    close(got[1], v.query(7), atol=0)
    assert asked == [["cat", "zebra", "the"]]


@pytest.mark.parametrize("name", FILES)
def test_a_key_outside_is_a_sentence_of_one_word(opened_file, encode, name):
    v = opened_file(name)
    for key in ("zebra", "CAT", "", "été", "\ud800"):
        close(v.query(key), encode([key])[0])


def test_case_insensitive_keys(opened_file, stored, encode):
    v = opened_file(case_insensitive=True)
    close(v.query("CAT"), stored[False][1], atol=1e-6)
    close(v.query(["CAT"]), encode(["CAT"]))


def test_numbers_alone_have_the_vectors_of_other_files(opened_file):
    v, other = opened_file(), opened_file("no_elmo", normalized=False, ngram_oov=False)
    for number in (7, 2.5, True, np.float32(3)):
        close(v.query(number), other.query(number), atol=0)


def test_what_is_no_key(opened_file):
    with pytest.raises(ArgumentError, match="is no key"):
        opened_file().query(None)


def test_the_vocabulary(opened_file, stored):
    v = opened_file()
    assert len(v) == len(KEYS)
    assert all(key in v for key in KEYS)
    assert not any(key in v for key in ("zebra", "CAT", 7))
    assert [key for key, _ in v] == KEYS
    close(np.array([vector for _, vector in v]), stored[False], atol=1e-6)
    assert v.index(-1)[0] == KEYS[-1]
    assert v.index([1, 0], return_vector=False) == [KEYS[1], KEYS[0]]


def test_a_file_without_vocabulary(opened_file):
    v = opened_file("no_words")
    assert len(v) == 0
    assert "cat" not in v
    assert list(v) == []
    with pytest.raises(IndexError):
        v.index(0)
    for search in (v.most_similar, v.most_similar_cosmul):
        with pytest.raises(FormatError, match="with Google News word2vec vocabulary"):
            search("cat")
    assert v.similarity("cat", "cat") == pytest.approx(1)


@pytest.fixture(scope="module")
def wide(tmp_path_factory, folder, files):
    """Give the path and the encoder of a file with the most dimensions that are published."""
    if why := why_no_wide_sqlite():
        pytest.skip(why)
    options, weights = ef.write_model(
        tmp_path_factory.mktemp("wide"), ef.options(projection_dim=512)
    )
    path = wide_sqlite().write_wide_magnitude(folder / "wide", 60, 3072, 0, (weights, options))
    files["wide"] = path
    return path, Encoder(options, weights)


def test_a_file_of_3072_dimensions(opened_file, wide):
    path, encoder = wide
    v = opened_file("wide")
    found = wide_sqlite().rows(path, rowids=range(1, 57))  # behind them, keys in other cases
    units, vectors = mf.decode(found.dims, 1.0, 7)[0], []
    for dims, magnitude in zip(found.dims, found.magnitudes, strict=True):
        vectors.append(mf.decode(dims, magnitude, 7)[1])
    assert (len(v), v.dim) == (60, 3072)
    close(v.query(found.keys[9]), vectors[9], atol=0)
    sentence, zebra = encoder.embed([SENTENCE, ["zebra"]])
    close(v.query(SENTENCE), sentence)
    close(v.query([["zebra"], SENTENCE])[1], sentence)
    close(v.query("zebra"), zebra[0])
    assert v.unroll(v.query(SENTENCE)).shape == (3, len(SENTENCE), 1024)
    assert found.keys[50] in v
    assert "zebra" not in v
    ((key, cosine),) = v.most_similar("zebra", topn=1)
    cosines = units @ unit(zebra[0])
    assert cosine == pytest.approx(cosines.max(), abs=1e-5)
    assert key == found.keys[int(np.argmax(cosines))]


# Rankings


@pytest.fixture
def alone(encode, stored):
    """Give the float64 vector of a word by itself, in the file with a vocabulary."""

    def vector(word):
        known = stored[False][KEYS.index(word)] if word in KEYS else encode([word])[0]
        return known.astype(np.float64)

    return vector


WORDS = ["cat", "zebra", "Dog", "dog", "quick"]


def test_similarity_and_distance_take_words_by_themselves(opened_file, alone):
    v = opened_file()
    vectors = np.array([alone(word) for word in WORDS])
    for word in WORDS:
        mine = alone(word)
        np.testing.assert_allclose(v.similarity(word, WORDS), unit(vectors) @ unit(mine), atol=1e-5)
        np.testing.assert_allclose(
            v.distance(word, WORDS), np.linalg.norm(vectors - mine, axis=1), atol=1e-4
        )


def test_most_similar_to_given(opened_file, alone):
    v = opened_file()
    for word in ("sat", "zebra"):
        cosines = [unit(alone(word)) @ unit(alone(other)) for other in WORDS[2:]]
        assert v.most_similar_to_given(word, WORDS[2:]) == WORDS[2:][int(np.argmax(cosines))]


def test_doesnt_match(opened_file, alone):
    vectors = unit(np.array([alone(word) for word in WORDS]))
    far = np.linalg.norm(vectors - unit(vectors.mean(0)), axis=1)
    assert opened_file().doesnt_match(WORDS) == WORDS[int(np.argmax(far))]


@pytest.mark.parametrize("word", ["cat", "zebra"])
def test_most_similar(opened_file, alone, stored, word):
    expected = sorted(
        ((key, unit(alone(word)) @ row) for key, row in zip(KEYS, stored[True], strict=True)),
        key=lambda pair: -pair[1],
    )
    expected = [pair for pair in expected if pair[0] != word][:3]
    got = opened_file().most_similar(word, topn=3)
    assert [key for key, _ in got] == [key for key, _ in expected]
    np.testing.assert_allclose([s for _, s in got], [s for _, s in expected], atol=1e-5)


def test_most_similar_to_a_vector_in_context(opened_file, stored, encode):
    v = opened_file()
    cosines = stored[True] @ unit(encode(SENTENCE)[2])
    ((key, similarity),) = v.most_similar(v.query(SENTENCE)[2], topn=1)
    assert key == KEYS[int(np.argmax(cosines))]
    assert similarity == pytest.approx(cosines.max(), abs=1e-5)


TREES = 20


@pytest.fixture(scope="module")
def heavy(folder, files, meta):
    """A file with 500 words and an index of approximate neighbours; give the words and vectors."""
    annoy = needed.module("annoy", "-e '.[annoy]'")
    keys, vectors = mf.random_words(500, 1), mf.random_vectors(500, DIM, 1)
    path = mf.write_magnitude(folder / "heavy", keys, vectors, elmo=True, meta=meta)
    units = mf.decode(mf.quantize(vectors, 7)[0], 1.0, 7)[0]
    index = annoy.AnnoyIndex(DIM, "angular")
    for place, vector in enumerate(units):
        index.add_item(place, vector.tolist())
    index.build(TREES, 1)
    index.save(str(folder / "index"))
    frame = lz4.frame.compress((folder / "index").read_bytes())
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE magnitude_approx (trees INTEGER, index_file BLOB)")
    connection.execute("INSERT INTO magnitude_approx VALUES (?, ?)", (TREES, frame))
    for key, value in (("approx", 1), ("approx_trees", TREES)):
        connection.execute("UPDATE magnitude_format SET value = ? WHERE key = ?", (value, key))
    connection.close()
    files["heavy"] = path
    return keys, units


def test_most_similar_approx(opened_file, heavy, encode):
    """By a stored key, by a word of which only the model knows, by a vector in its context."""
    keys, units = heavy
    v = opened_file("heavy")
    for asked, target in [
        (keys[7], units[7]),
        ("not there", encode(["not there"])[0]),
        (v.query(SENTENCE)[2], encode(SENTENCE)[2]),
    ]:
        got = v.most_similar_approx(asked, topn=20)
        cosines = dict(zip(keys, (units @ unit(target)).tolist(), strict=True))
        if isinstance(asked, str):
            cosines.pop(asked, None)
        best = sorted(cosines, key=cosines.get, reverse=True)[:20]
        assert [similarity for _, similarity in got] == pytest.approx(
            [cosines[key] for key, _ in got], abs=1e-5
        )
        assert len({key for key, _ in got} & set(best)) >= 18
        assert got[0][0] == best[0]


# Concatenation


def test_concatenation_with_other_vectors(opened_file, encode):
    v, other = opened_file(), opened_file("no_elmo")
    both = Magnitude(v, other)
    assert both.dim == 2 * DIM
    close(both.query(SENTENCE), np.hstack([encode(SENTENCE), other.query(SENTENCE)]))
    close(
        both.query(BATCH, pad_left=True),
        np.dstack([padded(encode, BATCH, 5, pad_left=True), other.query(BATCH, pad_left=True)]),
    )
    close(both.query("cat"), np.hstack([v.query("cat"), other.query("cat")]))
    expected = unit(both.query("cat")) @ unit(both.query("zebra"))
    assert both.similarity("cat", "zebra") == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ArgumentError, match=r"expected the vectors of one ELMo part; try v\.parts"):
        both.unroll(both.query(SENTENCE))


def test_concatenation_with_features(opened_file, encode):
    tags = FeaturizerMagnitude(100, "tags")
    both = Magnitude(opened_file(), tags)
    pairs = [("the", "DT"), ("quick", "JJ"), ("cat", "NN")]
    words, parts = map(list, zip(*pairs, strict=True))
    expected = np.hstack([encode(words), tags.query(parts)])
    close(both.query(pairs), expected)
    close(both.query([pairs, pairs[:1]])[0], expected)


# Objects, processes and threads


@pytest.mark.parametrize("q", [SENTENCE, BATCH, "zebra"], ids=["sentence", "batch", "key"])
def test_a_second_call_gives_the_same_bits(opened_file, q):
    v = opened_file()
    first = v.query(q)
    np.testing.assert_array_equal(v.query(q), first, strict=True)


def test_a_pickled_object(opened_file, encode):
    v = opened_file(normalized=True)
    v.query(SENTENCE)
    with pickle.loads(pickle.dumps(v)) as other:
        close(other.query(SENTENCE), unit(encode(SENTENCE)))


def test_a_fork_after_the_first_use(opened_file):
    v = opened_file()
    expected = v.query(SENTENCE), v.query(BATCH), v.query("zebra")

    def ask():
        for q, answer in zip((SENTENCE, BATCH, "zebra"), expected, strict=True):
            np.testing.assert_array_equal(v.query(q), answer, strict=True)

    for _ in range(2):
        child = multiprocessing.get_context("fork").Process(target=ask)
        child.start()
        child.join(PATIENCE)
        child.kill()
        assert child.exitcode == 0
        ask()


def test_a_fork_before_the_first_use(opened_file, encode):
    v = opened_file()
    child = multiprocessing.get_context("fork").Process(
        target=lambda: close(v.query(SENTENCE), encode(SENTENCE))
    )
    child.start()
    child.join(PATIENCE)
    child.kill()
    assert child.exitcode == 0
    close(v.query(SENTENCE), encode(SENTENCE))


def test_threads_share_an_object(opened_file, encode):
    v = opened_file()
    ready = threading.Barrier(6)
    sentences = [SENTENCE, ["dog"], SENTENCE[::-1]]

    def ask(turn):
        ready.wait(PATIENCE)
        for at in range(turn, turn + 9):
            sentence = sentences[at % 3]
            close(v.query(sentence), encode(sentence))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))


def test_a_closed_object_lets_its_files_go(opened_file, cache):
    v = opened_file()
    v.query(SENTENCE)
    assert list(cache.glob("files/*"))
    v.close()
    assert v._contextual._opened.get() is None
