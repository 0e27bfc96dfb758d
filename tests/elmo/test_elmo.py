"""ELMo files: words in their sentences, by the model that the file holds."""

import json
import multiprocessing
import os
import pickle
import random
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import elmo_files as ef
import h5py
import lz4.frame
import magnitude_files as mf
import numpy as np
import pytest
from serving import LoggingServer, asked_range, replace_file
from wide_sqlite import why_no_wide_sqlite, wide_sqlite

from streamfile import FeaturizerMagnitude, Magnitude
from streamfile.errors import ArgumentError, FormatError
from vfs.errors import CacheSpaceError

pytest.importorskip("torch")

from streamfile.elmo import Encoder

KEYS = ["the", "cat", "sat", "Dog", "mat", "cats"]
SENTENCE = ["the", "quick", "cat", "sat", "down"]
BATCH = [SENTENCE, ["dog"], ["the", "mat", "quick"]]
LAYERS, LAYER_DIM = 3, 16
DIM = LAYERS * LAYER_DIM
FILES = ["words", "no_words"]
MIB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ef.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def meta(model):
    options, weights = model
    return weights.read_bytes(), options.read_bytes()


@pytest.fixture(scope="module")
def given():
    """The vectors that are stored, which are not those that the model gives."""
    return mf.random_vectors(len(KEYS), DIM, 3)


@pytest.fixture(scope="module")
def stored(given):
    """The same, as they come back."""
    rows = zip(*mf.quantize(given, 7), strict=True)
    normalized, as_given = zip(*(mf.decode(*row, 7) for row in rows), strict=True)
    return {True: np.array(normalized), False: np.array(as_given)}


@pytest.fixture(scope="module")
def files(folder, meta, given):
    empty = np.zeros((0, DIM), np.float32)
    return {
        "words": mf.write_magnitude(folder / "words", KEYS, given, elmo=True, meta=meta),
        "no_words": mf.write_magnitude(folder / "no_words", [], empty, elmo=True, meta=meta),
        "no_elmo": mf.write_magnitude(folder / "no_elmo", KEYS, given),
    }


@pytest.fixture(scope="module")
def encode(model):
    """Compute the vectors of one sentence with the bare model."""
    encoder = Encoder(*model)
    return lambda sentence: next(iter(encoder.embed([sentence])))


@pytest.fixture(scope="module")
def server(folder):
    with LoggingServer(folder) as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["local", "streamed"])
def opened(request, files, server):
    """Open a file by its name, in either way."""
    made = []

    def open_it(name="words", **options):
        if request.param == "local":
            made.append(Magnitude(files[name], **options))
        else:
            made.append(Magnitude(server.url + name, stream=True, **options))
        return made[-1]

    yield open_it
    for v in made:
        v.close()


def close(got, expected, *, atol=1e-5):
    """Compare vectors: what a sentence is batched with changes them by rounding."""
    assert got.dtype == np.float32
    assert got.shape == np.shape(expected)
    np.testing.assert_allclose(got, expected, atol=atol, rtol=0)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("name", FILES)
def test_a_list_is_a_sentence(opened, encode, name):
    close(opened(name).query(SENTENCE), encode(SENTENCE))


def test_words_in_a_sentence_have_other_vectors_than_stored_ones(opened, stored):
    got = opened().query(KEYS)
    assert np.abs(got - stored[False]).max(axis=1).min() > 0.01


def test_tuples_and_arrays_are_sentences_too(opened, encode):
    v = opened()
    close(v.query(tuple(SENTENCE)), encode(SENTENCE))
    close(v.query(np.array(SENTENCE)), encode(SENTENCE))
    close(v.query((tuple(SENTENCE), ["dog"])), padded(encode, [SENTENCE, ["dog"]], 5))


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


@pytest.mark.parametrize("pad_left", [False, True])
@pytest.mark.parametrize("truncate_left", [False, True])
@pytest.mark.parametrize("length", [None, 1, 2, 5, 7])
def test_a_list_of_lists_is_a_batch(opened, encode, length, pad_left, truncate_left):
    sides = {"pad_left": pad_left, "truncate_left": truncate_left}
    v = opened()
    expected = padded(encode, BATCH, length or 5, **sides)
    close(v.query(BATCH, pad_to_length=length, **sides), expected)


def test_padding_chosen_when_opening(opened, encode):
    sides = {"pad_left": True, "truncate_left": True}
    v = opened(pad_to_length=3, **sides)
    close(v.query(BATCH), padded(encode, BATCH, 3, **sides))
    close(v.query(SENTENCE), encode(SENTENCE)[-3:])


