"""Vectors for keys outside the file, from hashes of their n-grams."""

from __future__ import annotations

import re
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from streamfile.errors import ArgumentError

BOW = EOW = "\uf000"
NAMESPACE_END = "\uf002"
SHORTEST_NGRAM, LONGEST_NGRAM = 1, 6
RUN_OF_THREE = re.compile(r"([^<])\1{2,}", re.DOTALL)
RANDOM_SHARE = 0.3

Vector = npt.NDArray[np.float64]


_of_thread = threading.local()


def _generator(seed: int) -> np.random.RandomState:
    """Seed this thread's generator: making one takes far longer than seeding it."""
    generator: np.random.RandomState | None = getattr(_of_thread, "generator", None)
    if generator is None:
        generator = _of_thread.generator = np.random.RandomState()
    generator.seed(seed)
    return generator


def random_vector(text: str, dim: int, namespace: str | None = None) -> Vector:
    """Hash a text to a vector whose components are uniform in [-1, 1).

    Parameters
    ----------
    text
        Text whose xxHash32, of the UTF-8 bytes, seeds a Mersenne Twister.
    dim
        Number of components.
    namespace
        Name that is hashed together with the text: equal texts in different namespaces get
        different vectors. None for no namespace.

    Returns
    -------
    ndarray
        float64, shape (dim,).
    """
    if namespace is not None:
        text = namespace + NAMESPACE_END + text
    seed = xxhash.xxh32_intdigest(text.encode("utf-8", "surrogatepass"))
    return _generator(seed).uniform(-1, 1, dim)


def ngrams(text: str, shortest: int, longest: int) -> list[str]:
    """List the n-grams of a text with `shortest` to `longest` characters, short ones first.

    Repeated n-grams are listed each time.
    """
    return [
        text[start : start + length]
        for length in range(shortest, longest + 1)
        for start in range(len(text) - length + 1)
    ]


def hash_vector(
    key: Any,
    dim: int,
    *,
    normalized: bool,
    ngram_oov: bool,
    case_insensitive: bool,
    dtype: npt.DTypeLike,
    namespace: str | None = None,
    similar: npt.NDArray[Any] | None = None,
) -> Vector:
    """Compute the vector of a key outside the file.

    Parameters
    ----------
    key
        A string or a number. The vector of a number is the vector of the name of its type, with
        the number, divided by the greatest number of `dtype`, as last component.
    dim
        Number of components.
    normalized
        Whether to scale the vector of a string to unit length. If not, a vector without similar
        keys has the length 0.3.
    ngram_oov
        Whether to average the vectors of the key's n-grams, so that similar keys get similar
        vectors.
    case_insensitive
        Whether to lower-case the key first.
    dtype
        Float type whose greatest number scales numbers.
    namespace
        Namespace of the hashes, see `random_vector`.
    similar
        Vectors of similar keys, shape (n, dim). The direction of their mean has the weight 0.7,
        the hash 0.3.

    Returns
    -------
    ndarray
        float64, shape (dim,).

    Raises
    ------
    ArgumentError
        The key is an integer beyond the range of floats.
    """
    if not isinstance(key, str):
        vector = random_vector(type(key).__name__, dim, namespace)
        try:
            vector[-1] = np.dtype(dtype).type(key) / np.finfo(dtype).max
        except OverflowError as failure:
            raise ArgumentError(f"a number is too large for a key: {failure}") from None
        return vector
    text = BOW + (key.lower() if case_insensitive else key) + EOW
    text = RUN_OF_THREE.sub(r"\1\1", text)
    if ngram_oov:
        pieces = ngrams(text, SHORTEST_NGRAM, LONGEST_NGRAM)
        vector = np.mean([random_vector(piece, dim, namespace) for piece in pieces], axis=0)
    else:
        vector = random_vector(text, dim, namespace)
    vector *= RANDOM_SHARE / np.linalg.norm(vector)
    if similar is not None and len(similar):
        mean = np.mean(similar, axis=0, dtype=np.float64)
        length = np.linalg.norm(mean)
        if length != 0:
            vector += (1 - RANDOM_SHARE) * (mean / length)
    return vector / np.linalg.norm(vector) if normalized else vector
