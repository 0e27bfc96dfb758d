"""Sorted runs of terms in a temporary file, for an external merge sort."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import IO, NamedTuple

import numpy as np

from streamfile._arrays import Ints
from streamfile.fts3.ngrams import LAST_BYTE, WORD, Rows, Words

SAMPLED = 256  # every so many terms of a run, one first word stays in memory

SECOND_COLUMN = 1  # the place of a term in the second column
FIRST_COLUMN = 2  # the place of the first term in the first column


class Batch(NamedTuple):
    """Occurrences of terms: the n-grams of keys and, in a second column, the keys' n-gram counts.

    Attributes
    ----------
    rows
        Term of each occurrence.
    documents
        Row id of the key, int64, shape (n,).
    places
        `SECOND_COLUMN`, whose column has one term only, or `FIRST_COLUMN` plus the position in the
        first column, int64, shape (n,).
    """

    rows: Rows
    documents: Ints
    places: Ints


class Run:
    """A batch in a file, stably sorted by the first words of terms.

    Parameters
    ----------
    file
        File that the batch is appended to.
    batch
        The batch, in the order of documents and places.

    Attributes
    ----------
    sampled
        Every `SAMPLED`-th first word, uint64, rising.
    """

    def __init__(self, file: IO[bytes], batch: Batch) -> None:
        batch = taken(batch, _order(batch.rows.words))
        rows = batch.rows
        self.sampled: Words = rows.words[::SAMPLED].copy()
        self._file = file
        self._width = rows.rest.shape[1]
        self._count, self._done = len(rows.words), 0
        self._at: list[int] = []
        for column in (rows.words, rows.rest, batch.documents, batch.places):
            self._at.append(file.seek(0, os.SEEK_END))
            file.write(column.tobytes())

    def until(self, bound: np.uint64 | None) -> Batch:
        """Read the next occurrences whose first words are below a bound, or all if it is None."""
        count = self._count - self._done
        if bound is not None:
            block = max(0, int(np.searchsorted(self.sampled, bound)) - 1) * SAMPLED
            size = min(SAMPLED, self._count - block)
            self._file.seek(self._at[0] + WORD * (block - self._done))
            words = np.frombuffer(self._file.read(WORD * size), np.uint64)
            count = block + int(np.searchsorted(words, bound)) - self._done
        words = np.frombuffer(self._read(0, WORD * count), np.uint64)
        full = int(np.count_nonzero(words & LAST_BYTE))
        rest = np.frombuffer(self._read(1, WORD * self._width * full), np.uint64)
        documents = np.frombuffer(self._read(2, 8 * count), np.int64)
        places = np.frombuffer(self._read(3, 8 * count), np.int64)
        self._done += count
        return Batch(Rows(words, rest.reshape(full, self._width)), documents, places)

    def _read(self, column: int, size: int) -> bytes:
        self._file.seek(self._at[column])
        self._at[column] += size
        return self._file.read(size)


def concatenated(batches: Sequence[Batch]) -> Batch:
    """Concatenate batches, at least one."""
    rows = Rows(
        np.concatenate([each.rows.words for each in batches]),
        np.concatenate([each.rows.rest for each in batches]),
    )
    documents = np.concatenate([each.documents for each in batches])
    return Batch(rows, documents, np.concatenate([each.places for each in batches]))


def _order(words: Words) -> Ints:
    """Compute the order of a stable sort of words.

    An unstable sort, and another sort of the positions of equal words, are faster in numpy than
    its stable sort.
    """
    order = np.argsort(words)
    ordered = words[order]
    groups = np.cumsum(np.append(False, ordered[1:] != ordered[:-1]), dtype=np.int64)
    sorted_: Ints = np.sort(groups << 32 | order) & 0xFFFFFFFF
    return sorted_


def taken(batch: Batch, order: Ints) -> Batch:
    """Reorder a batch.

    Parameters
    ----------
    batch
        The batch.
    order
        Positions of the occurrences in the new order, int64, shape (n,).
    """
    words, rest = batch.rows.words[order], batch.rows.rest
    if len(rest):
        which = np.cumsum((batch.rows.words & LAST_BYTE) != 0) - 1
        rest = rest[which[order[np.flatnonzero(words & LAST_BYTE)]]]
    return Batch(Rows(words, rest), batch.documents[order], batch.places[order])
