"""All rows of a file, in blocks: large reads, decoding in threads, memory bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from streamfile._format import Ints, VectorRows
from streamfile._reader import Contents, Reader
from streamfile.errors import FormatError
from vfs import ScanPages, VisitedMany, Workers, run

T = TypeVar("T")
R = TypeVar("R")

BATCH = 2 << 20  # bytes of pages read and decoded at once
STREAMS = 2  # batches on their way at once; in memory, more threads only contend
GAP = 16 << 10
USUAL_VALUE = 5  # bytes of a stored value and its type, rather too many
SHOW_AFTER = 1.0  # seconds


def scan(
    reader: Reader, count: int, transform: Callable[[VectorRows], T]
) -> Iterator[tuple[int, T]]:
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

    Yields
    ------
    first, result
        The place of the block's first row, and what `transform` gave; in the order of places.
        The last block may hold more rows than asked for.

    Raises
    ------
    FormatError
        A row that is missing, or that the format does not allow.
    vfs.BudgetError
        The scan as a whole would pass a budget.
    vfs.VFSError
        See `vfs.errors`.
    """
    from tqdm import tqdm  # not needed for anything else

    if not count:
        return
    plan = plan_scan(reader, count)
    contents, size = plan.contents, plan.contents.pages.layout.page_size
    visited = VisitedMany(contents.pages)

    def work(batch: Ints) -> tuple[int, int, T]:
        rows = VectorRows(
            reader.name,
            run(reader.scan_pages(plan.gap), contents.table.rows_of(batch, visited)),
            contents.format.dim,
        )
        if not len(rows.rowids):
            raise FormatError(f"{reader.name}: malformed: a leaf without rows")
        first, last = int(rows.rowids[0]), int(rows.rowids[-1])
        if last - first + 1 != len(rows.rowids):
            missing = first + int(np.flatnonzero(np.diff(rows.rowids) > 1)[0]) + 1
            raise _missing(reader, missing)
        return first - 1, last, transform(rows)

    requests = sum(map(len, plan.ranges))
    costs = [sum(end - start for start, end in ranges) for ranges in plan.ranges]
    costs = costs if requests else [len(batch) * size for batch in plan.batches]
    results = _in_order(work, plan.batches, STREAMS if requests else 1)
    expected = 0
    with tqdm(
        total=sum(costs),
        desc=f"{requests:,} requests" if requests else "scan",
        unit="B",
        unit_scale=True,
        delay=SHOW_AFTER,
        disable=None,
    ) as bar:
        for cost, (first, end, result) in zip(costs, results, strict=True):
            if first != expected:
                raise _missing(reader, expected + 1)
            expected = end
            yield first, result
            bar.update(cost)
    if expected < count:
        raise _missing(reader, expected + 1)


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
    reader.budget.check(reader.name, [(0, count * (reader.assumed.dim + 1))])  # the least it can be
    contents = reader.contents
    leaves = reader.leaves(count)
    size = contents.pages.layout.page_size
    row = USUAL_VALUE * contents.format.dim
    overflow = max(0, -(-count // len(leaves)) * row - size)
    step = max(1, BATCH // (size + overflow))
    batches = [leaves[at : at + step] for at in range(0, len(leaves), step)]
    gap = GAP + overflow
    pages = reader.scan_pages(gap)
    ranges = [pages.ranges(b.tolist()) if isinstance(pages, ScanPages) else [] for b in batches]
    reader.budget.check(reader.name, [one for some in ranges for one in some])
    return Plan(contents, batches, ranges, gap)


def _missing(reader: Reader, rowid: int) -> FormatError:
    return FormatError(f"{reader.name}: malformed: row {rowid} is missing")


def _in_order(function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """Apply a function in so many threads, a few items ahead of the caller.

    When the caller stops, by an error or an interrupt, nothing more is begun.
    """
    workers = Workers(threads)
    stopped = False

    def begin(item: T) -> Future[R]:
        future: Future[R] = Future()

        def task() -> None:
            if stopped:
                return
            try:
                future.set_result(function(item))
            except BaseException as failure:  # noqa: BLE001 - raised again in the caller
                future.set_exception(failure)

        workers.start(task)
        return future

    pending: deque[Future[R]] = deque()
    waiting = iter(items)
    try:
        for item in waiting:
            pending.append(begin(item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        stopped = True
        workers.close()
