"""Scan of all rows of a file in blocks, by large reads and threads, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from streamfile._arrays import Ints
from streamfile._progress import SHOW_AFTER, Progress
from streamfile.readers.base import Reader
from streamfile.readers.contents import Contents
from streamfile.search.page_decoder import Block, Decoder, missing
from vfs.btree.pages import RemotePages
from vfs.btree.scan_pages import ScanPages, pages_for_scan
from vfs.deadline import current
from vfs.workers import Workers

T = TypeVar("T")
R = TypeVar("R")

BATCH = 1 << 20  # bytes of pages in a batch
LOCAL_FACTOR = 4  # batches of a local file are larger: threads contend less over longer operations
THREADS = 2  # for a local file
STREAMS = 4  # batches that are read from a server in parallel
LEAST_COMPILED = 32 << 20  # bytes of the smallest scan that uses a compiled decoder
GAP = 16 << 10  # bytes
USUAL_VALUE = 5  # bytes of a stored value and its serial type, an upper estimate


def scan(
    reader: Reader, count: int, transform: Callable[[Block], T], *, normalized: bool = True
) -> Iterator[T]:
    """Yield a function's results for all blocks of the first rows of a file.

    The whole scan of a remote file is checked against the budgets before its rows are requested. A
    long scan shows its progress if standard error is a terminal.

    Parameters
    ----------
    reader
        Reader of the file.
    count
        Number of rows, at most the number of rows in the file.
    transform
        Function of a block of rows, called in other threads.
    normalized
        Whether the vectors have unit length, or their original length.

    Yields
    ------
    object
        Result of `transform` for each block, in the order of the rows.

    Raises
    ------
    FormatError
        A row is malformed or missing.
    vfs.BudgetError
        The whole scan would exceed a budget.
    vfs.VFSError
        See `vfs.errors`.
    """
    if not count:
        return
    plan = plan_scan(reader, count)
    requests = sum(map(len, plan.ranges))
    size = plan.contents.pages.layout.page_size
    costs = [sum(end - start for start, end in ranges) for ranges in plan.ranges]
    costs = costs if requests else [len(batch) * size for batch in plan.batches]
    decoder = Decoder(
        reader,
        plan.contents,
        count,
        gap=plan.gap,
        normalized=normalized,
        in_turn=bool(requests),
        # numpy code decodes faster than a network delivers.
        may_compile=not requests and sum(costs) >= LEAST_COMPILED,
    )

    def work(batch: Ints) -> tuple[int, int, T]:
        block = decoder.decode(batch)
        return block.first, block.first + len(block.vectors), transform(block)

    results = _in_order(work, plan.batches, STREAMS if requests else THREADS)
    title = f"{requests:,} requests" if requests else "scan"
    expected = 0
    with Progress(title, sum(costs), delay=SHOW_AFTER) as bar:
        for cost, (first, end, result) in zip(costs, results, strict=True):
            if first != expected:
                raise missing(reader.name, expected + 1)
            expected = end
            current().progress()
            yield result
            bar.update(cost)
    if expected < count:
        raise missing(reader.name, expected + 1)


@dataclass(frozen=True)
class Plan:
    """The reads of a scan.

    Attributes
    ----------
    contents
        Contents of the version of the file that is read.
    batches
        Leaf page numbers of each batch.
    ranges
        (start, end) byte ranges of each batch, one request for each range; none for a local file.
    gap
        Greatest gap in bytes between two pages of one range, see `ScanPages`.
    """

    contents: Contents
    batches: list[Ints]
    ranges: list[list[tuple[int, int]]]
    gap: int


def plan_scan(reader: Reader, count: int) -> Plan:
    """Plan a scan of the first rows, and check its cost against the budgets.

    Raises
    ------
    vfs.BudgetError
        The whole scan would exceed a budget. Only interior pages were requested, no rows.
    """
    # The least possible cost, before interior pages are requested.
    least = count * (reader.contents.format.dim + 1)
    reader.budget.check(reader.name, [(0, least)])
    contents = reader.current()
    leaves = reader.run(lambda contents: contents.table.leaves(count))
    size = contents.pages.layout.page_size
    row = USUAL_VALUE * contents.format.dim
    overflow = max(0, -(-count // len(leaves)) * row - size)
    batch = BATCH if isinstance(contents.pages, RemotePages) else LOCAL_FACTOR * BATCH
    step = max(1, batch // (size + overflow))
    batches = [leaves[at : at + step] for at in range(0, len(leaves), step)]
    gap = GAP + overflow
    pages = pages_for_scan(contents.pages, gap)
    ranges = [pages.ranges(b.tolist()) if isinstance(pages, ScanPages) else [] for b in batches]
    reader.budget.check(reader.name, [one for some in ranges for one in some])
    return Plan(contents, batches, ranges, gap)


def _in_order(function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """Yield a function's results in order, computed by threads a few items ahead of the caller.

    After an error or an interrupt of the caller, no further item is begun.
    """
    workers = Workers(threads)
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(workers.submit(partial(function, item)))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        workers.close()