def test_a_truncated_sentence_keeps_the_vectors_of_the_whole(opened, encode):
    v = opened()
    close(v.query(SENTENCE, pad_to_length=2), encode(SENTENCE)[:2])
    close(v.query(SENTENCE, pad_to_length=2, truncate_left=True), encode(SENTENCE)[-2:])
    assert np.abs(encode(SENTENCE[:2]) - encode(SENTENCE)[:2]).max() > 1e-3


def test_placeholders_are_zeros_behind_each_vector(opened, encode):
    v = opened(placeholders=2)
    assert (v.dim, v.emb_dim) == (DIM + 2, DIM)
    behind = [(0, 0), (0, 2)]
    close(v.query(SENTENCE), np.pad(encode(SENTENCE), behind))
    close(v.query(BATCH), np.pad(padded(encode, BATCH, 5), [(0, 0), *behind]))
    close(v.query("zebra"), np.pad(encode(["zebra"]), behind)[0])


def test_lists_instead_of_arrays(opened, encode):
    v = opened(use_numpy=False)
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
def test_the_type_of_answers(opened, encode, dtype):
    v = opened(dtype=dtype)
    for q, expected in [(SENTENCE, encode(SENTENCE)), ("zebra", encode(["zebra"])[0])]:
        got = v.query(q)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, atol=1e-3 if dtype == np.float16 else 1e-6)


def test_queries_without_words_need_no_model(opened, cache):
    v = opened()
    assert v.query([]).shape == (0, DIM)
    assert v.query([[]]).shape == (1, 0, DIM)
    close(v.query([], pad_to_length=2), np.zeros((2, DIM)))
    close(v.query([[], []], pad_to_length=2), np.zeros((2, 2, DIM)))
    assert not list(cache.glob("files/*"))


def test_an_empty_sentence_among_others(opened, encode):
    batch = [[], SENTENCE, [], ["dog"]]
    close(opened().query(batch), padded(encode, batch, 5))


@pytest.mark.parametrize("normalized", [None, False, True])
def test_a_stored_key_has_its_stored_vector(opened, stored, normalized):
    v = opened(normalized=normalized)
    for at, key in enumerate(KEYS):
        close(v.query(key), stored[bool(normalized)][at], atol=1e-6)
        close(v.query(key, normalized=True), stored[True][at], atol=1e-6)


def test_a_stored_key_needs_no_model(opened, cache):
    v = opened()
    v.query("cat")
    assert v.similarity("cat", "sat") == pytest.approx(v.similarity("sat", "cat"))
    assert not list(cache.glob("files/*"))


def test_keys_by_themselves_are_looked_up_once(opened, stored, monkeypatch):
    v, asked = opened(), []
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
def test_a_key_outside_is_a_sentence_of_one_word(opened, encode, name):
    v = opened(name)
    for key in ("zebra", "CAT", "", "été", "\ud800"):
        close(v.query(key), encode([key])[0])


def test_case_insensitive_keys(opened, stored, encode):
    v = opened(case_insensitive=True)
    close(v.query("CAT"), stored[False][1], atol=1e-6)
    close(v.query(["CAT"]), encode(["CAT"]))


def test_numbers_alone_have_the_vectors_of_other_files(opened):
    v, other = opened(), opened("no_elmo", normalized=False, ngram_oov=False)
    for number in (7, 2.5, True, np.float32(3)):
        close(v.query(number), other.query(number), atol=0)


@pytest.mark.parametrize("q", [["the", 7], [["the"], ["cat", None]], ["the", ["cat"]], [b"the"]])
def test_what_is_no_word_in_a_sentence(opened, q):
    with pytest.raises(ArgumentError, match="expected words"):
        opened().query(q)


def test_what_is_no_key(opened):
    with pytest.raises(ArgumentError, match="is no key"):
        opened().query(None)


def test_vectors_are_not_normalized_unless_asked(opened, encode):
    v, scaled = opened(), opened(normalized=True)
    assert (v.normalized, v.ngram_oov, scaled.normalized) == (False, False, True)
    for q, expected in [
        (SENTENCE, encode(SENTENCE)),
        ("zebra", encode(["zebra"])[0]),
    ]:
        close(v.query(q), expected)
        close(v.query(q, normalized=True), unit(expected))
        close(scaled.query(q), unit(expected))
        close(scaled.query(q, normalized=False), expected)


