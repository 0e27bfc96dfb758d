"""Lists of documents of a full-text index (FTS3), and how segments are merged.

A document in such a list is its number less that of the one before it, then its positions (each
the difference to the one before it plus two; another column begins with a one and its number),
then a zero. All are varints, least significant bits first.
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

MOST_TERMS = 2048  # of postings that are handled at once
MOST_BYTES = 1 << 18  # of their lists, if there is more than one
ENCODED = 1 << 16  # documents that are encoded at once


@dataclass(frozen=True)
class Postings:
    """Terms and the documents that have them.

    Attributes
    ----------
    terms
        Rising.
    sizes
        Bytes of the list of each, int64, shape (n,).
    lists
        The lists, one behind the other.
    """

    terms: list[bytes]
    sizes: Ints
    lists: bytes

    def pieces(self) -> Iterator[Postings]:
        """Cut into pieces of at most `MOST_TERMS` terms and, if of several, `MOST_BYTES`."""
        ends = np.append(0, np.cumsum(self.sizes))
        at = 0
        while at < len(self.terms):
            full = int(np.searchsorted(ends, ends[at] + MOST_BYTES, "right")) - 1
            end = min(max(full, at + 1), at + MOST_TERMS)
            lists = self.lists[ends[at] : ends[end]]
            yield Postings(self.terms[at:end], self.sizes[at:end], lists)
            at = end


def encode_varints(values: Ints) -> tuple[Bytes, Ints]:
    """Encode numbers that are not negative.

    Returns
    -------
    encoded
        uint8.
    sizes
        Bytes of each, int64, shape (n,).
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
        Newest first: what a newer one has of a document replaces what an older one has, and a
        document without positions is one that was deleted.
    name
        Of the file, for errors.

    Yields
    ------
    Postings
        With rising terms.

    Raises
    ------
    DatabaseError
        A list is malformed.
    """
    # Oldest first: usually the lists of a term then need only be put behind each other.
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
    """Make one list of all that there are of a term; the oldest come first, with the highest age.

    Nothing but the end of a document has a zero byte: differences of numbers that rise are none,
    and the last byte of a varint of several is none either.
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
    """Decode numbers below 2**63 that begin at offsets; give them and the offsets behind them."""
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
    behind[more] = len(data) + 1  # too large, so that its end cannot be right
    return values, behind
