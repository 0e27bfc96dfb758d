"""Keys of a file that is being written, in temporary files."""

from __future__ import annotations

import heapq
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import IO

import numpy as np
import numpy.typing as npt

from streamfile.format.key_lengths import LONGEST
from vfs.btree.index import nocase

RUN = 200_000  # keys sorted in memory

Entry = tuple[bytes, int, bytes]  # folded key, row id, key


class Keys:
    """Keys in the order of their row ids, from 1.

    Parameters
    ----------
    folder
        Directory of temporary files, which take about twice the size of the keys.

    Attributes
    ----------
    lengths
        Length of each key in characters, at most 255, and up to the first NUL, as SQLite counts.
    most_equal
        Greatest number of keys that are equal under NOCASE, after `sorted` was iterated to its end.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = folder
        self._file = self._temporary()
        self.lengths = bytearray()
        self.most_equal = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, keys: Sequence[bytes]) -> None:
        """Add keys in UTF-8."""
        _write(self._file, keys)
        self.lengths += bytes([min(len(key.partition(b"\0")[0].decode()), LONGEST) for key in keys])

    def batches(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield the keys in batches, each as (row id of the first key, keys)."""
        self._file.seek(0)
        rowid = 1
        while keys := _read(self._file):
            yield rowid, keys
            rowid += len(keys)

    def sorted(self) -> Iterator[tuple[bytes, int]]:
        """Yield keys and row ids in the order of an index under NOCASE."""
        runs = [self._spilled(run) for run in self._runs()] if len(self) > RUN else self._runs()
        merged: Iterable[Entry] = heapq.merge(*runs) if len(self) > RUN else chain(*runs)
        count, before = 0, None
        for folded, rowid, key in merged:
            count = count + 1 if folded == before else 1
            before, self.most_equal = folded, max(self.most_equal, count)
            yield key, rowid

    def close(self) -> None:
        """Delete the temporary files."""
        self._file.close()

    def _runs(self) -> Iterator[Iterator[Entry]]:
        entries: list[Entry] = []
        for first, keys in self.batches():
            entries += zip(map(nocase, keys), range(first, first + len(keys)), keys, strict=True)
            if len(entries) >= RUN:
                entries.sort()
                yield iter(entries)
                entries = []
        entries.sort()
        yield iter(entries)

    def _spilled(self, run: Iterator[Entry]) -> Iterator[Entry]:
        """Write a sorted run to a temporary file, and return an iterator that reads it."""
        file = self._temporary()
        entries = list(run)
        for begin in range(0, len(entries), 1000):
            part = entries[begin : begin + 1000]
            _write(file, [key for *_, key in part])
            file.write(np.array([rowid for _, rowid, _ in part], np.int64).tobytes())
        file.seek(0)

        def read() -> Iterator[Entry]:
            with file:
                while keys := _read(file):
                    rowids = np.frombuffer(file.read(8 * len(keys)), np.int64).tolist()
                    yield from zip(map(nocase, keys), rowids, keys, strict=True)

        return read()

    def _temporary(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self._folder)


def _write(file: IO[bytes], keys: Sequence[bytes]) -> None:
    file.write(len(keys).to_bytes(4, "little"))
    file.write(np.fromiter(map(len, keys), np.uint32, len(keys)).tobytes())
    file.write(b"".join(keys))


def _read(file: IO[bytes]) -> list[bytes]:
    count = int.from_bytes(file.read(4), "little")
    ends: npt.NDArray[np.int64] = np.cumsum(np.frombuffer(file.read(4 * count), np.uint32))
    data, begin, keys = file.read(int(ends[-1]) if count else 0), 0, []
    for end in ends.tolist():
        keys.append(data[begin:end])
        begin = end
    return keys