def test_padding_stays_zero_when_normalized(opened, encode):
    expected = padded(encode, BATCH, 5)
    lengths = np.linalg.norm(expected, axis=-1, keepdims=True)
    expected = np.divide(expected, lengths, out=expected, where=lengths > 0)
    close(opened(normalized=True).query(BATCH), expected)


@pytest.mark.parametrize("normalized", [False, True])
def test_words_outside_the_vocabulary_may_be_hashed(opened, encode, normalized):
    v = opened(ngram_oov=True, normalized=normalized)
    other = opened("no_elmo", ngram_oov=True, normalized=normalized)
    got, expected = v.query(SENTENCE), encode(SENTENCE)
    if normalized:
        expected = unit(expected)
    outside = [1, 4]
    expected[outside] = other.query(["quick", "down"])
    close(got, expected)
    close(got[outside], expected[outside], atol=0)
    close(v.query("quick"), expected[1], atol=0)
    close(v.query("cat"), other.query("cat"), atol=0)


def test_a_sentence_of_hashed_words_needs_no_model(opened, cache):
    v = opened("no_words", ngram_oov=True)
    assert v.query(BATCH).shape == (3, 5, DIM)
    assert not list(cache.glob("files/*"))


def test_unroll_separates_the_layers(opened, encode):
    v = opened(placeholders=3)
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
def test_unroll_refuses_other_shapes(opened, shape):
    with pytest.raises(ArgumentError, match=f"{DIM} dimensions"):
        opened().unroll(np.zeros(shape))


def test_unroll_of_other_files_gives_back_what_it_was_given(opened):
    vectors = np.zeros((2, 5))
    assert opened("no_elmo").unroll(vectors) is vectors


@pytest.fixture
def alone(encode, stored):
    """Give the float64 vector of a word by itself, in the file with a vocabulary."""

    def vector(word):
        known = stored[False][KEYS.index(word)] if word in KEYS else encode([word])[0]
        return known.astype(np.float64)

    return vector


WORDS = ["cat", "zebra", "Dog", "dog", "quick"]


def test_similarity_and_distance_take_words_by_themselves(opened, alone):
    v = opened()
    vectors = np.array([alone(word) for word in WORDS])
    for word in WORDS:
        mine = alone(word)
        np.testing.assert_allclose(v.similarity(word, WORDS), unit(vectors) @ unit(mine), atol=1e-5)
        np.testing.assert_allclose(
            v.distance(word, WORDS), np.linalg.norm(vectors - mine, axis=1), atol=1e-4
        )


def test_most_similar_to_given(opened, alone):
    v = opened()
    for word in ("sat", "zebra"):
        cosines = [unit(alone(word)) @ unit(alone(other)) for other in WORDS[2:]]
        assert v.most_similar_to_given(word, WORDS[2:]) == WORDS[2:][int(np.argmax(cosines))]


def test_doesnt_match(opened, alone):
    vectors = unit(np.array([alone(word) for word in WORDS]))
    far = np.linalg.norm(vectors - unit(vectors.mean(0)), axis=1)
    assert opened().doesnt_match(WORDS) == WORDS[int(np.argmax(far))]


@pytest.mark.parametrize("word", ["cat", "zebra"])
def test_most_similar(opened, alone, stored, word):
    expected = sorted(
        ((key, unit(alone(word)) @ row) for key, row in zip(KEYS, stored[True], strict=True)),
        key=lambda pair: -pair[1],
    )
    expected = [pair for pair in expected if pair[0] != word][:3]
    got = opened().most_similar(word, topn=3)
    assert [key for key, _ in got] == [key for key, _ in expected]
    np.testing.assert_allclose([s for _, s in got], [s for _, s in expected], atol=1e-5)


def test_most_similar_to_a_vector_in_context(opened, stored, encode):
    v = opened()
    cosines = stored[True] @ unit(encode(SENTENCE)[2])
    ((key, similarity),) = v.most_similar(v.query(SENTENCE)[2], topn=1)
    assert key == KEYS[int(np.argmax(cosines))]
    assert similarity == pytest.approx(cosines.max(), abs=1e-5)


def test_the_vocabulary(opened, stored):
    v = opened()
    assert len(v) == len(KEYS)
    assert all(key in v for key in KEYS)
    assert not any(key in v for key in ("zebra", "CAT", 7))
    assert [key for key, _ in v] == KEYS
    close(np.array([vector for _, vector in v]), stored[False], atol=1e-6)
    assert v.index(-1)[0] == KEYS[-1]
    assert v.index([1, 0], return_vector=False) == [KEYS[1], KEYS[0]]


