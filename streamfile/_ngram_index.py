"""The full-text index of n-grams (FTS3), made of all keys at once, without SQLite."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

import numpy as np

from streamfile._ngrams import Characters, Flags, Grams, Ints, searched
from streamfile._postings import ENCODED, Postings, encode_varints, merged
from streamfile._segment import Segment

MOST_KEYS = 4096  # at once; their numbers have to fit into int16, which is sorted fastest
MOST_TEXT = 1 << 17  # bytes of them, if there is more than one
MOST_POSTINGS = 1 << 19  # in memory
COUNTED = 4  # what is stored, of each n-gram: SQLite gives four numbers for a match
HEADER = struct.Struct("<qqq")

SECOND_COLUMN = 1  # as a place
FIRST_COLUMN = 2  # where the places in it begin


class Batch(NamedTuple):
    """The n-grams of some keys and, as one more, the numbers of them; all are terms.

    A place is `SECOND_COLUMN`, which has one term only, or `FIRST_COLUMN` and the position.
    """

    grams: Grams
    places: Ints


class NgramIndex:
    """The subword table of keys, made in bounded memory.

    Parameters
    ----------
    shortest, longest
        Characters of an n-gram.
    folder
        Where the temporary file is.
    most_postings
        N-grams of keys in memory, beyond which they are put into that file.
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
        self._most = most_postings
        self._batches: list[Batch] = []
        self._count = 0
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._runs: list[tuple[int, int]] = []
        self._next = 1

    def add(self, first_rowid: int, keys: Sequence[bytes]) -> list[tuple[str, int]]:
        """Add keys with consecutive row ids.

        Parameters
        ----------
        first_rowid
            Of the first key: at least 1, and higher than those before.
        keys
            UTF-8.

        Returns
        -------
        list of (char_ngrams, num_ngrams)
            What the subword table has of each key.

        Raises
        ------
        ValueError
            A row id that is too low, or a key that is not UTF-8.
        """
        if first_rowid < self._next:
            raise ValueError(f"expected a row id of at least {self._next}, got {first_rowid}")
        self._next = first_rowid + len(keys)
        contents: list[tuple[str, int]] = []
        ends = np.append(0, np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys))))
        at = 0
        while at < len(keys):
            full = int(np.searchsorted(ends, ends[at] + MOST_TEXT, "right")) - 1
            end = min(max(full, at + 1), at + MOST_KEYS)
            contents += self._add(first_rowid + at, [key.decode() for key in keys[at:end]])
            at = end
        return contents

    def _add(self, first_rowid: int, keys: list[str]) -> list[tuple[str, int]]:
        grams, counts = searched(keys, self._shortest, self._longest)
        numbers = (COUNTED * counts).tolist()
        self._note(first_rowid, len(keys), grams, COUNTED * counts)
        return list(zip(grams.joined_by_document(len(keys)), numbers, strict=True))

    def _note(self, first_rowid: int, count: int, grams: Grams, numbers: Ints) -> None:
        each = np.bincount(grams.documents, minlength=count)
        positions = np.arange(len(grams.documents)) - np.repeat(np.cumsum(each) - each, each)
        different, which = np.unique(numbers, return_inverse=True)
        digits = [str(number) for number in different.tolist()]
        sizes = np.array([len(each) for each in digits])
        starts = len(grams.characters) + np.cumsum(sizes) - sizes
        documents = np.append(grams.documents, np.arange(count))
        # Those of one document stay in the order of columns.
        order = np.argsort(documents.astype(np.int16), kind="stable")
        ordered = Grams(
            np.append(grams.characters, np.frombuffer("".join(digits).encode("utf-32-le"), "<u4")),
            np.append(grams.starts, starts[which])[order],
            np.append(grams.sizes, sizes[which])[order],
            documents[order] + first_rowid,
        )
        places = np.append(positions + FIRST_COLUMN, np.full(count, SECOND_COLUMN))[order]
        self._batches.append(Batch(ordered, places))
        self._count += len(places)
        if self._count > self._most:
            self._spill()

    def finish(self, block_size: int) -> Segment:
        """Make the index of all keys added; after that no more can be.

        Parameters
        ----------
        block_size
            Most bytes of a block, see `Segment`.
        """
        self._spill()
        if len(self._runs) == 1:
            return Segment(self._read(*self._runs[0]), block_size)
        runs = [self._read(*run) for run in reversed(self._runs)]
        return Segment(merged(runs, "temporary file"), block_size)

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()

    def _spill(self) -> None:
        """Put what is in memory into the file, as a run of rising terms."""
        if not self._batches:
            return
        batches, self._batches, self._count = self._batches, [], 0
        begin = self._file.tell()
        for piece in _postings(batches).pieces():
            terms = b" ".join(piece.terms)
            self._file.write(HEADER.pack(len(piece.terms), len(terms), len(piece.lists)))
            self._file.write(terms)
            self._file.write(piece.sizes.tobytes())
            self._file.write(piece.lists)
        self._runs.append((begin, self._file.tell()))

    def _read(self, at: int, end: int) -> Iterator[Postings]:
        while at < end:
            self._file.seek(at)
            count, size, lists = HEADER.unpack(self._file.read(HEADER.size))
            terms = self._file.read(size).split(b" ")
            sizes = np.frombuffer(self._file.read(8 * count), np.int64)
            yield Postings(terms, sizes, self._file.read(lists))
            at += HEADER.size + size + 8 * count + lists


