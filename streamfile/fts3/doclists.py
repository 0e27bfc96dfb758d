"""Doclists of a full-text index (FTS3), and the merge of segments.

A doclist is a sequence of varints, least significant bits first. Each document has the difference
of its number to the document before it, its positions, and a zero. A position is stored as its
difference to the position before it, plus two. The positions of another column than the first
begin with a one and the number of the column.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from streamfile._arrays import Bytes, Ints
from streamfile.fts3.ngrams import ranges
from vfs.errors import DatabaseError

MOST_TERMS = 2048  # terms of one piece of postings
MOST_BYTES = 1 << 18  # bytes of the doclists of a piece, unless it has one term only
ENCODED = 1 << 16  # documents that are encoded in one step


@dataclass(frozen=True)
class Postings:
    """Terms and their doclists.

    Attributes
    ----------
    terms
        Terms in rising order.
    sizes
        Length of each term's doclist in bytes, int64, shape (n,).
    lists
        The joined doclists.
    """

    terms: list[bytes]
    sizes: Ints
    lists: bytes

    def pieces(self) -> Iterator[Postings]:
        """Yield pieces of at most `MOST_TERMS` terms and `MOST_BYTES` bytes, or of one term."""
        ends = np.append(0, np.cumsum(self.sizes))
        at = 0
        while at < len(self.terms):
            full = int(np.searchsorted(ends, ends[at] + MOST_BYTES, "right")) - 1
            end = min(max(full, at + 1), at + MOST_TERMS)
            lists = self.lists[ends[at] : ends[end]]
            yield Postings(self.terms[at:end], self.sizes[at:end], lists)
            at = end


def encode_varints(values: Ints) -> tuple[Bytes, Ints]:
    """Encode integers of at least 0 as FTS3's varints.

    Returns
    -------
    encoded
        The joined varints, uint8.
    sizes
        Length of each varint in bytes, int64, shape (n,).
    """
    sizes = np.ones(len(values), np.int64)
    rest = values >> 7
    while rest.any():
        sizes += rest > 0
        rest = rest >> 7
    if int(sizes.max(initial=1)) == 1:
        return values.astype(np.uint8), sizes
    starts = np.cumsum(sizes) - sizes
    encoded = np.zeros(int(sizes.sum()), np.uint8)
    for at in range(int(sizes.max())):
        longer = np.flatnonzero(sizes > at)
        more = sizes[longer] > at + 1
        encoded[starts[longer] + at] = (values[longer] >> 7 * at & 0x7F) | more * np.int64(0x80)
    return encoded, sizes


def merged(segments: Sequence[Iterable[Postings]], name: str = "a file") -> Iterator[Postings]:
    """Merge segments into one, as SQLite's `optimize` does.

    Parameters
    ----------
    segments
        Postings of each segment, the newest segment first. If two doclists of a term have the same
        document, the entry of the newer segment counts. A document without positions is deleted.
    name
        Name of the file, for error messages.

    Yields
    ------
    Postings
        Merged postings, with terms in rising order.

    Raises
    ------
    DatabaseError
        A doclist is malformed.
    """
    # Oldest first: row ids usually rise from segment to segment, so that no sort is needed.
    sources = [iter(segment) for segment in reversed(segments)]
    heads: dict[int, tuple[Postings, Ints, int]] = {}

    def advance(source: int) -> None:
        heads.pop(source, None)
        postings = next((each for each in sources[source] if each.terms), None)
        if postings is not None:
            heads[source] = postings, np.append(0, np.cumsum(postings.sizes)), 0

    for source in range(len(sources)):
        advance(source)
    while heads:
        bound = min(postings.terms[-1] for postings, _, _ in heads.values())
        terms: list[bytes] = []
        sizes: list[Ints] = []
        lists: list[bytes] = []
        ages: list[int] = []
        for source in sorted(heads):
            postings, ends, at = heads[source]
            end = bisect_right(postings.terms, bound, at)
            terms += postings.terms[at:end]
            sizes.append(postings.sizes[at:end])
            lists.append(postings.lists[ends[at] : ends[end]])
            ages += [-source] * (end - at)
            heads[source] = postings, ends, end
            if end == len(postings.terms):
                advance(source)
        try:
            joined = _joined(terms, np.concatenate(sizes), b"".join(lists), np.array(ages))
        except DatabaseError as failure:
            raise DatabaseError(f"{name}: {failure}") from None
        if joined.terms:
            yield joined


def _joined(terms: list[bytes], sizes: Ints, lists: bytes, ages: Ints) -> Postings:
    """Merge all doclists of each term into one doclist.

    Only the end of a document is a zero byte: a difference of rising numbers is not zero, and a
    varint of several bytes does not end with a zero byte.

    Parameters
    ----------
    terms
        Term of each doclist, the terms of the oldest segment first.
    sizes
        Length of each doclist in bytes.
    lists
        The joined doclists.
    ages
        Age of each doclist's segment; a higher number is older.
    """
    data = np.frombuffer(lists, np.uint8)
    ends = np.flatnonzero(data == 0)
    begins = np.append(0, ends[:-1] + 1)
    counts = np.diff(np.searchsorted(ends, np.append(0, np.cumsum(sizes))))
    lasts = np.cumsum(sizes) - 1
    if lasts[-1] != len(data) - 1 or data[lasts].any() or not counts.all():
        raise DatabaseError(
            "malformed: its full-text index has a list of documents that is cut off"
        )
    differences, bodies = _decode_varints(data, begins)
    if np.any(bodies > ends) or np.any(data[ends - 1] >= 0x80):
        raise DatabaseError("malformed: its full-text index has a list of documents that cannot be")
    firsts = np.cumsum(counts) - counts
    documents = np.cumsum(differences)
    documents -= np.repeat((documents - differences)[firsts], counts)
    if documents.min() < 1:
        raise DatabaseError(
            "malformed: its full-text index has a document whose number is not positive"
        )

    order = np.array(sorted(range(len(terms)), key=terms.__getitem__))
    ordered = [terms[at] for at in order]
    new = np.array([True, *(a != b for a, b in pairwise(ordered))])
    which = ranges(firsts[order], counts[order])
    documents = documents[which]
    groups = np.repeat(np.cumsum(new) - 1, counts[order])
    same = groups[1:] == groups[:-1]
    if np.any(same & (documents[1:] <= documents[:-1])):
        again = np.lexsort([np.repeat(ages[order], counts[order]), documents, groups])
        documents, groups, which = documents[again], groups[again], which[again]
        replaced = (groups[1:] == groups[:-1]) & (documents[1:] == documents[:-1])
        newest = np.append(True, ~replaced)
        documents, groups, which = documents[newest], groups[newest], which[newest]
    exists = bodies[which] < ends[which]
    documents, groups, which = documents[exists], groups[exists], which[exists]

    first = np.append(True, groups[1:] != groups[:-1])[: len(groups)]
    before = np.append(0, documents[:-1])[: len(documents)]
    differences = np.where(first, documents, documents - before)
    lists_made: list[bytes] = []
    starts: list[Ints] = []
    total = 0
    for at in range(0, len(which), ENCODED):
        part = which[at : at + ENCODED]
        encoded, heads = encode_varints(differences[at : at + ENCODED])
        tails = ends[part] + 1 - bodies[part]
        here = np.cumsum(heads + tails) - heads - tails
        made = np.empty(len(encoded) + int(tails.sum()), np.uint8)
        made[ranges(here, heads)] = encoded
        made[ranges(here + heads, tails)] = data[ranges(bodies[part], tails)]
        lists_made.append(made.tobytes())
        starts.append(here + total)
        total += len(made)
    bounds = np.append(np.concatenate([*starts, differences[:0]])[first], total)
    named = np.flatnonzero(new)[groups[first]]
    return Postings([ordered[at] for at in named.tolist()], np.diff(bounds), b"".join(lists_made))


def _decode_varints(data: Bytes, at: Ints) -> tuple[Ints, Ints]:
    """Decode varints of numbers below 2**63 at offsets.

    Returns
    -------
    values, behind
        The numbers, and the offset behind each varint, int64, shape (n,). The offset behind a
        malformed varint is greater than the length of the data.
    """
    values = np.zeros(len(at), np.int64)
    behind = at.copy()
    more = np.arange(len(at))
    for shift in range(0, 63, 7):
        if not len(more):
            break
        part = data[np.minimum(behind[more], len(data) - 1)].astype(np.int64)
        values[more] |= (part & 0x7F) << shift
        behind[more] += 1
        more = more[part >= 0x80]
    behind[more] = len(data) + 1  # the caller compares it with the end of the document
    return values, behind
