"""Choice of the best rows among many with equally many n-grams of a key, by few reads.

Each row has a best and a worst possible rank. Reads narrow these bounds, the cheapest reads first,
until no row with an unread key can be among the best.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np

from streamfile._arrays import Flags, Ints
from streamfile.format.key_lengths import LONGEST, read_lengths
from streamfile.format.rows import VectorRows
from streamfile.format.tables import Format
from streamfile.fts3.reader import Fulltext
from streamfile.oov.hashing import BOW, EOW
from vfs.btree.index import Index
from vfs.btree.index_keys import read_keys
from vfs.btree.table import Table
from vfs.btree.walk import Walk

FEW = 8  # up to so many rows are read at once
MOST_ROWS = 200  # greatest number of keys to read from their rows, one page for each key
SWEPT = 2048  # reading so many keys from the index takes as long as reading one from its row
STEPS = (0, 5, 8, 64)  # bounds of the key lengths that are looked up in one step, in characters
UNKNOWN = np.iinfo(np.int64).max

Found = list[tuple[int, str]]  # row ids and keys


class Source(Protocol):
    """Interface to the tables and indexes of a file."""

    @property
    def format(self) -> Format:
        """Facts about the file."""

    @property
    def table(self) -> Table:
        """Table of the vectors."""

    @property
    def index(self) -> Index:
        """Index on keys."""

    @property
    def fulltext(self) -> Fulltext | None:
        """Full-text index of n-grams, None if the file has none."""

    @property
    def lengths(self) -> Table | None:
        """Table of the keys' lengths, None if the file has none."""


class Order(NamedTuple):
    """Order of rows with equally many n-grams of a key, before the lengths of their keys.

    Attributes
    ----------
    first, last
        First and last character of the searched key. Keys that begin with `first` come first, and
        then keys that end with `last`.
    longest
        Greatest length in characters of a key for which `first` and `last` count; below 0 they
        never count.
    """

    first: str
    last: str
    longest: int

    def place(self, key: str) -> tuple[bool, bool, int]:
        """Tell whether a key begins with `first`, whether it ends with `last`, and its length."""
        key = key.partition("\0")[0]  # SQLite's functions read a text up to a NUL
        short = len(key) <= self.longest
        begins = short and _is_like(self.first, key[:1])
        return begins, short and _is_like(self.last, key[-1:]), len(key)

    @property
    def prefix(self) -> bytes:
        """Prefix by which the index lists the keys that begin with `first`, empty if none does."""
        useful = self.longest >= 0 and self.first not in "%_" and self.first.isprintable()
        return self.first.encode() if useful else b""


class Matches(NamedTuple):
    """Rows that have n-grams of a key.

    Attributes
    ----------
    rowids, counts
        Row id of each row, and the number of its n-grams that match, int64, shape (n,).
    begins, ends
        Whether the row has the n-gram at the beginning of the key, and the one at its end, bool,
        shape (n,).
    """

    rowids: Ints
    counts: Ints
    begins: Flags
    ends: Flags


