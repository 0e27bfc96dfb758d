"""The vectors of words outside the file, computed plainly: what the library is held against."""

from fractions import Fraction
from itertools import groupby

import numpy as np
import xxhash

DIM = 11


EDGE = "\uf000"


def seeded(text, dim, namespace=None):
    """Give the random vector of a text."""
    if namespace is not None:
        text = namespace + "\uf002" + text
    seed = xxhash.xxh32(text.encode("utf-8", "surrogatepass")).intdigest()
    return np.random.RandomState(seed).uniform(-1, 1, dim)


def shrunk(text):
    """Cut runs of three or more to two."""
    runs = [(char, len(list(run))) for char, run in groupby(text)]
    return "".join(char * (count if char == "<" else min(count, 2)) for char, count in runs)


def mean_of_ngrams(text, dim, namespace=None):
    windows = [
        text[start : start + n] for n in (1, 2, 3, 4, 5, 6) for start in range(len(text) - n + 1)
    ]
    return sum(seeded(window, dim, namespace) for window in windows) / len(windows)


def hashed(
    key, dim=DIM, *, normalized=True, ngram_oov=True, case_insensitive=False, namespace=None
):
    """Give the vector of a string with no similar keys in the file."""
    text = EDGE + key + EDGE
    text = shrunk(text.lower() if case_insensitive else text)
    vector = (mean_of_ngrams if ngram_oov else seeded)(text, dim, namespace)
    return vector / np.linalg.norm(vector) * (1 if normalized else 0.3)


KEYS = [
    "uberx",
    "a",
    "",
    "ab",
    "a rather long key " * 20,
    "x" * 300,
    "goooooood",
    "hmmm",
    "aaa",
    "aa",
    "aaabbbccc   \n\n\n!!!",
    "<<<<<<",
    "a<<<b",
    "<",
    "naïve Straße",
    "日本語日本語語語語",
    "\U0001f600" * 5,
    EDGE,
    EDGE * 3 + "a",
    "a\0\0\0\0b",
    "\ud800\ud800\ud800",
    "MiXeD CaSe İ",
    "AAaaAA",
    "1",
    "1.0",
    "True",
]


NUMBERS = [
    0,
    1,
    -3,
    2**31,
    10**30,
    0.0,
    1.0,
    -2.5,
    1e-30,
    True,
    False,
    np.float32(1),
    np.float64(1),
    np.float16(1.5),
    np.int64(1),
    np.uint8(200),
    np.bool_(True),
    Fraction(1, 3),
]
