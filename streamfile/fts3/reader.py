"""Reader of SQLite's full-text index (FTS3).

Each row of ``…_segdir`` is a segment, a b-tree of terms, and contains the root node. The other
nodes are blocks in ``…_segments``. A leaf contains terms and their doclists. The comments at the
top of SQLite's ``fts3_write.c`` and ``fts3.c`` describe the formats.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamfile._arrays import Ints
from vfs.btree.pages import Pages
from vfs.btree.record import decode_record
from vfs.btree.table import Table
from vfs.btree.walk import Walk, together
from vfs.errors import DatabaseError

MOST_PAGES = 4000  # pages of the table ``…_segdir``
MOST_LEVEL = 1024  # segments of this level and above are of prefix indexes
MOST_IN_LEAF = 16  # blocks in a leaf page of ``…_segments``, as SQLite fills them
POSITION_BITS = 20  # a place is a document's number, shifted by these bits, plus a position
# The second column has four times the number of a key's n-grams, because SQLite's `offsets`
# describes each match by four numbers.
COUNTED = 4
TOKEN = re.compile(rb"[0-9A-Za-z\x80-\xff]+")

Token = tuple[bytes, bool]


@dataclass(frozen=True)
class Node:
    """An interior node: child i has the terms from separators[i - 1] on, below separators[i]."""

    height: int
    first_child: int
    separators: list[bytes]


@dataclass(frozen=True)
class StoredSegment:
    """A segment: the blocks of its first and last leaf, and its root node.

    If the root is a leaf, the segment has no blocks.
    """

    first_leaf: int
    last_leaf: int
    root: bytes


class Fulltext:
    """The full-text index of one file.

    Parameters
    ----------
    pages
        Pages of the file. The index takes only the name and the layout; `run` reads the pages.
    segments_root, blocks_root
        Root pages of the tables ``…_segdir`` and ``…_segments``.
    """

    def __init__(self, pages: Pages, segments_root: int, blocks_root: int) -> None:
        self.segments = Table(pages, segments_root)
        self.blocks = Table(pages, blocks_root)
        self._name = pages.name
        self._roots: list[bytes | Node] | None = None
        self._interior: dict[int, Node] = {}
        self._known: Mapping[int, bytes] = {}

    def know(self, blocks: Mapping[int, bytes]) -> None:
        """Set interior blocks that come from another source, by number; they save reads."""
        self._known = blocks

    def load(self) -> Walk[list[bytes | Node]]:
        """Read the root nodes of all segments, the newest segment first."""
        if self._roots is None:
            found = yield from self.listed()
            self._guess_depth()
            self._roots = [self._node(segment.root) for segment in found]
        return self._roots

    def listed(self) -> Walk[list[StoredSegment]]:
        """Read the list of segments, the newest segment first."""
        found = yield from self.segments.scan(most_pages=MOST_PAGES)
        newest: list[tuple[int, int, StoredSegment]] = []
        for _, row in found:
            match row:
                case [int(level), int(number), int(first), int(last), _, bytes(root)]:
                    if level < MOST_LEVEL:
                        newest.append((level, -number, StoredSegment(first, last, root)))
                case _:
                    raise self.malformed("a segment that is none")
        return [segment for *_, segment in sorted(newest, key=lambda each: each[:2])]

    def _guess_depth(self) -> None:
        """Set the depth of the blocks' table to 2 if the children of its root must be interior.

        A leaf page has few blocks, so that the row ids in the root tell the depth. The depth only
        affects which pages are fetched ahead.
        """
        root = self.blocks.interior.get(self.blocks.root)
        if root is not None and self.blocks.depth is None:
            if_leaves = MOST_IN_LEAF * len(root.keys)
            self.blocks.depth = 2 if int(root.keys.max(initial=0)) > if_leaves else None

    def find(self, terms: Iterable[bytes]) -> Walk[dict[bytes, Ints]]:
        """Look up terms.

        Returns
        -------
        dict
            For each term, its places in the first column, int64, shape (n,). A place is
            ``document << POSITION_BITS`` plus a position.
        """
        lists = yield from self._read_lists(list(terms))
        return {term: self._merged(encoded)[0] for term, encoded in lists.items()}

    def counted(self, numbers: Iterable[int]) -> Walk[dict[int, Ints]]:
        """Look up documents by their number of n-grams, which is in the second column.

        Returns
        -------
        dict
            For each of `numbers`, the documents with this number of n-grams, int64, shape (n,).
        """
        terms = {b"%d" % (COUNTED * number): number for number in numbers}
        lists = yield from self._read_lists(list(terms))
        return {terms[term]: self._merged(encoded)[1] for term, encoded in lists.items()}

    def _read_lists(self, terms: list[bytes]) -> Walk[dict[bytes, list[bytes]]]:
        """Read the doclists of terms, the doclists of newer segments first."""
        if not terms:
            return {}
        roots = yield from self.load()
        segments = yield from together([self._descend(root, terms) for root in roots])
        return {term: [found[term] for found in segments if term in found] for term in terms}

    def _descend(self, root: bytes | Node, terms: list[bytes]) -> Walk[dict[bytes, bytes]]:
        """Look up the doclists of terms in one segment."""
        found: dict[bytes, bytes] = {}
        level = [(root, MOST_LEVEL, terms)]
        while level:
            below: dict[int, tuple[int, list[bytes]]] = {}
            for node, most_height, mine in level:
                if isinstance(node, bytes):
                    wanted = set(mine)
                    last = max(wanted)
                    for term, begin, end in self.terms(node, 1, documents=True):
                        if term in wanted:
                            found[term] = node[begin:end]
                        if term >= last:
                            break
                    continue
                if node.height >= most_height:
                    raise self.malformed("a node that is no lower than the one above it")
                for term in mine:
                    child = node.first_child + bisect_right(node.separators, term)
                    below.setdefault(child, (node.height, []))[1].append(term)
            nodes = yield from self.read(below)
            level = [(nodes[number], *step) for number, step in below.items()]
        return found

    def read(self, numbers: Collection[int]) -> Walk[dict[int, bytes | Node]]:
        """Read nodes: interior ones are decoded, leaves are returned as bytes."""
        for number in self._known.keys() & set(numbers) - self._interior.keys():
            node = self._node(self._known[number])
            if isinstance(node, Node):
                self._interior[number] = node
        absent = [number for number in numbers if number not in self._interior]
        nodes: dict[int, bytes | Node] = {}
        if absent:
            for number, block in (yield from self.read_blocks(absent)).items():
                node = nodes[number] = self._node(block)
                if isinstance(node, Node):
                    self._interior[number] = node
        return nodes | {n: self._interior[n] for n in numbers if n in self._interior}

    def read_blocks(self, numbers: Sequence[int]) -> Walk[dict[int, bytes]]:
        """Read blocks by number; `numbers` has no repeats."""
        rows = yield from self.blocks.find(numbers)
        if len(rows.rowids) < len(numbers):
            raise self.malformed("a pointer to a block that does not exist")
        blocks: dict[int, bytes] = {}
        for number, start, size in np.stack([rows.rowids, rows.starts, rows.sizes], 1).tolist():
            record = decode_record(rows.data[start : start + size].tobytes())
            block = record[1] if len(record) == 2 else None
            if not isinstance(block, bytes):
                raise self.malformed("a block that is none")
            blocks[number] = block
        return blocks

    def interior_blocks(self) -> Walk[dict[int, bytes]]:
        """Read all blocks that are interior nodes."""
        level = [root for root in (yield from self.load()) if isinstance(root, Node)]
        found: dict[int, bytes] = {}
        while level := [node for node in level if node.height > 1]:
            children = [
                number
                for node in level
                for number in range(node.first_child, node.first_child + len(node.separators) + 1)
            ]
            below = yield from self.read_blocks(children)
            found |= below
            level = [node for node in map(self._node, below.values()) if isinstance(node, Node)]
        return found

    def _node(self, block: bytes) -> bytes | Node:
        """Decode a block that is an interior node; return a leaf as bytes."""
        if block[:1] == b"\0":
            return block
        try:
            height, at = _read_varint(block, 0)
            first, at = _read_varint(block, at)
        except IndexError:
            raise self.malformed("a node that is cut off") from None
        return Node(height, first, [term for term, _, _ in self.terms(block, at)])

    def terms(
        self, block: bytes, at: int, *, documents: bool = False
    ) -> Iterator[tuple[bytes, int, int]]:
        """Yield the terms of a node.

        Parameters
        ----------
        block
            The node.
        at
            Offset of the first term.
        documents
            Whether the terms have doclists, as in a leaf.

        Yields
        ------
        term, begin, end
            A term, the offset of its doclist in `block`, and the offset behind the doclist.
        """
        term, shared, length = b"", 0, len(block)
        try:
            while at < length:
                # Most varints have one byte: the tests below save many calls of `_read_varint`.
                if term:
                    shared = block[at]
                    at += 1
                    if shared >= 0x80:
                        shared, at = _read_varint(block, at - 1)
                size = block[at]
                at += 1
                if size >= 0x80:
                    size, at = _read_varint(block, at - 1)
                if size == 0 or shared > len(term):
                    raise IndexError
                begin = at + size
                term = term[:shared] + block[at:begin]
                at = begin
                if documents:
                    size = block[begin]
                    begin += 1
                    if size >= 0x80:
                        size, begin = _read_varint(block, begin - 1)
                    at = begin + size
                if at > length:
                    raise IndexError
                yield term, begin, at
        except IndexError:
            raise self.malformed("a node that is cut off") from None

    def _merged(self, doclists: Sequence[bytes]) -> tuple[Ints, Ints]:
        """Merge the doclists of a term, the newest first; a newer one replaces documents.

        Returns
        -------
        places, documents
            Places of the term in the first column, and documents with the term in a later column.
        """
        seen = np.zeros(0, np.int64)
        places, counted = [seen], [seen]
        for doclist in doclists:
            documents, here, others = self._decode(doclist)
            if len(seen):
                here = here[~np.isin(here >> POSITION_BITS, seen)]
                others = np.setdiff1d(others, seen)
            places.append(here)
            counted.append(others)
            seen = np.concatenate([seen, documents])
        return np.concatenate(places), np.concatenate(counted)

    def _decode(self, doclist: bytes) -> tuple[Ints, Ints, Ints]:
        """Decode a doclist, see `streamfile.fts3.doclists`.

        Returns
        -------
        documents, places, others
            All documents, places in the first column, and documents with positions in a later
            column.
        """
        values = _read_varints(doclist)
        ends = np.flatnonzero(values == 0)
        if not len(ends) or ends[-1] != len(values) - 1:
            raise self.malformed("a list of documents that is cut off")
        begins = np.append(0, ends[:-1] + 1)
        documents = np.cumsum(values[begins])
        others = values == 1
        others[begins] = False
        columns = np.append(np.flatnonzero(others), len(values))
        next_columns = columns[np.searchsorted(columns, begins)]
        counts = np.minimum(ends, next_columns) - begins - 1
        if counts.min() < 0 or documents.min() < 0 or documents.max() >> 63 - POSITION_BITS:
            raise self.malformed("a list of documents that cannot be")
        behind = np.cumsum(counts)
        at = np.arange(behind[-1]) + np.repeat(begins + 1 - (behind - counts), counts)
        positions = np.cumsum(values[at] - 2)
        before = np.append(0, positions)[behind - counts]
        positions -= np.repeat(before, counts)
        places = (np.repeat(documents, counts) << POSITION_BITS) + positions
        return documents, places, documents[next_columns < ends]

    def malformed(self, what: str) -> DatabaseError:
        """Make the error for a malformed index."""
        return DatabaseError(f"{self._name}: malformed: its full-text index has {what}")


def phrase(text: str) -> list[Token]:
    r"""Split a quoted phrase into tokens, as FTS3's `simple` tokenizer does.

    Returns
    -------
    list of (term, first)
        The terms in lower case. `first` tells whether a ``^`` precedes the term; such a term must
        be the first one of its document. A backslash before the ``^`` does not change that.
    """
    data = text.encode("utf-8", "surrogatepass")
    return [
        (match[0].lower(), data[match.start() - 1 : match.start()] == b"^")
        for match in TOKEN.finditer(data)
    ]


def count(places: Mapping[bytes, Ints], phrases: Iterable[Sequence[Token]]) -> tuple[Ints, Ints]:
    """Count the terms of all matches of phrases in each document.

    Parameters
    ----------
    places
        Places of each term, see `Fulltext.find`.
    phrases
        Phrases from `phrase`; the matches of a repeated phrase count each time.

    Returns
    -------
    documents, counts
        Documents with a match, rising, and the number of matched terms in each, int64, shape (n,).
    """
    matched = [np.zeros(0, np.int64)]
    for tokens in phrases:
        begins: Ints | None = None
        for distance, (term, first) in enumerate(tokens):
            here = places[term]
            if first:
                here = here[here % (1 << POSITION_BITS) == 0]
            begins = here if begins is None else np.intersect1d(begins, here - distance)
        if begins is not None:
            matched.append(np.repeat(begins >> POSITION_BITS, len(tokens)))
    return np.unique(np.concatenate(matched), return_counts=True)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Decode one of FTS3's varints, least significant bits first.

    Returns
    -------
    value, next
        The number, and the offset behind the varint.
    """
    value, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 or shift > 63:
            return value, at


def _read_varints(data: bytes) -> Ints:
    """Decode all varints of a doclist."""
    encoded = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(encoded < 0x80)
    begins = np.append(0, ends + 1)[:-1]
    values = np.zeros(len(ends), np.int64)
    longest = int((ends - begins).max(initial=-1)) + 1
    for position in range(min(longest, 9)):
        at = begins + position
        inside = at <= ends
        part = encoded[np.minimum(at, ends)].astype(np.int64) & 0x7F
        values |= np.where(inside, part << 7 * position, 0)
    return values