def test_a_file_without_vocabulary(opened):
    v = opened("no_words")
    assert len(v) == 0
    assert "cat" not in v
    assert list(v) == []
    with pytest.raises(IndexError):
        v.index(0)
    for search in (v.most_similar, v.most_similar_cosmul):
        with pytest.raises(FormatError, match="with Google News word2vec vocabulary"):
            search("cat")
    assert v.similarity("cat", "cat") == pytest.approx(1)


def test_concatenation_with_other_vectors(opened, encode):
    v, other = opened(), opened("no_elmo")
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


def test_concatenation_with_features(opened, encode):
    tags = FeaturizerMagnitude(100, "tags")
    both = Magnitude(opened(), tags)
    pairs = [("the", "DT"), ("quick", "JJ"), ("cat", "NN")]
    words, parts = map(list, zip(*pairs, strict=True))
    expected = np.hstack([encode(words), tags.query(parts)])
    close(both.query(pairs), expected)
    close(both.query([pairs, pairs[:1]])[0], expected)


@pytest.mark.parametrize("q", [SENTENCE, BATCH, "zebra"], ids=["sentence", "batch", "key"])
def test_a_second_call_gives_the_same_bits(opened, q):
    v = opened()
    first = v.query(q)
    np.testing.assert_array_equal(v.query(q), first, strict=True)


def test_a_pickled_object(opened, encode):
    v = opened(normalized=True)
    v.query(SENTENCE)
    with pickle.loads(pickle.dumps(v)) as other:
        close(other.query(SENTENCE), unit(encode(SENTENCE)))


def test_a_fork_after_the_first_use(opened):
    v = opened()
    expected = v.query(SENTENCE), v.query(BATCH), v.query("zebra")

    def ask():
        for q, answer in zip((SENTENCE, BATCH, "zebra"), expected, strict=True):
            np.testing.assert_array_equal(v.query(q), answer, strict=True)

    for _ in range(2):
        child = multiprocessing.get_context("fork").Process(target=ask)
        child.start()
        child.join(30)
        child.kill()
        assert child.exitcode == 0
        ask()


def test_a_fork_before_the_first_use(opened, encode):
    v = opened()
    child = multiprocessing.get_context("fork").Process(
        target=lambda: close(v.query(SENTENCE), encode(SENTENCE))
    )
    child.start()
    child.join(30)
    child.kill()
    assert child.exitcode == 0
    close(v.query(SENTENCE), encode(SENTENCE))


def test_threads_share_an_object(opened, encode):
    v = opened()
    ready = threading.Barrier(6)
    sentences = [SENTENCE, ["dog"], SENTENCE[::-1]]

    def ask(turn):
        ready.wait(10)
        for at in range(turn, turn + 9):
            sentence = sentences[at % 3]
            close(v.query(sentence), encode(sentence))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))


def test_a_closed_object_lets_its_files_go(opened, cache):
    v = opened()
    v.query(SENTENCE)
    assert list(cache.glob("files/*"))
    v.close()
    assert v._contextual._opened.get() is None


@pytest.mark.parametrize("projection_dim", [8, 10])
@pytest.mark.parametrize("q", [SENTENCE, BATCH[:1], "zebra"], ids=["sentence", "batch", "key"])
def test_a_file_that_was_replaced_since_it_was_cached(tmp_path, folder, server, q, projection_dim):
    """The first answer is that of the new file."""
    keys = mf.random_words(4000, 1)
    for seed, size in enumerate((8, projection_dim)):
        options, weights = ef.write_model(tmp_path, ef.options(projection_dim=size), seed=seed)
        new = mf.write_magnitude(
            tmp_path / "new",
            keys[seed:],
            mf.random_vectors(4000 - seed, 6 * size, seed),
            elmo=True,
            meta=(weights.read_bytes(), options.read_bytes()),
        )
        replace_file(folder / "replaced", new)
        encoder = Encoder(options, weights)
        expected = next(iter(encoder.embed([[q] if isinstance(q, str) else SENTENCE])))
        with Magnitude(server.url + "replaced", stream=True) as v:
            got = v.query(q)
            close(np.atleast_2d(got.squeeze()), expected)
            assert v.query(keys[3000]).shape == (6 * size,)


