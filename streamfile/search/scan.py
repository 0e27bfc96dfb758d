"""All rows of a file, in blocks: large reads, decoding in threads, memory bounded."""

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
from vfs.workers import Workers

T = TypeVar("T")
R = TypeVar("R")

BATCH = 1 << 20  # bytes of pages read and decoded at once
LOCAL_FACTOR = 4  # threads contend less over fewer, longer operations
THREADS = 2  # for a local file
STREAMS = 4  # batches on their way at once from a server
LEAST_COMPILED = 32 << 20  # bytes of pages
GAP = 16 << 10
USUAL_VALUE = 5  # bytes of a stored value and its type, rather too many


def scan(
    reader: Reader, count: int, transform: Callable[[Block], T], *, normalized: bool = True
) -> Iterator[T]:
    """Read the first rows of a file.

    A streamed scan is held against the budgets as a whole before its rows are asked for. One that
    takes long shows its progress where standard error is a terminal.

    Parameters
    ----------
    reader
        Of the file.
    count
        How many rows, at most as many as there are.
    transform
        Makes of each block of rows what is wanted, in threads of its own.
    normalized
        Whether the vectors are wanted of unit length, or of their original one.

    Yields
    ------
    object
        What `transform` gave for each block, in the order of places.

    Raises
    ------
    FormatError
        A row that is missing, or that the format does not allow.
    vfs.BudgetError
        The scan as a whole would pass a budget.
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
        may_compile=not requests and sum(costs) >= LEAST_COMPILED,  # numpy outruns networks
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
            yield result
            bar.update(cost)
    if expected < count:
        raise missing(reader.name, expected + 1)


@dataclass(frozen=True)
class Plan:
    """What a scan reads.

    Attributes
    ----------
    contents
        Of the version of the file that is read.
    batches
        Leaf pages, those read at once together.
    ranges
        The byte ranges that hold each batch, a request each; empty for a local file.
    gap
        Bytes between pages that are read on the way.
    """

    contents: Contents
    batches: list[Ints]
    ranges: list[list[tuple[int, int]]]
    gap: int


def plan_scan(reader: Reader, count: int) -> Plan:
    """Plan a scan of the first rows, and hold its cost against the budgets.

    Raises
    ------
    vfs.BudgetError
        The scan as a whole would pass a budget. No row was asked for, only interior pages.
    """
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
    """Apply a function in so many threads, a few items ahead of the caller.

    When the caller stops, by an error or an interrupt, nothing more is begun.
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
