"""Vectors of one file by key or by position, with a cache of recent vectors."""

from __future__ import annotations

import itertools
import logging
import numbers
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamfile._arrays import Array
from streamfile._lru import RecentVectors, capacity_for, complete
from streamfile.errors import ArgumentError, FormatError, StreamfileError
from streamfile.format.records import Scratch
from streamfile.oov.hashing import hash_vector
from streamfile.oov.similar import similar_rows
from streamfile.readers.base import Reader, encode
from vfs.deadline import current
from vfs.errors import VFSError
from vfs.forks import ForkLock

log = logging.getLogger(__name__)

SCAN_ROWS = 2000
STEP = 1 << 16  # values that are decoded in one step, in arrays that a thread reuses


class Vectors:
    """Stored vectors of one file, and hashed vectors of other keys.

    Parameters
    ----------
    reader
        Reader of the file.
    lazy_loading, normalized, ngram_oov, case_insensitive, language, dtype
        See `streamfile.Magnitude`.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        lazy_loading: int,
        normalized: bool | None,
        ngram_oov: bool | None,
        case_insensitive: bool,
        language: str | None,
        dtype: np.dtype[Any],
    ) -> None:
        self.dtype = dtype
        self._reader = reader
        self._lazy_loading = lazy_loading
        self._normalized = normalized
        self._ngram_oov = ngram_oov
        self._case_insensitive = case_insensitive
        self._language = language
        self._recent: dict[bool, RecentVectors] = {}  # by `normalized`
        self._lock = ForkLock()
        self._threads = threading.local()
        self._closed = False

    @property
    def normalized(self) -> bool:
        """Whether vectors have unit length unless a call says otherwise."""
        return self._choice(self._normalized)

    @property
    def ngram_oov(self) -> bool:
        """Whether a key outside the file gets the mean vector of its n-grams."""
        return self._choice(self._ngram_oov)

    def find(self, keys: Sequence[str]) -> dict[str, int]:
        """Look up keys; return the row id of each key that the file has."""
        self._reader.check_open()
        if not keys:
            return {}
        return self._reader.find(keys, case_insensitive=self._case_insensitive)

    def recall(self, keys: Sequence[Any], normalized: bool | None) -> Array | None:
        """Return the vector of a single key from memory, without using the reader.

        Parameters
        ----------
        keys, normalized
            See `of_keys`.

        Returns
        -------
        ndarray or None
            A copy of the vector, shape (1, dim). None unless there is exactly one key and its
            vector is in memory.
        """
        if len(keys) != 1:
            return None
        (key,) = keys
        chosen = self._normalized if normalized is None else normalized
        with self._lock:
            recent = self._recent_vectors(self._choice(chosen))
            return recent.take_one(key if type(key) is str else key_name(key))

    def of_keys(
        self,
        keys: Sequence[Any],
        normalized: bool | None,
        known_rowids: dict[str, int] | None = None,
    ) -> Array:
        """Return the vector of each key; vectors that are not in memory are read or hashed.

        Parameters
        ----------
        keys
            Strings or numbers.
        normalized
            Whether the vectors have unit length, None for the default.
        known_rowids
            Row ids of all strings among the keys, from `find`; None to look up the strings.

        Returns
        -------
        ndarray
            A new array of type `dtype`, shape (n, dim).

        Raises
        ------
        ArgumentError
            A key is neither a string nor a number.
        """
        lone = self.recall(keys, normalized)
        if lone is not None:
            return lone
        if not len(keys):
            return np.empty((0, self._reader.current().format.dim), self.dtype)
        names = [key if type(key) is str else key_name(key) for key in keys]
        normalized = self._normalized if normalized is None else normalized
        with self._lock:
            known, vectors = self._recent_vectors(self._choice(normalized)).take(names)
        return complete(
            names, known, vectors, lambda absent: self._read(absent, normalized, known_rowids)
        )

    def of_places(self, numbers: Sequence[int]) -> tuple[list[str], Array]:
        """Read the keys and vectors of rows by position, in the given order.

        Raises
        ------
        FormatError
            The row of a position is missing.
        """
        rows = self._reader.rows(np.asarray(numbers, np.int64) + 1)
        unit = self._choice(self._normalized)
        vectors = rows.vectors(self._reader.contents.format.precision, normalized=unit)
        position = {rowid - 1: at for at, rowid in enumerate(rows.rowids.tolist())}
        absent = [number for number in numbers if number not in position]
        if absent:
            raise FormatError(f"{self._reader.name}: malformed: row {absent[0] + 1} is missing")
        order = [position[number] for number in numbers]
        keys = rows.keys()
        return [keys[at] for at in order], vectors[order].astype(self.dtype, copy=False)

    def load_in_background(self) -> None:
        """Run `load_all`; log a failure as a warning, unless the file is closed."""
        try:
            self.load_all()
        except (StreamfileError, VFSError, OSError) as failure:
            if not self._closed:
                name = self._reader.name
                log.warning("%s: not all vectors could be loaded ahead: %s", name, failure)

    def load_all(self) -> None:
        """Read all vectors into memory; stop if the file is closed."""
        unit, told = self.normalized, self._reader.current().format
        for begin in range(0, told.size, SCAN_ROWS):
            if self._closed:
                return
            rows = self._reader.rows(np.arange(begin, min(begin + SCAN_ROWS, told.size)) + 1)
            vectors = rows.vectors(told.precision, normalized=unit)
            current().progress()
            with self._lock:
                recent = self._recent_vectors(unit)
                first: dict[str, int] = {}  # of rows with equal keys, the first one
                for at, key in enumerate(rows.keys()):
                    if key not in recent:
                        first.setdefault(key, at)
                recent.keep(list(first), vectors[list(first.values())])

    def close(self) -> None:
        """Close the file, and forget the vectors in memory."""
        self._closed = True
        self._reader.close()
        with self._lock:
            self._recent.clear()

    def _choice(self, chosen: bool | None) -> bool:
        """Return the value of an option; its default is False for ELMo files, else True."""
        return not self._reader.contents.format.elmo if chosen is None else chosen

    def _read(
        self, names: Sequence[Any], normalized: bool | None, known_rowids: dict[str, int] | None
    ) -> Array:
        """Read or hash the vectors of distinct names, and keep the vectors in memory."""
        asked = [name for name in names if isinstance(name, str)]
        if known_rowids is None:
            rowids = self.find(asked)
        else:
            rowids = {name: known_rowids[name] for name in asked}
        similar = self._similar([name for name in asked if name not in rowids])
        rows = self._reader.rows([*rowids.values(), *itertools.chain(*similar.values())])
        told = self._reader.current().format  # numbers alone have not asked the server yet
        unit = self._choice(normalized)
        if not hasattr(self._threads, "scratch"):
            self._threads.scratch = Scratch(STEP)
        scratch: Scratch = self._threads.scratch
        vectors = rows.vectors(told.precision, normalized=unit, scratch=scratch)
        position: dict[int | None, int] = {}
        position |= zip(rows.rowids.tolist(), itertools.count(), strict=False)
        places = [position.get(rowids.get(name), -1) for name in names]
        if len(vectors):
            fresh = vectors[places].astype(self.dtype, copy=False)
        else:
            fresh = np.empty((len(names), told.dim), self.dtype)
        for at, name in enumerate(names):
            if places[at] < 0:
                rows_of = [position[row] for row in similar.get(name, []) if row in position]
                fresh[at] = self._hashed(name, unit, vectors[rows_of])
        with self._lock:
            self._recent_vectors(unit).keep(names, fresh)
        return fresh

    def _similar(self, names: Sequence[str]) -> dict[str, list[int]]:
        """Find the rows that are most similar to keys outside the file."""
        if not names:
            return {}
        found = similar_to(
            self._reader,
            names,
            language=self._language,
            case_insensitive=self._case_insensitive,
        )
        return dict(zip(names, found, strict=True))

    def _hashed(self, name: Any, unit: bool, similar: Array) -> Array:
        return hash_vector(
            name if isinstance(name, str) else name[1],
            self._reader.contents.format.dim,
            similar=similar,
            normalized=unit,
            ngram_oov=self.ngram_oov,
            case_insensitive=self._case_insensitive,
            dtype=self.dtype,
        )

    def _recent_vectors(self, unit: bool) -> RecentVectors:
        recent, known = self._recent.get(unit), self._reader.contents.format
        if recent is None or recent.dim != known.dim:
            capacity = capacity_for(self._lazy_loading, known.size, known.dim, self.dtype)
            recent = self._recent[unit] = RecentVectors(capacity, known.dim, self.dtype)
        return recent


def similar_to(
    reader: Reader, keys: Sequence[str], *, language: str | None, case_insensitive: bool
) -> list[list[int]]:
    """Find the row ids of the stored keys that are most similar to keys outside the file.

    Parameters
    ----------
    reader
        Reader of the file.
    keys, language, case_insensitive
        See `similar_rows`.
    """
    return reader.run(
        lambda contents: similar_rows(
            contents,
            keys,
            language=language,
            case_insensitive=case_insensitive,
            encode=encode,
            match=reader.sql.execute,
            prefer_sql=reader.prefers_sql,
        )
    )


def key_name(key: Any) -> Any:
    """Return the name of a key in the cache, which differs for 1, 1.0 and True."""
    if isinstance(key, str):
        return key
    if isinstance(key, (numbers.Real, np.bool_)):
        return type(key), key
    raise ArgumentError(f"{key!r} is no key: expected a string or a number, or a list of them")