LARGE_ROWS, LARGE_DIM = 12_000, 96
CHILD = """
import sys
import numpy as np
from streamfile import Magnitude
url, cache, size, answer = sys.argv[1:]
options = {"cache_dir": cache, "cache_size": int(size)}
with Magnitude(url, stream=True, stream_options=options) as v:
    assert "not there" not in v
    np.save(answer, v.query(["the", "quick", "cat", "sat", "down"]))
"""


def test_a_large_file_is_streamed(tmp_path):
    """Its model is fetched once a machine, and of its vocabulary what was asked for."""
    options, weights = ef.write_model(tmp_path, ef.options(dim=1024, projection_dim=16))
    model = weights.read_bytes()
    frame = lz4.frame.compress(model)
    assert len(model) > 2 * MIB
    keys = mf.random_words(LARGE_ROWS, 5)
    vectors = mf.random_vectors(LARGE_ROWS, LARGE_DIM, 5)
    served = tmp_path / "served"
    served.mkdir()
    path = mf.write_magnitude(
        served / "large", keys, vectors, elmo=True, meta=(model, options.read_bytes())
    )
    content = path.read_bytes()
    skipped = 8192  # beside the root of its table, which lies by itself
    inner = frame[skipped:]
    blob = slice(content.index(inner[:32]), content.index(inner[-32:]) + 32)
    assert 0.99 * len(inner) < blob.stop - blob.start < 1.01 * len(inner)
    assert len(content) > len(frame) + 5 * MIB
    encoder = Encoder(options, weights)
    sentence, *others = encoder.embed(BATCH)
    own = {"cache_dir": tmp_path / "own", "cache_size": len(model) + 16 * MIB}
    with LoggingServer(served) as server:
        url = server.url + path.name
        with Magnitude(url, stream=True, stream_options=own) as v:
            close(v.query(SENTENCE), sentence)
            assert v.stats.bytes <= len(frame) + 2 * MIB
            np.testing.assert_array_equal(fetched(server, content)[blob], 1)
            with v.stats.measure() as used:
                assert keys[7000] in v
                assert "not there" not in v
                close(v.query(keys[9000]), vectors[9000])
                close(v.query(SENTENCE), sentence)
                batch = v.query(BATCH)
            close(batch[0], sentence)
            close(batch[2, :3], others[1])
            assert used.bytes < MIB
            np.testing.assert_array_equal(fetched(server, content)[blob], 1)
        before, answer = len(server.log), tmp_path / "answer.npy"
        command = [sys.executable, "-c", CHILD, url, own["cache_dir"], own["cache_size"], answer]
        subprocess.run(list(map(str, command)), check=True, timeout=60)
        assert not fetched(server, content, before)[blob].any()
        assert sum(record.sent for record in server.log[before:]) < MIB
        close(np.load(answer), sentence)


