"""Hashed vectors of the values of a feature: a model without a file."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Array
from streamfile._lru import RecentVectors, capacity_for, complete
from streamfile.errors import ArgumentError, FormatError, NoIndexError
from streamfile.lookup.vectors import key_name
from streamfile.magnitude.arguments import check_counts, checked_arguments
from streamfile.magnitude.keyed_vectors import KeyedVectorsNames
from streamfile.magnitude.magnitude import Magnitude
from streamfile.magnitude.shapes import Key
from streamfile.oov.hashing import hash_vector
from vfs.errors import ClosedError
from vfs.forks import ForkLock

COLLISION = 0.001  # probability that two of all values get nearly equal vectors
STEPS = 100  # values of a component that are assumed to be distinguishable
LEAST_DIM = 2


class FeaturizerMagnitude(KeyedVectorsNames):
    """Vectors of the values of a feature, such as parts of speech, computed from the spelling.

    A featurizer contains no keys, but any key has a vector. A concatenation with word vectors,
    ``Magnitude(words, tags)``, answers queries for pairs: ``query([("cat", "NN"), …])``.

    Parameters
    ----------
    number_of_values : int
        Approximate number of values of the feature. The number of dimensions depends on it, so
        that the probability of a collision among all values is at most 0.1 %.
    namespace : str, optional
        Name of the feature. Equal values have different vectors under different names.
    lazy_loading : int
        Number of vectors in memory: n > 0 for the n most recently used ones, else as many as fit in
        64 MiB.
    normalized, use_numpy, case_insensitive, pad_to_length, truncate_left, pad_left, placeholders, \
ngram_oov, dtype
        See `Magnitude`.
    stream, stream_options, remote_path, blocking
        Options of `Magnitude` for a file. ``blocking`` has no effect; the others must keep their
        defaults.

    Raises
    ------
    ArgumentError
        `number_of_values` is below 1, or another argument has an impossible value.
    TypeError
        An argument has an unknown name.
    """

    __module__ = "streamfile"

    _has_keys: ClassVar[bool] = False

    @checked_arguments
    def __init__(
        self,
        number_of_values: int = 1_000_000,
        namespace: str | None = None,
        *,
        stream: bool = False,
        stream_options: Mapping[str, Any] | None = None,
        remote_path: str | None = None,
        lazy_loading: int = 0,
        blocking: bool = False,
        normalized: bool | None = None,
        use_numpy: bool = True,
        case_insensitive: bool = False,
        pad_to_length: int | None = None,
        truncate_left: bool = False,
        pad_left: bool = False,
        placeholders: int = 0,
        ngram_oov: bool | None = None,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        if number_of_values < 1:
            raise ArgumentError(f"number_of_values={number_of_values}: expected 1 or more")
        if stream or stream_options or remote_path:
            raise ArgumentError("a featurizer has no file to stream")
        super().__init__(
            use_numpy=use_numpy,
            case_insensitive=case_insensitive,
            pad_to_length=pad_to_length,
            truncate_left=truncate_left,
            pad_left=pad_left,
            placeholders=check_counts(lazy_loading, placeholders),
            dtype=dtype,
        )
        self.path = f"feature {namespace or '(no name)'}"
        self.number_of_values = number_of_values
        self.namespace = namespace
        self._normalized = normalized is not False
        self._ngram_oov = ngram_oov is not False
        self._dim = _dimensions(number_of_values)
        self._lock = ForkLock()
        self._closed = False
        capacity = capacity_for(lazy_loading, 0, self._dim, self.dtype)
        self._recent = {  # by `normalized`
            unit: RecentVectors(capacity, self._dim, self.dtype) for unit in (False, True)
        }

    @property
    def dim(self) -> int:
        """Number of dimensions of a result, placeholders included."""
        return self._dim + self.placeholders

    @property
    def normalized(self) -> bool:
        """Whether vectors have unit length unless a query says otherwise."""
        return self._normalized

    @property
    def ngram_oov(self) -> bool:
        """Whether a value gets the mean vector of its n-grams."""
        return self._ngram_oov

    def index(self, q: int | Sequence[int], return_vector: bool = True) -> Any:
        """Raise an IndexError for any position, because there are no rows."""
        self._check_open()
        if isinstance(q, int) or len(q):
            raise IndexError(f"index {q} is out of range: a featurizer has 0 vectors in a file")
        return []

    def get_vectors_mmap(self) -> Array:
        """Return an empty array, shape (0, dim), because there are no rows."""
        self._check_open()
        return np.zeros((0, self.dim), self.dtype)

    def close(self) -> None:
        """Forget the vectors in memory, see `VectorModel.close`."""
        self._closed = True
        with self._lock:
            self._recent.clear()

    def __getitem__(self, q: int | slice | Sequence[int]) -> Any:
        return self.index([] if isinstance(q, slice) else q)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        self._check_open()
        return iter(())

    def __len__(self) -> int:
        self._check_open()
        return 0

    def __reduce__(self) -> tuple[Any, ...]:
        arguments, options = self._arguments
        return functools.partial(FeaturizerMagnitude, *arguments, **options), ()

    def __repr__(self) -> str:
        return f"<FeaturizerMagnitude {self.path}>"

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError.of(self.path)

    def _get_matrix(self) -> NoReturn:
        self._check_open()
        raise FormatError(f"{self.path}: there are no rows to search")

    def _get_approximate(self) -> NoReturn:
        self._check_open()
        raise NoIndexError(f"{self.path}: there are no rows, and no index of them, to search")

    def _place_of(self, key: object) -> None:
        """Return None, because no key has a position."""
        self._check_open()

    def _of_keys(self, keys: Sequence[Key], normalized: bool | None) -> Array:
        unit = self._normalized if normalized is None else normalized
        names = [key_name(key) for key in keys]
        with self._lock:
            self._check_open()
            known, vectors = self._recent[unit].take(names)
        made = complete(names, known, vectors, functools.partial(self._hashed, unit=unit))
        return self._padded(made)

    def _hashed(self, names: Sequence[Any], *, unit: bool) -> Array:
        """Hash distinct names, and keep the vectors in memory."""
        vectors = np.empty((len(names), self._dim), self.dtype)
        for vector, name in zip(vectors, names, strict=True):
            vector[:] = hash_vector(
                name if isinstance(name, str) else name[1],
                self._dim,
                normalized=unit,
                ngram_oov=self._ngram_oov,
                case_insensitive=self.case_insensitive,
                dtype=self.dtype,
                namespace=self.namespace,
            )
        with self._lock:
            self._check_open()
            self._recent[unit].keep(names, vectors)
        return vectors


Magnitude.register(FeaturizerMagnitude)


def _dimensions(number_of_values: int) -> int:
    """Compute the least number of dimensions with rare collisions (a birthday bound)."""
    pairs = number_of_values**2 / (-2 * math.log(1 - COLLISION))
    return max(math.ceil(math.log(pairs, STEPS)), LEAST_DIM)
