"""Bulk builder of the full-text index of n-grams (FTS3), without SQLite."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np

from streamfile._arrays import Bytes, Flags, Ints
from streamfile.fts3.doclists import ENCODED, Postings, encode_varints
from streamfile.fts3.ngrams import WORD, Rows, rows_of, searched
from streamfile.fts3.reader import COUNTED
from streamfile.fts3.segment_writer import Segment
from streamfile.fts3.sorted_runs import (
    FIRST_COLUMN,
    SAMPLED,
    SECOND_COLUMN,
    Batch,
    Run,
    concatenated,
    taken,
)

MOST_KEYS = 4096  # keys of one step
MOST_TEXT = 1 << 17  # bytes of the keys of one step, unless it has one key only
MOST_POSTINGS = 1 << 19  # occurrences of terms in memory
PARTS = 4  # the final merge sorts about a PARTS-th of the occurrences in memory at once
LONGEST_NUMBER = 20  # bytes

MOST_DIFFERENCE, MOST_PLACE = 1 << 28, 1 << 14  # limits of varints of four and of two bytes


class NgramIndex:
    """Builder of the subword table and its full-text index, in bounded memory.

    Parameters
    ----------
    shortest, longest
        Number of characters in the shortest and in the longest n-grams.
    folder
        Directory of the temporary file.
    most_postings
        Number of n-gram occurrences in memory above which they go to the temporary file. The final
        merge has at most as many in memory, unless more begin with the same eight bytes.
    """

    def __init__(
        self,
        shortest: int = 3,
        longest: int = 6,
        *,
        folder: str | os.PathLike[str],
        most_postings: int = MOST_POSTINGS,
    ) -> None:
        self._shortest = shortest
        self._longest = longest
        self._width = -(-max(4 * longest, LONGEST_NUMBER) // WORD) - 1
        self._most = most_postings
        self._batches: list[Batch] = []
        self._count = 0
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._runs: list[Run] = []
        self._next = 1

    def add(self, first_rowid: int, keys: Sequence[bytes]) -> list[tuple[bytes, int]]:
        """Add keys with consecutive row ids.

        Parameters
        ----------
        first_rowid
            Row id of the first key, at least 1, and above the row ids of earlier keys.
        keys
            Keys in UTF-8.

        Returns
        -------
        list of (char_ngrams, num_ngrams)
            Columns of the subword table for each key; the n-grams in UTF-8.

        Raises
        ------
        ValueError
            The row id is too low, or a key is not UTF-8.
        """
        if first_rowid < self._next:
            raise ValueError(f"expected a row id of at least {self._next}, got {first_rowid}")
        self._next = first_rowid + len(keys)
        contents: list[tuple[bytes, int]] = []
        ends = np.append(0, np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys))))
        at = 0
        while at < len(keys):
            full = int(np.searchsorted(ends, ends[at] + MOST_TEXT, "right")) - 1
            end = min(max(full, at + 1), at + MOST_KEYS)
            contents += self._add(first_rowid + at, [key.decode() for key in keys[at:end]])
            at = end
        return contents

    def _add(self, first_rowid: int, keys: list[str]) -> list[tuple[bytes, int]]:
        rows, lasts, counts = searched(keys, self._shortest, self._longest, self._width)
        texts = [text[:-1] for text in rows.joined().split(b"\n")[:-1]]
        numbers = COUNTED * counts
        different, which = np.unique(numbers, return_inverse=True)
        terms = rows_of([b"%d" % number for number in different.tolist()], self._width)
        long = np.flatnonzero(np.isin(which, terms.full))
        rest = terms.rest[np.searchsorted(terms.full, which[long])]
        rest = np.insert(rows.rest, np.searchsorted(rows.full, lasts[long]), rest, axis=0)
        rows.words[lasts] = terms.words[which]
        each = np.diff(lasts, prepend=-1)
        places = np.arange(FIRST_COLUMN, FIRST_COLUMN + len(rows.words))
        places -= np.repeat(lasts + 1 - each, each)
        places[lasts] = SECOND_COLUMN
        documents = np.repeat(np.arange(first_rowid, first_rowid + len(keys)), each)
        self._batches.append(Batch(Rows(rows.words, rest), documents, places))
        self._count += len(places)
        if self._count > self._most:
            self._spill()
        return list(zip(texts, numbers.tolist(), strict=True))

    def finish(self, block_size: int) -> Segment:
        """Make the index of all added keys; no key can be added after that.

        Parameters
        ----------
        block_size
            Greatest length of a block in bytes, see `Segment`.
        """
        self._spill()
        return Segment(self._postings(), block_size)

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()

    def _spill(self) -> None:
        """Move the batches in memory to the file, as one run."""
        if self._batches:
            batch = concatenated(self._batches)
            self._batches, self._count = [], 0
            self._runs.append(Run(self._file, batch))

    def _postings(self) -> Iterator[Postings]:
        """Merge the runs, and yield the postings of a range of terms at a time."""
        if not self._runs:
            return
        sampled = np.sort(np.concatenate([run.sampled for run in self._runs]))
        step = max(1, self._most // PARTS // SAMPLED)
        bounds = np.unique(sampled[step::step])
        for bound in (*bounds, None):
            batch = concatenated([run.until(bound) for run in self._runs])
            if len(batch.documents):
                yield _encoded(batch)


def _encoded(batch: Batch) -> Postings:
    """Sort the concatenated parts of runs by terms, and encode the doclists."""
    # Each run is in order already, which makes a stable sort fast.
    batch = taken(batch, np.argsort(batch.rows.words, kind="stable"))
    words = batch.rows.words
    new = np.append(True, words[1:] != words[:-1])
    full = batch.rows.full
    if len(full):
        rest = batch.rows.rest
        order = np.lexsort([*rest.T[::-1], np.cumsum(new)[full]])
        rest = rest[order]
        documents, places = batch.documents, batch.places
        documents[full], places[full] = documents[full[order]], places[full[order]]
        new[full[1:]] |= (rest[1:] != rest[:-1]).any(axis=1)
        batch = Batch(Rows(words, rest), documents, places)
    lists, begins = _lists(new, batch.documents, batch.places)
    terms = Rows(words[new], batch.rows.rest[new[full]]).joined()
    sizes = np.diff(np.append(begins[new], len(lists)))
    return Postings(terms.split(b" ")[:-1], sizes, lists)


def _lists(new: Flags, documents: Ints, places: Ints) -> tuple[bytes, Ints]:
    """Encode doclists.

    Parameters
    ----------
    new
        Whether an occurrence is the first one of its term, shape (n,).
    documents, places
        Document and place of each occurrence, in the order of terms, see `Batch`.

    Returns
    -------
    lists
        The joined doclists, see `Postings`.
    begins
        Offset of each occurrence in `lists`, int64, shape (n,).
    """
    differences = np.diff(documents, prepend=0)
    differences[new] = documents[new]
    last = np.append(differences[1:] != 0, True)
    lists: list[bytes] = []
    sizes: list[Ints] = []
    for at in range(0, len(new), ENCODED):
        part = slice(at, at + ENCODED)
        each = differences[part], places[part], last[part]
        usual = each[0].max() < MOST_DIFFERENCE and each[1].max() < MOST_PLACE
        encoded, ends = (_encoded_words if usual else _encoded_varints)(*each)
        lists.append(encoded.tobytes())
        sizes.append(ends)
    ends = np.concatenate(sizes)
    return b"".join(lists), np.cumsum(ends) - ends


def _encoded_words(differences: Ints, places: Ints, last: Flags) -> tuple[Bytes, Ints]:
    """Encode occurrences of at most eight bytes; return their bytes, and the length of each."""
    sizes = (differences > 0).astype(np.int64)
    values = differences & 0x7F
    for shift in (7, 14, 21):
        more = differences >> shift
        if not more.any():
            break
        longer = more > 0
        sizes += longer
        values |= (more & 0x7F) << shift // 7 * 8
        values |= longer.astype(np.int64) << shift // 7 * 8 - 1
    two = places >> 7
    tails = np.where(two > 0, places & 0x7F | 0x80 | two << 8, places)
    second = places == SECOND_COLUMN
    tails[second] = SECOND_COLUMN | SECOND_COLUMN << 8 | FIRST_COLUMN << 16
    values |= tails << 8 * sizes
    sizes += 1 + (two > 0) + last + 2 * second
    encoded = values.astype("<i8").view(np.uint8).reshape(-1, WORD)
    return encoded[np.arange(WORD) < sizes[:, None]], sizes


def _encoded_varints(differences: Ints, places: Ints, last: Flags) -> tuple[Bytes, Ints]:
    """Encode occurrences of any length; return their bytes, and the length of each."""
    second = places == SECOND_COLUMN
    count = len(second)
    values = np.ones((count, 5), np.int64)
    values[:, 0] = differences
    values[:, 3] = np.where(second, FIRST_COLUMN, places)
    values[:, 4] = 0
    written = np.stack([differences > 0, second, second, np.ones(count, bool), last], axis=1)
    encoded, sizes = encode_varints(values[written])
    each = np.zeros((count, 5), np.int64)
    each[written] = sizes
    return encoded, each.sum(axis=1)