CONTENT = """
import re, sys
from pathlib import Path
import numpy as np
from streamfile import Magnitude

def memory(what):
    return int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

texts = [line.split() for line in Path(sys.argv[2]).read_text().splitlines()]
with Magnitude(sys.argv[1]) as v:
    v.query(texts[:1200])
    before = memory("VmRSS")
    answer = v.query(texts)
    print(memory("VmHWM") - before - answer.nbytes, answer.nbytes)
    for at in range(0, len(texts), 700):
        part = v.query(texts[at : at + 700])
        np.testing.assert_allclose(answer[at : at + 700, : part.shape[1]], part, atol=1e-5, rtol=0)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_thousands_of_sentences_take_little_beside_their_answer(tmp_path):
    """Memory holds some thousand tokens more; the vectors are those that pieces of the text get."""
    dim = 1536
    options, weights = ef.write_model(tmp_path, ef.options(projection_dim=dim // 6))
    model = weights.read_bytes(), options.read_bytes()
    path = mf.write_magnitude(
        tmp_path / "none", [], np.zeros((0, dim), np.float32), elmo=True, meta=model
    )
    words, rng = mf.random_words(500, 1), random.Random(1)
    texts = tmp_path / "texts"
    texts.write_text("\n".join(" ".join(rng.choices(words, k=5)) for _ in range(3500)))
    said = subprocess.run(
        [sys.executable, "-c", CONTENT, str(path), str(texts)],
        check=True,
        timeout=60,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    beyond, answer = map(int, said.split())
    assert answer == 3500 * 5 * dim * 4
    assert beyond < answer // 2


def cost(v, task):
    """Count waves, requests and bytes."""
    with v.stats.measure() as used:
        task()
    return used.waves, used.requests, used.bytes


@pytest.fixture(scope="module")
def of_768_dimensions(folder, meta):
    """A file in which a row nearly fills a page; give its name and 50 keys with their vectors."""
    keys, vectors = mf.random_words(3000, 1), mf.random_vectors(3000, 768, 1)
    mf.write_magnitude(folder / "768", keys, vectors, elmo=True, meta=meta)
    places = random.Random(1).sample(range(3000), 50)
    units = mf.decode(mf.quantize(vectors[places], 7)[0], 1.0, 7)[0]
    return "768", [keys[place] for place in places], units


@pytest.fixture(scope="module")
def of_3072_dimensions(folder, model):
    """The same of a file that has the rest of each row in a chain of pages."""
    if why := why_no_wide_sqlite():
        pytest.skip(why)
    path = wide_sqlite().write_wide_magnitude(folder / "3072", 1500, 3072, 1, model[::-1])
    rowids = random.Random(1).sample(range(1, 1497), 50)  # behind them, keys in other cases
    rows = wide_sqlite().rows(path, rowids=rowids)
    return "3072", rows.keys, mf.decode(rows.dims, 1.0, 7)[0]


@pytest.mark.parametrize(
    ("file", "opening", "first", "second"),
    [
        ("of_768_dimensions", (2, 2, 147456), (3, 31, 172032), (2, 26, 102401)),
        ("of_3072_dimensions", (2, 2, 184320), (4, 53, 344064), (3, 51, 307201)),
    ],
)
def test_what_stored_keys_cost(request, server, tmp_path, file, opening, first, second):
    """Index, rows, the rest of long rows; for a later object the way is known, to be confirmed."""
    name, keys, vectors = request.getfixturevalue(file)
    own = {"cache_dir": tmp_path / "own", "cache_size": 64 * MIB}
    some, others = slice(25), slice(25, 50)

    def ask(v, part):
        np.testing.assert_array_equal(
            mf.by_themselves(v, keys[part], normalized=True), vectors[part]
        )

    def check(v):
        assert keys[-1] in v
        assert "not there" not in v

    with Magnitude(server.url + name, stream=True, stream_options=own) as v:
        assert (v.stats.waves, v.stats.requests, v.stats.bytes) == opening
        assert cost(v, lambda: ask(v, some)) == first
        assert opening[0] + first[0] <= 6
        assert cost(v, lambda: ask(v, some)) == (0, 0, 0)
        assert cost(v, lambda: check(v)) == (0, 0, 0)
    with Magnitude(server.url + name, stream=True, stream_options=own) as v:
        assert v.stats.requests == 0
        assert cost(v, lambda: ask(v, others)) == second
    with Magnitude(server.url + name, stream=True, stream_options=own) as v:
        assert cost(v, lambda: ask(v, others)) == (1, 1, 1)
        assert cost(v, lambda: check(v)) == (0, 0, 0)
    with Magnitude(server.url + name, stream=True, stream_options={"cache_size": 0}) as v:
        assert cost(v, lambda: check(v)) == (2, 2, 8192)


TREES = 20


@pytest.fixture(scope="module")
def heavy(folder, files, meta):
    """A file with 500 words and an index of approximate neighbours; give the words and vectors."""
    annoy = pytest.importorskip("annoy")
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


def test_most_similar_approx(opened, heavy, encode):
    """By a stored key, by a word of which only the model knows, by a vector in its context."""
    keys, units = heavy
    v = opened("heavy")
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


def fetched(server, content, begin=0):
    """Count how often each byte of a file was asked for."""
    times = np.zeros(len(content), int)
    for record in server.log[begin:]:
        if "Range" in record.headers:
            times[slice(*asked_range(record))] += 1
    return times


def changed_frame(path, change):
    """Change the stored bytes of a file's weights."""
    connection = apsw.Connection(str(path))
    rows = [row for (row,) in connection.execute("SELECT meta_file FROM magnitude_meta_1")]
    connection.execute("DELETE FROM magnitude_meta_1")
    connection.execute("INSERT INTO magnitude_meta_1 VALUES (?)", (change(b"".join(rows)),))
    connection.close()


@pytest.fixture
def bad(tmp_path, folder, files, opened, request):
    """Open a file that is written for one test, by what writes it."""

    def open_it(write, **options):
        path = folder / f"{request.node.originalname}-{len(files)}"
        write(path)
        files[path.name] = path
        return opened(path.name, **options)

    return open_it


UNUSABLE = r"-\d+: its ELMo model cannot be used; get the file again"


