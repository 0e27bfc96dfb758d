"""The vectors of one file, by key and by place, and those last used in memory."""

from __future__ import annotations

import itertools
import logging
import numbers
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamfile._arrays import Array
from streamfile._lru import RecentVectors
from streamfile.errors import ArgumentError, FormatError, StreamfileError
from streamfile.oov.hashing import hash_vector
from streamfile.readers.base import Reader
from vfs.errors import VFSError

log = logging.getLogger(__name__)

CACHE_BYTES = 64 << 20
SCAN_ROWS = 2000


class Vectors:
    """The vectors of one file.

    Parameters
    ----------
    reader
        Of the file.
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
        self._recent: dict[bool, RecentVectors] = {}  # by whether they are of unit length
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False

    @property
    def normalized(self) -> bool:
        """Whether vectors are usually of unit length."""
        return self._choice(self._normalized)

    @property
    def ngram_oov(self) -> bool:
        """Whether keys outside the file get the mean vector of their n-grams."""
        return self._choice(self._ngram_oov)

    def find(self, keys: Sequence[str]) -> dict[str, int]:
        """Look up the row ids of the keys that the file has."""
        self._after_fork()
        if not keys:
            return {}
        return self._reader.find(keys, case_insensitive=self._case_insensitive)

    def of_keys(
        self,
        keys: Sequence[Any],
        normalized: bool | None,
        known_rowids: dict[str, int] | None = None,
    ) -> Array:
        """Give one vector a key.

        Parameters
        ----------
        keys
            Strings or numbers.
        normalized
            Whether of unit length, None for the usual.
        known_rowids
            What `find` gave for the strings, None to look them up.

        Returns
        -------
        ndarray
            A new array of the answers' type, shape (n, dim).

        Raises
        ------
        ArgumentError
            Something that is no key.
        """
        self._after_fork()
        names = [key if type(key) is str else _name(key) for key in keys]
        normalized = self._normalized if normalized is None else normalized
        with self._lock:
            known, recent = self._recent_vectors(self._choice(normalized)).take(names)
        absent = dict.fromkeys(names)
        for name in known:
            del absent[name]
        asked = [name for name in absent if isinstance(name, str)]
        if known_rowids is None:
            rowids = self.find(asked)
        else:
            rowids = {name: known_rowids[name] for name in asked}
        spelt = [name for name in asked if name not in rowids]
        similar = self._similar(spelt)
        rows = self._reader.rows([*rowids.values(), *itertools.chain(*similar.values())])
        unit = self._choice(normalized)  # a first answer may have found another file
        vectors = rows.vectors(self._reader.format.precision, normalized=unit)
        position = {rowid: at for at, rowid in enumerate(rows.rowids.tolist())}
        place = {name: position[rowid] for name, rowid in rowids.items() if rowid in position}
        hashed = [name for name in absent if name not in place]
        standing_in = {
            name: vectors[[position[rowid] for rowid in similar.get(name, []) if rowid in position]]
            for name in hashed
        }
        pieces = [vectors, *(self._hashed(name, unit, standing_in[name])[None] for name in hashed)]
        if known:
            pieces.append(recent)
        place |= zip([*hashed, *known], itertools.count(len(vectors)), strict=False)
        matrix = np.concatenate(pieces, dtype=self.dtype, casting="same_kind")
        with self._lock:
            fresh = matrix[[place[name] for name in absent]]
            self._recent_vectors(unit).keep(list(absent), fresh)
        return fresh if len(absent) == len(names) else matrix[[place[name] for name in names]]

    def of_places(self, numbers: Sequence[int]) -> tuple[list[str], Array]:
        """Give the keys and vectors of places in the file, in the order asked for.

        Raises
        ------
        FormatError
            The file says that it has the place, and has not.
        """
        self._after_fork()
        rows = self._reader.rows(np.asarray(numbers, np.int64) + 1)
        unit = self._choice(self._normalized)
        vectors = rows.vectors(self._reader.format.precision, normalized=unit)
        position = {rowid - 1: at for at, rowid in enumerate(rows.rowids.tolist())}
        absent = [number for number in numbers if number not in position]
        if absent:
            raise FormatError(f"{self._reader.name}: malformed: row {absent[0] + 1} is missing")
        order = [position[number] for number in numbers]
        keys = rows.keys()
        return [keys[at] for at in order], vectors[order].astype(self.dtype, copy=False)

    def load_in_background(self) -> None:
        """Read all vectors into memory, unless that fails or the file is closed meanwhile."""
        try:
            self.load_all()
        except (StreamfileError, VFSError, OSError) as failure:
            if not self._closed:
                name = self._reader.name
                log.warning("%s: not all vectors could be loaded ahead: %s", name, failure)

    def load_all(self) -> None:
        """Read all vectors into memory."""
        unit, size = self.normalized, self._reader.format.size
        for begin in range(0, size, SCAN_ROWS):
            if self._closed:
                return
            rows = self._reader.rows(np.arange(begin, min(begin + SCAN_ROWS, size)) + 1)
            vectors = rows.vectors(self._reader.format.precision, normalized=unit)
            with self._lock:
                recent = self._recent_vectors(unit)
                first: dict[str, int] = {}  # of equal keys the first one counts
                for at, key in enumerate(rows.keys()):
                    if key not in recent:
                        first.setdefault(key, at)
                recent.keep(list(first), vectors[list(first.values())])

    def close(self) -> None:
        """Close the file."""
        self._closed = True
        self._reader.close()

    def _choice(self, chosen: bool | None) -> bool:
        """Give an option's value: as chosen, else what suits the kind of file."""
        return not self._reader.assumed.elmo if chosen is None else chosen

    def _similar(self, names: Sequence[str]) -> dict[str, list[int]]:
        """Find the rows that stand in for keys that the file does not have."""
        if not names:
            return {}
        found = self._reader.similar(
            names, language=self._language, case_insensitive=self._case_insensitive
        )
        return dict(zip(names, found, strict=True))

    def _hashed(self, name: Any, unit: bool, similar: Array) -> Array:
        return hash_vector(
            name if isinstance(name, str) else name[1],
            self._reader.format.dim,
            similar=similar,
            normalized=unit,
            ngram_oov=self.ngram_oov,
            case_insensitive=self._case_insensitive,
            dtype=self.dtype,
            namespace=self._reader.namespace,
        ).astype(self.dtype)

    def _recent_vectors(self, unit: bool) -> RecentVectors:
        known = self._reader.assumed
        if unit not in self._recent or self._recent[unit].dim != known.dim:
            usual = max(1, CACHE_BYTES // (self.dtype.itemsize * known.dim))
            capacity = usual + known.size if self._lazy_loading < 0 else self._lazy_loading or usual
            self._recent[unit] = RecentVectors(capacity, known.dim, self.dtype)
        return self._recent[unit]

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()
            self._reader.after_fork()


def _name(key: Any) -> Any:
    """Give what a key's vector is cached under: 1, 1.0 and True have different vectors."""
    if isinstance(key, str):
        return key
    if isinstance(key, (numbers.Real, np.bool_)):
        return type(key), key
    raise ArgumentError(f"{key!r} is no key: expected a string or a number, or a list of them")
