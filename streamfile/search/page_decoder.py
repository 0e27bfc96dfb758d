"""Decoder of leaf pages of the vectors' table to blocks of vectors and keys."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamfile._arrays import Floats, Ints
from streamfile._jit import compiled
from streamfile.errors import FormatError
from streamfile.format.records import Keys, Scratch
from streamfile.format.rows import VectorRows
from streamfile.readers.base import Reader
from streamfile.readers.contents import Contents
from streamfile.search.compiled_decoder import KERNEL, CompiledDecoder
from vfs.btree.scan_pages import pages_for_scan
from vfs.btree.tree import VisitedMany
from vfs.btree.walk import run

LESS = 1 << 16  # values of one step for threads that decode in turn


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a scan.

    Attributes
    ----------
    first
        Position of the first row in the file, from 0.
    vectors
        Vectors of the rows, float32, shape (n, dim). Later blocks of the same thread overwrite
        this memory.
    keys
        Keys of the rows.
    """

    first: int
    vectors: Floats
    keys: Keys


class Decoder:
    """Decoder of the batches of a scan, in any order and in several threads.

    Parameters
    ----------
    reader, contents
        Reader of the file, and its contents.
    count
        Number of rows to decode, from the first one on; later rows are left out.
    gap
        Greatest gap in bytes between two pages of one range, see `ScanPages`.
    normalized
        Whether the vectors have unit length, or their original length.
    in_turn
        Whether only one thread at a time decodes.
    may_compile
        Whether to use a compiled decoder if possible.
    """

    def __init__(
        self,
        reader: Reader,
        contents: Contents,
        count: int,
        *,
        gap: int,
        normalized: bool,
        in_turn: bool,
        may_compile: bool,
    ) -> None:
        self._reader, self._contents, self._count, self._gap = reader, contents, count, gap
        self._normalized = normalized
        self._visited = VisitedMany(contents.pages)
        self._threads = threading.local()
        # Threads that read from a server decode in turn, which takes less memory.
        self._turn: AbstractContextManager[Any] = threading.Lock() if in_turn else nullcontext()
        self._shared = Scratch(LESS) if in_turn else None
        self._compiled: CompiledDecoder | None = None
        function = compiled(KERNEL, reader.kept("code")[0]) if normalized and may_compile else None
        if function is not None:
            usable, told = contents.pages.layout.usable, contents.format
            self._compiled = CompiledDecoder(function, usable, told.dim, told.precision)

    def decode(self, batch: Ints) -> Block:
        """Read and decode the rows of leaf pages.

        Raises
        ------
        FormatError
            A row is malformed or missing.
        vfs.VFSError
            See `vfs.errors`.
        """
        pages = pages_for_scan(self._contents.pages, self._gap)
        data, starts = pages.block(batch)
        if not hasattr(self._threads, "scratch"):
            self._threads.scratch = Scratch()
        scratch: Scratch = self._threads.scratch
        if self._compiled is not None:
            decoded = self._compiled.decode(data, starts, scratch)
            if decoded is not None:
                self._visited.add(batch.tolist())
                rowids, vectors, keys = decoded
                count = self._check(rowids)
                return Block(int(rowids[0]) - 1, vectors[:count], keys.first(count))
        found = run(pages, self._contents.table.rows_of(batch, data, starts, self._visited))
        with self._turn:
            told = self._contents.format
            rows = VectorRows(self._reader.name, found, told.dim)
            count = self._check(rows.rowids)
            vectors = rows.vectors(
                told.precision,
                normalized=self._normalized,
                out=scratch.array("vectors", (count, told.dim), "f4"),
                scratch=self._shared or scratch,
            )
        return Block(int(rows.rowids[0]) - 1, vectors, rows.stored_keys.first(count))

    def _check(self, rowids: Ints) -> int:
        """Check that row ids are consecutive, and return the number of wanted rows among them."""
        if not len(rowids):
            raise FormatError(f"{self._reader.name}: malformed: a leaf without rows")
        first, last = int(rowids[0]), int(rowids[-1])
        if not 1 <= first <= self._count:
            raise missing(self._reader.name, 1 if first < 1 else self._count)
        if last - first + 1 != len(rowids):
            gap = int(np.flatnonzero(np.diff(rowids) > 1)[0])
            raise missing(self._reader.name, first + gap + 1)
        return min(last, self._count) - first + 1


def missing(name: str, rowid: int) -> FormatError:
    """Make the error for a missing row."""
    return FormatError(f"{name}: malformed: row {rowid} is missing")
