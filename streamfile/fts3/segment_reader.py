"""Reader of whole segments of a full-text index (FTS3) in a local file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from streamfile.fts3.doclists import MOST_BYTES, MOST_TERMS, Postings
from streamfile.fts3.reader import Fulltext, StoredSegment
from vfs.btree.pages import LocalPages
from vfs.btree.walk import run

BLOCKS = 16  # blocks that are read in one step


def read_segments(
    pages: LocalPages, segments_root: int, blocks_root: int
) -> list[Iterator[Postings]]:
    """Open all segments of a full-text index.

    Parameters
    ----------
    pages
        Pages of the file.
    segments_root, blocks_root
        Root pages of the tables ``…_segdir`` and ``…_segments``.

    Returns
    -------
    list of iterators
        Postings of each segment, the newest segment first, as `merged` takes them.

    Raises
    ------
    DatabaseError
        The index is malformed. The iterators raise this too.
    """
    fulltext = Fulltext(pages, segments_root, blocks_root)
    segments = run(pages, fulltext.listed())
    return [_read_segment(pages, fulltext, segment) for segment in segments]


def _read_segment(
    pages: LocalPages, fulltext: Fulltext, segment: StoredSegment
) -> Iterator[Postings]:
    before = b""
    terms: list[bytes] = []
    lists: list[bytes] = []
    size = 0

    def taken() -> Postings:
        return Postings(terms, np.array([len(each) for each in lists], np.int64), b"".join(lists))

    for leaf in _leaves(pages, fulltext, segment):
        if terms and (len(terms) >= MOST_TERMS or size + len(leaf) > MOST_BYTES):
            yield taken()
            terms, lists, size = [], [], 0
            pages.release()
        size += len(leaf)
        for term, begin, end in fulltext.terms(leaf, 1, documents=True):
            if term <= before:
                raise fulltext.malformed("terms out of order")
            before = term
            terms.append(term)
            lists.append(leaf[begin:end])
    yield taken()


def _leaves(pages: LocalPages, fulltext: Fulltext, segment: StoredSegment) -> Iterator[bytes]:
    if segment.root[:1] == b"\0":
        yield segment.root
        return
    numbers = range(segment.first_leaf, segment.last_leaf + 1)
    if not numbers:
        raise fulltext.malformed("a segment without leaves")
    for at in range(0, len(numbers), BLOCKS):
        blocks = run(pages, fulltext.read_blocks(numbers[at : at + BLOCKS]))
        for _, leaf in sorted(blocks.items()):
            if leaf[:1] != b"\0":
                raise fulltext.malformed("an interior node among its leaves")
            yield leaf
