"""Vectors of what is not in the file: the published formula, written out once more."""

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import magnitude_files as mf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from plain_hashing import DIM, KEYS, NUMBERS, hashed, seeded
from serving import LoggingServer

import streamfile
from streamfile import Magnitude
from streamfile.oov.hashing import random_vector

quick = settings(max_examples=100)


def test_the_formula_gives_the_published_numbers():
    """For namespace PartsOfSpeech and four dimensions, of Featurizer's documentation."""
    expected = [0.08040417, -0.71705252, 0.61228951, 0.32322192]
    got = hashed("NN", 4, namespace="PartsOfSpeech")
    np.testing.assert_allclose(got, expected, atol=5e-9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oov")
    keys = [f"in the file {word}" for word in mf.random_words(50, 1)]
    mf.write_magnitude(folder / "light", keys, mf.random_vectors(50, DIM, 1))
    mf.write_magnitude(folder / "elmo", keys, mf.random_vectors(50, 12, 1), elmo=True)
    return folder


@pytest.fixture(scope="module", params=["local", "streamed"])
def opened(request, folder):
    with LoggingServer(folder) as server:
        if request.param == "local":
            yield lambda name="light", **options: Magnitude(folder / name, **options)
        else:
            own = {"stream": True, "stream_options": {"cache_size": 0, "connections": 2}}
            yield lambda name="light", **options: Magnitude(server.url + name, **own, **options)


@pytest.mark.parametrize("case_insensitive", [False, True])
@pytest.mark.parametrize("ngram_oov", [True, False])
@pytest.mark.parametrize("normalized", [True, False])
def test_strings_get_the_vector_of_their_spelling(opened, normalized, ngram_oov, case_insensitive):
    options = {"ngram_oov": ngram_oov, "case_insensitive": case_insensitive}
    expected = [hashed(key, normalized=normalized, **options) for key in KEYS]
    with opened(normalized=normalized, dtype=np.float64, **options) as v:
        got = v.query(KEYS)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
        lengths = np.linalg.norm(got, axis=1)
        np.testing.assert_allclose(lengths, 1 if normalized else 0.3, rtol=1e-12)
        for key, vector in zip(KEYS, got, strict=True):
            np.testing.assert_array_equal(v.query(key), vector)
        np.testing.assert_array_equal(v.query([KEYS, KEYS[:2]])[0], got)
        again = v.query(KEYS, normalized=not normalized)
        np.testing.assert_allclose(again, got * (0.3 if normalized else 1 / 0.3), atol=1e-12)


@quick
@given(key=st.text(alphabet="abA<Ё\n ", max_size=12) | st.text(max_size=30))
@example(key="É")
@example(key="\ud800")
def test_any_string_gets_the_vector_of_its_spelling(opened, key):
    with opened(dtype=np.float64) as v:
        np.testing.assert_allclose(v.query(key), hashed(key), rtol=0, atol=1e-12)
        np.testing.assert_array_equal(v.query(["other", key])[1], v.query(key))


def test_runs_of_letters_make_no_difference_beyond_two(opened):
    with opened() as v:
        long, longer, two, one = v.query(["gooood", "goooooood", "good", "god"])
        np.testing.assert_array_equal(long, longer)
        np.testing.assert_array_equal(long, two)
        assert not np.allclose(long, one)
        three, four = v.query(["<<<", "<<<<"])
        assert not np.allclose(three, four)


def test_similar_spellings_have_similar_vectors_only_with_ngrams(opened):
    keys = ["unbelievable", "unbelievably", "kzq"]
    with opened() as v, opened(ngram_oov=False) as w:
        assert (v.ngram_oov, w.ngram_oov) == (True, False)
        a, b, c = v.query(keys)
        assert a @ b > 0.5 > a @ c
        x, y, _ = w.query(keys)
        assert abs(x @ y) < 0.9


def test_elmo_files_have_neither_ngrams_nor_unit_length_by_default(opened):
    with opened("elmo") as v:
        assert (v.ngram_oov, v.normalized) == (False, False)
    with opened("elmo", ngram_oov=True, normalized=True) as v:
        np.testing.assert_allclose(v.query("uberx"), hashed("uberx", 12), atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_are_the_last_component_of_their_types_vector(opened, dtype):
    expected = np.array([seeded(type(number).__name__, DIM) for number in NUMBERS])
    for vector, number in zip(expected, NUMBERS, strict=True):
        vector[-1] = dtype(number) / np.finfo(dtype).max
    for options in ({}, {"normalized": False}, {"ngram_oov": False}):
        with opened(dtype=dtype, **options) as v:
            got = v.query(NUMBERS)
            np.testing.assert_array_equal(got, expected.astype(dtype))
            for number, vector in zip(NUMBERS, got, strict=True):
                np.testing.assert_array_equal(v.query(number), vector)
                np.testing.assert_array_equal(v.query(number, normalized=False), vector)
                assert number not in v


def test_equal_numbers_of_different_types_differ(opened):
    with opened() as v:
        vectors = v.query([1, 1.0, True, np.float32(1), "1"])
        assert len({vector.tobytes() for vector in vectors}) == 5
        np.testing.assert_array_equal(v.query([True, 1.0, 1]), vectors[[2, 1, 0]])
        for at, number in enumerate([1, 1.0, True]):
            np.testing.assert_array_equal(v.query(number), vectors[at])


def test_numbers_with_no_finite_value(opened):
    with opened() as v:
        for number in (float("inf"), float("-inf"), float("nan")):
            vector = v.query(number)
            np.testing.assert_array_equal(vector[-1], np.float32(number))
            np.testing.assert_array_equal(vector[:-1], seeded("float", DIM)[:-1].astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("normalized", [True, False])
def test_placeholders_and_types(opened, dtype, normalized):
    with opened(dtype=dtype, placeholders=4, normalized=normalized) as v:
        got = v.query(["uberx", 7])
        assert got.dtype == dtype
        assert got.shape == (2, DIM + 4)
        assert np.all(got[:, DIM:] == 0)
        expected = hashed("uberx", normalized=normalized).astype(dtype)
        np.testing.assert_allclose(got[0, :DIM], expected, rtol=2 * np.finfo(dtype).eps)
        assert got[1, DIM - 1] == dtype(dtype(7) / np.finfo(dtype).max)


def test_keys_of_the_file_are_not_hashed(opened, folder):
    with opened() as v:
        key, vector = v[0]
        inside, outside = v.query([key, key + " and more"])
        np.testing.assert_array_equal(inside, vector)
        np.testing.assert_allclose(outside, hashed(key + " and more"), atol=1e-7)


def test_the_random_states_of_others_are_left_alone(opened):
    np.random.seed(7)
    random.seed(7)
    expected = np.random.random_sample(3).tolist(), random.random()
    np.random.seed(7)
    random.seed(7)
    with opened() as v:
        v.query(["uberx", "x" * 50, 3, 4.5, True])
    assert (np.random.random_sample(3).tolist(), random.random()) == expected


ASK = """
import sys
from streamfile import Magnitude
print(Magnitude(sys.argv[1]).query(["uberx", "Straße", 3, 2.5]).tobytes().hex())
"""


def test_threads_do_not_share_a_random_state():
    texts = [[f"{thread} {number}" for number in range(1000)] for thread in range(4)]
    interval = sys.getswitchinterval()
    try:
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(4) as threads:
            got = list(threads.map(lambda mine: [random_vector(t, DIM) for t in mine], texts))
    finally:
        sys.setswitchinterval(interval)
    np.testing.assert_array_equal(got, [[seeded(t, DIM) for t in mine] for mine in texts])


def test_another_process_gets_the_same_vectors(folder):
    with Magnitude(folder / "light") as v:
        expected = v.query(["uberx", "Straße", 3, 2.5]).tobytes().hex()
    root = str(Path(streamfile.__file__).parents[1])
    for seed in ("0", "1"):
        environment = {"PYTHONPATH": root, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", ASK, str(folder / "light")]
        answer = subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        )
        assert answer.stdout.strip() == expected