class Ties:
    """Rows that match a key, in an order of which only the beginning is wanted.

    The rows are sorted by falling counts; then by `Order`; then by rising lengths of their keys,
    and by rising row ids.

    Parameters
    ----------
    source
        The file.
    order
        Order of rows with equal counts.
    matches
        The rows.
    """

    def __init__(self, source: Source, order: Order, matches: Matches) -> None:
        self._source, self._order, self._likely = source, order, matches
        self._rowids, self._counts = matches.rowids, matches.counts.copy()
        count = len(self._rowids)
        self._keys: dict[int, str] = {}
        self._known = np.zeros(count, bool)
        # For each key: whether it may begin with `first` and end with `last`, and the bounds of
        # its length.
        self._begins = np.full(count, order.longest >= 0)
        self._ends = self._begins.copy()
        self._least = np.zeros(count, np.int64)
        self._most = np.full(count, UNKNOWN)

    def best(self, topn: int) -> Walk[Found]:
        """Find the first `topn` rows and their keys, without rows that the table does not have."""
        lengths, prefix = self._source.lengths, self._order.prefix
        steps = self._steps()
        while len(able := self._able(topn)):
            many = len(able) > MOST_ROWS
            unmeasured = np.count_nonzero(self._most[able] == UNKNOWN)
            if lengths is not None and len(able) > FEW:
                self._least = yield from read_lengths(lengths, self._rowids)
                self._most = np.where(self._least == LONGEST, UNKNOWN, self._least)
                lengths, steps = None, iter(())
            elif many and prefix:
                yield from self._sweep(prefix)
                self._begins &= self._known
                prefix = b""
            elif unmeasured > MOST_ROWS and (step := next(steps, None)) is not None:
                yield from self._measure(*step)
            else:
                yield from self._read(able)
            short = self._least <= self._order.longest
            self._begins &= short
            self._ends &= short
        order = np.lexsort((self._rowids, self._least, ~self._ends, ~self._begins, -self._counts))
        first = self._rowids[order[:topn]].tolist()
        return [(rowid, self._keys[rowid]) for rowid in first if rowid in self._keys]

    def _able(self, topn: int) -> Ints:
        """List the positions of rows with unknown keys that can be among the first `topn`.

        A row can be among them if its best possible rank is not behind the worst possible ranks of
        `topn` rows. Lengths from `_measure` can be too low; the keys of the rows that are first in
        the end are all read, which corrects such lengths.
        """
        count = len(self._rowids)
        measured = self._most != UNKNOWN
        begin = self._begins & (self._known | self._likely.begins & measured)
        end = self._ends & (self._known | self._likely.ends & measured)
        ranks = np.empty(2 * count, np.int64)
        best = self._rowids, self._least, ~self._ends, ~self._begins, -self._counts
        worst = self._rowids, self._most, ~end, ~begin, -self._counts
        both = [np.concatenate(pair) for pair in zip(best, worst, strict=True)]
        ranks[np.lexsort(both)] = np.arange(2 * count)
        last = np.sort(ranks[count:])[topn - 1] if count >= topn else 2 * count
        return np.flatnonzero((ranks[:count] <= last) & ~self._known)

    def _steps(self) -> Iterator[tuple[dict[int, int], int]]:
        """Yield the numbers of n-grams that keys of rising lengths have.

        The length of a number is the least that a key with so many different n-grams can have. A
        key that repeats an n-gram may be longer.

        Yields
        ------
        lengths, last
            Length by number of n-grams, and the length of the longest keys in this step.
        """
        told = self._source.format

        def most(length: int) -> int:
            sizes = range(told.subword_start, told.subword_end + 1)
            return sum(max(0, length + len(BOW + EOW) + 1 - size) for size in sizes)

        for before, last in pairwise(STEPS):
            lengths = {
                number: length
                for length in range(before + 1, last + 1)
                for number in range(most(length - 1) + 1, most(length) + 1)
            }
            yield lengths, last

    def _measure(self, lengths: dict[int, int], last: int) -> Walk[None]:
        """Look up which keys have as many n-grams as `lengths` names, and set their lengths."""
        assert self._source.fulltext is not None
        found = yield from self._source.fulltext.counted(lengths)
        left = ~self._known & (self._most == UNKNOWN)
        self._least[left] = last + 1
        for number, documents in found.items():
            here = left & np.isin(self._rowids, documents)
            self._least[here] = self._most[here] = lengths[number]

    def _read(self, able: Ints) -> Walk[None]:
        """Read keys from their rows, or from the index if they are very many."""
        wanted, told = self._rowids[able], self._source.format
        if len(wanted) > max(MOST_ROWS, told.size // SWEPT):
            yield from self._sweep(b"")
            wanted = self._rowids[able[~self._known[able]]]
        if len(wanted):
            table = self._source.table
            rows = VectorRows(table.name, (yield from table.find(wanted)), told.dim)
            self._know(dict(zip(rows.rowids.tolist(), rows.keys(), strict=True)))
        absent = able[~self._known[able]]
        self._counts[absent] = -1
        self._known[absent] = True

    def _sweep(self, prefix: bytes) -> Walk[None]:
        """Read the keys that begin with a prefix from the index."""
        keys = yield from read_keys(self._source.index, self._rowids, prefix=prefix)
        self._know({rowid: key.decode("utf-8", "surrogateescape") for rowid, key in keys.items()})

    def _know(self, keys: dict[int, str]) -> None:
        self._keys |= keys
        for at in np.flatnonzero(np.isin(self._rowids, list(keys))).tolist():
            begins, ends, length = self._order.place(keys[int(self._rowids[at])])
            self._begins[at], self._ends[at], self._known[at] = begins, ends, True
            self._least[at] = self._most[at] = length


def _is_like(wanted: str, character: str) -> bool:
    """Compare a character, or an empty string, with a pattern as SQLite's LIKE does."""
    if wanted in ("", "%"):
        return True
    if wanted == "_":
        return character != ""
    same = wanted == character
    return same or (
        wanted.isascii() and character.isascii() and wanted.lower() == character.lower()
    )
