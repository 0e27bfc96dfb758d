"""Writer of one segment of a full-text index (FTS3): the blocks of a b-tree of terms.

The layout is the one of SQLite's ``fts3_write.c``: the leaves in the order of terms, then the
interior nodes, level by level. The root is stored in the list of segments, not as a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np

from streamfile._arrays import Ints
from streamfile.fts3.doclists import Postings, encode_varints
from streamfile.fts3.ngrams import ranges

BEGINNING = 11  # bytes that SQLite reserves for the beginning of an interior node
LEAF_CELL = 35  # page size less the longest record in a table's leaf without overflow, in bytes
MOST_SHARED = 127  # longest prefix that a term leaves out, in bytes: its length is one byte


def largest_block(page_size: int) -> int:
    """Compute the length in bytes of the longest block whose row needs no overflow page.

    Parameters
    ----------
    page_size
        Page size of the database in bytes.
    """
    size = page_size - LEAF_CELL - 4  # less a record header with a serial type of two bytes
    return size if 2 * size + 12 < 1 << 14 else size - 1


class Segment:
    """A segment that is being made; memory holds only the separators between its leaves.

    Parameters
    ----------
    postings
        Postings of all documents, with terms in rising order.
    block_size
        Greatest length of a block in bytes, unless a single term needs more, see `largest_block`.
        SQLite uses the page size less 35.
    """

    def __init__(self, postings: Iterable[Postings], block_size: int) -> None:
        self._postings = postings
        self._size = block_size
        self._row: tuple[int, int, int, int, str, bytes] | None = None
        self._done = False

    @property
    def row(self) -> tuple[int, int, int, int, str, bytes] | None:
        """Row of ``…_segdir``: level, idx, start_block, leaves_end_block, end_block, root.

        It is None if there are no terms, and thus no segment.

        Raises
        ------
        ValueError
            `blocks` was not iterated to its end.
        """
        if not self._done:
            raise ValueError("expected that all blocks were taken before the row of the segment")
        return self._row

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield the rows of ``…_segments``, block numbers from 1 and blocks; call it only once."""
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
        """Yield (last term, first term of the next leaf, leaf); no next leaf: an empty term."""
        pieces: list[bytes] = []
        size, before = 0, b""
        for postings in chain.from_iterable(each.pieces() for each in self._postings):
            terms = postings.terms
            entries, bounds, tails = _entries(before, postings)
            at = 0
            while at < len(terms):
                if not size:
                    # A leaf begins with its height, zero; its first term has no shared prefix.
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
        """Make the interior nodes of one level.

        Parameters
        ----------
        separators
            Separators between the children.
        first_child
            Block number of the first child.
        height
            Height of the level, 1 above the leaves.

        Returns
        -------
        nodes, above
            The nodes, and the separators between them.
        """
        nodes: list[bytes] = []
        above: list[bytes] = []
        body, before, child = b"", b"", first_child
        pieces: list[bytes] = []
        size, count = BEGINNING, 0

        def finish() -> None:
            nodes.append(b"%b%b%b" % (_varint(height), _varint(child), b"".join(pieces)))

        for term in separators:
            shared = _shared(before, term)
            # The first separator of a node has no field for a shared prefix.
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
    """Encode terms and doclists as entries of a leaf.

    Each entry leaves out the prefix that its term shares with the term before it.

    Returns
    -------
    entries
        The joined entries.
    bounds
        Offset of each entry, and the end of the last one, int64, shape (n + 1,).
    tails
        Offset behind the term of each entry, int64, shape (n,).
    """
    terms = [before, *postings.terms]
    lengths = np.fromiter(map(len, terms), np.int64, len(terms))
    compared = min(max(1, int(lengths.max())), MOST_SHARED)
    beginnings = np.array(terms, f"S{compared}").view(np.uint8).reshape(-1, compared)
    differ = beginnings[1:] != beginnings[:-1]
    shared = np.minimum(lengths[1:], lengths[:-1])
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
    """Compute the length of the common prefix in bytes."""
    shared = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        shared += 1
    return shared


def _varint(value: int) -> bytes:
    """Encode one number as an FTS3 varint, least significant bits first."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
