"""The first rows of many that have as many n-grams of a key, with few of their keys read.

Of each row is kept between which bounds its place can be: what tells more is read, the cheapest
first, until no row whose key is not known can be among the first.
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

FEW = 8  # rows that are read without more ado
MOST_ROWS = 200  # pages, which a key takes each when it is read from its row
SWEPT = 2048  # keys that take no longer to read from the index than one from its row
STEPS = (0, 5, 8, 64)  # lengths whose numbers of n-grams are looked up at once
UNKNOWN = np.iinfo(np.int64).max

Found = list[tuple[int, str]]  # row ids and keys


class Source(Protocol):
    """What is read of a file: what it says of itself, its rows, keys and their n-grams."""

    @property
    def format(self) -> Format:
        """What the file says of itself."""

    @property
    def table(self) -> Table:
        """The rows."""

    @property
    def index(self) -> Index:
        """The index on keys."""

    @property
    def fulltext(self) -> Fulltext | None:
        """The index of n-grams, None where there is none."""

    @property
    def lengths(self) -> Table | None:
        """The characters of each key, None where the file does not tell."""


class Order(NamedTuple):
    """What decides between rows that have as many n-grams of a key, before their keys' lengths.

    Attributes
    ----------
    first, last
        Characters with which keys begin and end that come first.
    longest
        Characters that such a key has at most; below 0 only lengths decide.
    """

    first: str
    last: str
    longest: int

    def place(self, key: str) -> tuple[bool, bool, int]:
        """Tell whether a key begins and ends so, and its length."""
        key = key.partition("\0")[0]  # SQLite's functions see no more
        short = len(key) <= self.longest
        begins = short and _is_like(self.first, key[:1])
        return begins, short and _is_like(self.last, key[-1:]), len(key)

    @property
    def prefix(self) -> bytes:
        """How all keys begin in the index that begin with the first character, if that helps."""
        useful = self.longest >= 0 and self.first not in "%_" and self.first.isprintable()
        return self.first.encode() if useful else b""


class Matches(NamedTuple):
    """Rows that have n-grams of a key.

    Attributes
    ----------
    rowids, counts
        Each row, and how many it has, both int64, shape (n,).
    begins, ends
        Whether that at the beginning of the key is among them, or that at its end, bool, shape
        (n,).
    """

    rowids: Ints
    counts: Ints
    begins: Flags
    ends: Flags


class Ties:
    """Rows of which the first are wanted.

    They are in the order of counts, falling; then as `Order` has it; then of lengths and row ids,
    rising.

    Parameters
    ----------
    source
        Of the rows.
    order
        Of those with equal counts.
    matches
        The rows.
    """

    def __init__(self, source: Source, order: Order, matches: Matches) -> None:
        self._source, self._order, self._likely = source, order, matches
        self._rowids, self._counts = matches.rowids, matches.counts.copy()
        count = len(self._rowids)
        self._keys: dict[int, str] = {}
        self._known = np.zeros(count, bool)
        # What is possible: a key may begin and end so, and has so many characters.
        self._begins = np.full(count, order.longest >= 0)
        self._ends = self._begins.copy()
        self._least = np.zeros(count, np.int64)
        self._most = np.full(count, UNKNOWN)

    def best(self, topn: int) -> Walk[Found]:
        """Give the first rows and their keys; rows that the table does not have are left out."""
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
        """Tell which rows with unknown keys can be among the first.

        If the others are what they seem to be: those among the first are known in the end.
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
        """Give the numbers of n-grams that keys of more and more characters have.

        A key with an n-gram twice has as few of them as a shorter one.

        Yields
        ------
        the shortest lengths by number of n-grams, and up to which length these are all
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
        """Learn the lengths of keys from how many n-grams they have."""
        assert self._source.fulltext is not None
        found = yield from self._source.fulltext.counted(lengths)
        left = ~self._known & (self._most == UNKNOWN)
        self._least[left] = last + 1
        for number, documents in found.items():
            here = left & np.isin(self._rowids, documents)
            self._least[here] = self._most[here] = lengths[number]

    def _read(self, able: Ints) -> Walk[None]:
        """Read keys from their rows, or very many from the index."""
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
        """Read keys that begin with a prefix from the index."""
        keys = yield from read_keys(self._source.index, self._rowids, prefix=prefix)
        self._know({rowid: key.decode("utf-8", "surrogateescape") for rowid, key in keys.items()})

    def _know(self, keys: dict[int, str]) -> None:
        self._keys |= keys
        for at in np.flatnonzero(np.isin(self._rowids, list(keys))).tolist():
            begins, ends, length = self._order.place(keys[int(self._rowids[at])])
            self._begins[at], self._ends[at], self._known[at] = begins, ends, True
            self._least[at] = self._most[at] = length


def _is_like(wanted: str, character: str) -> bool:
    """Compare characters, or none, as SQLite's LIKE does."""
    if wanted in ("", "%"):
        return True
    if wanted == "_":
        return character != ""
    same = wanted == character
    return same or (
        wanted.isascii() and character.isascii() and wanted.lower() == character.lower()
    )