@pytest.mark.parametrize("dim", [DIM - 6, DIM + 1, 3 * DIM])
def test_a_model_of_other_dimensions(bad, meta, dim):
    v = bad(
        lambda path: mf.write_magnitude(
            path, KEYS, mf.random_vectors(len(KEYS), dim, 1), elmo=True, meta=meta
        )
    )
    for ask in (lambda: v.query(SENTENCE), lambda: v.unroll(v.query("cat"))):
        with pytest.raises(FormatError, match=f"{DIM} dimensions, the file says {dim}"):
            ask()
    assert v.query("cat").shape == (dim,)


@pytest.mark.parametrize(
    "options",
    [b"", b"{", b"[]", b"{}", b"\xff\xfe", json.dumps(ef.options(projection_dim=9)).encode()],
)
def test_options_that_are_none(bad, meta, given, options):
    v = bad(lambda path: mf.write_magnitude(path, KEYS, given, elmo=True, meta=(meta[0], options)))
    for _ in range(2):
        with pytest.raises(FormatError, match=UNUSABLE):
            v.query(SENTENCE)
    assert v.query("cat").shape == (DIM,)


@pytest.mark.parametrize(
    "weights",
    [lambda whole: b"not HDF5" * 100, lambda whole: whole[:-3000], lambda whole: whole[:100]],
    ids=["other", "truncated", "short"],
)
def test_weights_that_are_none(bad, meta, given, weights):
    model = weights(meta[0]), meta[1]
    v = bad(lambda path: mf.write_magnitude(path, KEYS, given, elmo=True, meta=model))
    with pytest.raises(FormatError, match=UNUSABLE):
        v.query(SENTENCE)


def test_the_options_of_another_model(bad, meta, given):
    model = meta[0], json.dumps(ef.options(dim=32)).encode()
    v = bad(lambda path: mf.write_magnitude(path, KEYS, given, elmo=True, meta=model))
    with pytest.raises(FormatError, match=UNUSABLE + r".*W_0 must be of shape \(16, 128\)"):
        v.query(SENTENCE)


def test_a_missing_dataset(bad, model, given, tmp_path):
    options, weights = model
    changed = tmp_path / "weights"
    changed.write_bytes(weights.read_bytes())
    with h5py.File(changed, "a") as file:
        del file["CNN_proj/W_proj"]
    meta = changed.read_bytes(), options.read_bytes()
    v = bad(lambda path: mf.write_magnitude(path, KEYS, given, elmo=True, meta=meta))
    with pytest.raises(FormatError, match=UNUSABLE + ".*dataset CNN_proj/W_proj is missing"):
        v.query(SENTENCE)


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame[:-2000],
        lambda frame: frame[:15] + b"\xff\xff\xff\x7f" + frame[19:],  # a block's length
        lambda frame: b"no frame" + frame[8:],
        lambda frame: b"",
    ],
    ids=["truncated", "corrupt", "other", "empty"],
)
def test_a_damaged_frame(bad, meta, given, change):
    def write(path):
        mf.write_magnitude(path, KEYS, given, elmo=True, meta=meta)
        changed_frame(path, change)

    v = bad(write)
    for _ in range(2):
        with pytest.raises(FormatError, match="magnitude_meta_1"):
            v.query(SENTENCE)
    assert v.query("cat").shape == (DIM,)


@pytest.fixture(scope="module")
def larger(tmp_path_factory, folder, files, given):
    """A file with more than a megabyte of weights; give their bytes, and the model."""
    options, weights = ef.write_model(tmp_path_factory.mktemp("larger"), ef.options(dim=1024))
    model = weights.read_bytes(), options.read_bytes()
    files["larger"] = mf.write_magnitude(folder / "larger", KEYS, given, elmo=True, meta=model)
    return len(model[0]), Encoder(options, weights)


def told_size(failure):
    """Read what an error says that the model needs."""
    asked = re.search(r"needs a cache_size of ([\d,]+) bytes in all", str(failure.value))
    return int(asked[1].replace(",", ""))


@pytest.mark.parametrize("cap", [0, 266_240, 600_000])
def test_a_cache_that_is_too_small_for_the_model(server, larger, tmp_path, cap):
    """What the error asks for is enough."""
    size, encoder = larger
    own = {"cache_dir": tmp_path / "small", "cache_size": cap}
    with Magnitude(server.url + "larger", stream=True, stream_options=own) as v:
        with v.stats.measure() as used, pytest.raises(CacheSpaceError) as failure:
            v.query(SENTENCE)
        assert used.bytes < 300_000 < size / 4
        assert not list(tmp_path.glob("small/files/*.*"))
        assert v.query("cat").shape == (DIM,)
    assert size < told_size(failure) < size + 3 * MIB
    own["cache_size"] = told_size(failure)
    with Magnitude(server.url + "larger", stream=True, stream_options=own) as v:
        close(v.query(SENTENCE), next(iter(encoder.embed([SENTENCE]))))