def _postings(batches: list[Batch]) -> Postings:
    """Sort n-grams, of which there is at least one, by terms, and encode their documents."""
    grams = [batch.grams for batch in batches]
    lengths = np.array([len(each.characters) for each in grams])
    starts = np.concatenate([each.starts for each in grams])
    starts += np.repeat(np.cumsum(lengths) - lengths, [len(each.starts) for each in grams])
    characters = np.concatenate([each.characters for each in grams])
    sizes = np.concatenate([each.sizes for each in grams])
    documents = np.concatenate([each.documents for each in grams])
    places = np.concatenate([batch.places for batch in batches])
    batches.clear()
    del grams

    words = _words(characters, starts, sizes)
    order = np.lexsort(words[::-1])
    new = np.zeros(len(order), bool)
    new[0] = True
    for word in words:
        ordered = word[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    firsts = order[new]
    terms = Grams(characters, starts[firsts], sizes[firsts], documents[firsts]).joined()
    lists, begins = _lists(new, documents[order], places[order])
    bounds = np.append(begins[new], len(lists))
    return Postings(terms.encode().split(b" ")[:-1], np.diff(bounds), lists)


def _words(characters: Characters, starts: Ints, sizes: Ints) -> list[Ints]:
    """Turn n-grams into numbers that are in their order, the ones of the first word first.

    Their characters, as numbers from 1 in the order of all that there are, share words of 63 bits;
    a shorter n-gram ends with zeros.
    """
    ranks = np.zeros(0x110000, np.int64)
    ranks[characters] = 1
    ranks = np.cumsum(ranks)
    codes = np.append(ranks[characters], 0)
    bits = int(ranks[-1]).bit_length()
    longest, in_word = int(sizes.max()), 63 // bits
    words: list[Ints] = []
    for begin in range(0, longest, in_word):
        word = np.zeros(len(starts), np.int64)
        for at in range(begin, min(begin + in_word, longest)):
            word <<= bits
            word |= codes[np.where(at < sizes, starts + at, len(characters))]
        words.append(word)
    return words


def _lists(new: Flags, documents: Ints, places: Ints) -> tuple[bytes, Ints]:
    """Encode documents and places in the order of terms, of which new ones are marked.

    Returns
    -------
    lists
        See `Postings`.
    begins
        Where each of the places begins in them.
    """
    before = np.append(0, documents[:-1])
    other = new | (documents != before)
    last = np.append(other[1:], True)
    differences = np.where(new, documents, documents - before)
    lists: list[bytes] = []
    begins: list[Ints] = []
    total = 0
    for at in range(0, len(new), ENCODED):
        part = slice(at, at + ENCODED)
        second = places[part] == SECOND_COLUMN
        count = len(second)
        values = np.ones((count, 5), np.int64)
        values[:, 0] = differences[part]
        values[:, 3] = np.where(second, FIRST_COLUMN, places[part])
        values[:, 4] = 0
        written = np.stack([other[part], second, second, np.ones(count, bool), last[part]], axis=1)
        encoded, sizes = encode_varints(values[written])
        numbers = written.sum(axis=1)
        ends = np.append(0, np.cumsum(sizes))
        begins.append(total + ends[np.cumsum(numbers) - numbers])
        lists.append(encoded.tobytes())
        total += len(encoded)
    return b"".join(lists), np.concatenate(begins)
