"""One segment of a full-text index (FTS3), laid out as blocks of a b-tree of terms.

The layout is that of SQLite's ``fts3_write.c``: the leaves in the order of terms, then the
interior nodes, level by level; the root is kept in the list of segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np

from streamfile._arrays import Ints
from streamfile.fts3.doclists import Postings, encode_varints
from streamfile.fts3.ngrams import ranges

BEGINNING = 11  # bytes that SQLite reserves for the beginning of an interior node
LEAF_CELL = 35  # bytes of a table's leaf that a record cannot have, without overflow pages
MOST_SHARED = 127  # bytes of terms, so that their number is always one byte


def largest_block(page_size: int) -> int:
    """Give the size of the largest block whose row needs no overflow page.

    Parameters
    ----------
    page_size
        Of the database, in bytes.
    """
    size = page_size - LEAF_CELL - 4  # the record's header, with two bytes for a block's length
    return size if 2 * size + 12 < 1 << 14 else size - 1


class Segment:
    """A segment that is being made; nothing of it but separators of leaves is kept.

    Parameters
    ----------
    postings
        With rising terms, of all documents.
    block_size
        Most bytes of a block, unless a single term needs more: see `largest_block`; SQLite
        takes the page size less 35.
    """

    def __init__(self, postings: Iterable[Postings], block_size: int) -> None:
        self._postings = postings
        self._size = block_size
        self._row: tuple[int, int, int, int, str, bytes] | None = None
        self._done = False

    @property
    def row(self) -> tuple[int, int, int, int, str, bytes] | None:
        """The row of ``…_segdir``: level, idx, start_block, leaves_end_block, end_block, root.

        None where there is no term, so that there is no segment.

        Raises
        ------
        ValueError
            `blocks` has not been used up.
        """
        if not self._done:
            raise ValueError("expected that all blocks were taken before the row of the segment")
        return self._row

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Make the rows of ``…_segments``: block numbers, from 1, and blocks; only once."""
        separators: list[bytes] = []
        number, total, leaf = 0, 0, b""
        for before, following, leaf in self._leaves():
            total += len(leaf)
            if following:
                number += 1
                separators.append(following[: _shared(before, following) + 1])
                yield number, leaf
        if not number:
            self._row = (0, 0, 0, 0, f"0 {total}", leaf) if leaf else None
        else:
            number += 1
            yield number, leaf
            last_leaf, first, height = number, 1, 1
            while True:
                nodes, separators = self._level(separators, first, height)
                if len(nodes) == 1:
                    break
                first, height = number + 1, height + 1
                for node in nodes:
                    number += 1
                    yield number, node
            self._row = (0, 0, 1, last_leaf, f"{number} {total}", nodes[0])
        self._done = True

    def _leaves(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Make leaves, each with its last term and the first one of the next leaf."""
        pieces: list[bytes] = []
        size, before = 0, b""
        for postings in chain.from_iterable(each.pieces() for each in self._postings):
            terms = postings.terms
            entries, bounds, tails = _entries(before, postings)
            at = 0
            while at < len(terms):
                if not size:
                    # The height of a leaf, zero, is where other entries have what is shared.
                    first = b"\0%b%b" % (_varint(len(terms[at])), terms[at])
                    pieces = [first, entries[tails[at] : bounds[at + 1]]]
                    size = len(first) + len(pieces[1])
                    at += 1
                room = bounds[at] + self._size - size
                end = max(at, int(np.searchsorted(bounds, room, "right")) - 1)
                pieces.append(entries[bounds[at] : bounds[end]])
                size += len(pieces[-1])
                before = terms[end - 1] if end else before
                at = end
                if end < len(terms):
                    yield before, terms[end], b"".join(pieces)
                    size = 0
        if size:
            yield before, b"", b"".join(pieces)

    def _level(
        self, separators: list[bytes], first_child: int, height: int
    ) -> tuple[list[bytes], list[bytes]]:
        """Make the interior nodes of one level, and the separators of the level above."""
        nodes: list[bytes] = []
        above: list[bytes] = []
        body, before, child = b"", b"", first_child
        pieces: list[bytes] = []
        size, count = BEGINNING, 0

        def finish() -> None:
            nodes.append(b"%b%b%b" % (_varint(height), _varint(child), b"".join(pieces)))

        for term in separators:
            shared = _shared(before, term)
            # The first of a node has nothing to share, and no place for that.
            head = _varint(shared) if count else b""
            body = b"%b%b%b" % (head, _varint(len(term) - shared), term[shared:])
            if count and size + len(body) > self._size:
                finish()
                above.append(term)
                child += count + 1
                before, size, count = b"", BEGINNING, 0
                pieces.clear()
                continue
            pieces.append(body)
            size += len(body)
            count += 1
            before = term
        finish()
        return nodes, above


def _entries(before: bytes, postings: Postings) -> tuple[bytes, Ints, Ints]:
    """Make the entries of a leaf, each without what its term shares with the one before it.

    Returns
    -------
    entries
        One behind the other.
    bounds
        Where each begins, and the end of the last one, int64, shape (n + 1,).
    tails
        Where what follows the term begins in each.
    """
    terms = [before, *postings.terms]
    lengths = np.fromiter(map(len, terms), np.int64, len(terms))
    compared = min(max(1, int(lengths.max())), MOST_SHARED)
    beginnings = np.array(terms, f"S{compared}").view(np.uint8).reshape(-1, compared)
    differ = beginnings[1:] != beginnings[:-1]
    shared = np.minimum(lengths[1:], lengths[:-1])  # or all that is compared
    shared = np.minimum(shared, np.where(differ.any(axis=1), differ.argmax(axis=1), compared))

    left = lengths[1:] - shared
    left_encoded, left_sizes = encode_varints(left)
    encoded, sizes = encode_varints(postings.sizes)
    parts = np.stack([np.ones_like(shared), left_sizes, left, sizes], axis=1)
    kinds = np.repeat(np.tile(np.arange(4, dtype=np.uint8), len(parts)), parts.ravel())
    heads = np.empty(len(kinds), np.uint8)
    heads[kinds == 0] = shared
    heads[kinds == 1] = left_encoded
    starts = np.cumsum(lengths)[:-1] + shared
    heads[kinds == 2] = np.frombuffer(b"".join(terms), np.uint8)[ranges(starts, left)]
    heads[kinds == 3] = encoded
    head_sizes = parts.sum(axis=1)
    both = np.stack([head_sizes, postings.sizes], axis=1).ravel()
    is_head = np.repeat(np.tile([True, False], len(parts)), both)
    entries = np.empty(len(is_head), np.uint8)
    entries[is_head] = heads
    entries[~is_head] = np.frombuffer(postings.lists, np.uint8)
    bounds = np.append(0, np.cumsum(both))[::2]
    return entries.tobytes(), bounds, bounds[:-1] + parts[:, :3].sum(axis=1)


def _shared(a: bytes, b: bytes) -> int:
    """Count the bytes with which both begin."""
    shared = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        shared += 1
    return shared


def _varint(value: int) -> bytes:
    """Encode one number, least significant bits first."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