@pytest.fixture
def unpromised(larger, folder, files):
    """The same file with a frame that does not tell the size of its content."""
    path = folder / "unpromised"
    path.write_bytes(files["larger"].read_bytes())
    changed_frame(
        path, lambda frame: lz4.frame.compress(lz4.frame.decompress(frame), store_size=False)
    )
    files["unpromised"] = path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
@pytest.mark.parametrize("name", ["larger", "unpromised"])
def test_a_full_disk(opened, larger, unpromised, cache, monkeypatch, name):
    """At once where the frame tells its size, in the middle where it does not."""
    size, encoder = larger
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", str(64 * MIB))
    monkeypatch.setattr("streamfile.readers.kept_blobs.GROW", 100_000)
    cache.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size + 100_000}", "tmpfs", str(cache)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (cache / "other").write_bytes(bytes(200_000))
        v = opened(name)
        for _ in range(2):
            with pytest.raises(CacheSpaceError, match=r"is full \(.*No space left") as failure:
                v.query(SENTENCE)
            # The options, which did fit.
            assert [path.stat().st_size < 1000 for path in cache.glob("files/*")] == [True]
            assert v.query("cat").shape == (DIM,)
        assert 0.99 * size < told_size(failure) < size + 3 * MIB
        grow = ["mount", "-o", f"remount,size={told_size(failure) + 300_000}", str(cache)]
        subprocess.run(grow, check=True)
        close(v.query(SENTENCE), next(iter(encoder.embed([SENTENCE]))))
        v.close()
    finally:
        subprocess.run(["umount", "--lazy", str(cache)], check=True)


LIMITED = """
import os, resource, sys
from streamfile import Magnitude
from vfs.errors import CacheSpaceError
with Magnitude(sys.argv[1], stream=True) as v:
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, usual[1]))
    try:
        v.query(["the"])
    except CacheSpaceError as failure:
        print("File too large" in str(failure), "needs a cache_size of" in str(failure))
    names = os.listdir(os.environ["STREAMFILE_CACHE_DIR"] + "/files")
    print([name for name in names if "." in name])  # what is unfinished
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    print(*v.query(["the"]).shape)
"""


def test_weights_larger_than_a_file_may_be(server, larger, monkeypatch):
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", str(64 * MIB))
    said = subprocess.run(
        [sys.executable, "-c", LIMITED, server.url + "larger"],
        check=True,
        timeout=60,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert said.split("\n") == ["True True", "[]", f"1 {DIM}", ""]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "one of float32, bfloat16, not 'int8'"),
        ({"backend": "keras"}, "one of torch, allennlp, not 'keras'"),
        ({"backend": "allennlp", "precision": "bfloat16"}, "float32 only, not bfloat16"),
        ({"devices": 0}, r"the numbers of GPUs, such as \[0\].* not 0"),
        ({"devices": "cuda"}, "not 'cuda'"),
    ],
)
def test_what_a_model_cannot_be_computed_with_is_refused_at_opening(files, options, message):
    with pytest.raises(ArgumentError, match=message):
        Magnitude(files["words"], **options)


def test_a_gpu_that_is_not_there_is_missed_before_anything_is_fetched(server, larger):
    with Magnitude(server.url + "larger", stream=True, devices=[99]) as v:
        with v.stats.measure() as used, pytest.raises(ArgumentError, match=r"devices=\[99\], but"):
            v.query(SENTENCE)
        assert used.requests == 0


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from streamfile import Magnitude
with Magnitude(sys.argv[1], stream=True) as v:
    assert v.query("cat").shape and "zebra" not in v
    before = v.stats.bytes
    try:
        v.query(["the", "cat"])
    except ImportError as failure:
        print(v.stats.bytes - before, failure)
"""


def test_torch_is_not_installed(server):
    said = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, server.url + "words"],
        check=True,
        timeout=60,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert said.startswith("0 ")
    assert 'pip install "streamfile[elmo]"' in said


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


def test_a_file_of_3072_dimensions(opened, wide):
    path, encoder = wide
    v = opened("wide")
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
