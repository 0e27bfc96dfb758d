"""A bounded, checksummed block store that many processes share without waiting for each other.

The store is one file of fixed size, divided into sets of one header page and 64 data slots. A
block can rest in any slot of the one set that its key selects; where all are taken, the least
recently used one is replaced. Where the file shrinks, only the keys of the sets that go select
another set, and the most recently used of them move there. An entry's checksum covers its key and
its data, so a slot torn by a killed or a concurrent writer is a miss, and readers need no lock.
Writers hold a shared lock only against a process that shrinks the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

STORE = "blocks.v1"
LOCK = "blocks.lock"
BLOCK = 4096
WAYS = 64
ENTRY = struct.Struct("<24s16sI4xQ8x")
STAMP_OFFSET = 48
SET = BLOCK + WAYS * BLOCK
KEPT_LONGER = 30 * 24 * 3600 * 10**9
MOVED_AT_ONCE = 4096
SUPPORTED = fcntl is not None and hasattr(os, "pread")

Key = tuple[bytes, int]


class DiskStore:
    """Blocks of up to 4096 bytes in one file.

    Parameters
    ----------
    directory
        An existing directory of its own.
    capacity
        Most bytes that the file may take.
    room
        Gives the most bytes that it may take now, where other files share the capacity. Called
        under the exclusive lock.

    Raises
    ------
    OSError
        The directory cannot be written, or the capacity is below one set (260 KiB).
    """

    def __init__(
        self, directory: Path, capacity: int, room: Callable[[], int] | None = None
    ) -> None:
        if capacity < SET:
            raise OSError(f"a disk cache of {capacity} bytes is below the smallest, {SET}")
        self._path = directory / STORE
        self._lock_path = directory / LOCK
        self._room = room or (lambda: capacity)
        self._file = self._lock = -1
        self._writing = threading.Lock()
        self._open()

    def get(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        """Read blocks; what is missing or damaged is left out.

        Parameters
        ----------
        keys
            (16-byte digest, block number) pairs.
        """
        found: dict[Key, bytes] = {}
        sets = self._count()
        headers: dict[int, bytes] = {}
        used: list[int] = []
        now = time.time_ns()
        for key in keys:
            packed = _pack(key)
            base = _set_of(key, sets) * SET
            header = headers.get(base)
            if header is None:
                header = headers[base] = self._header(base)
            way = _way_of(header, packed)
            if way is None:
                continue
            _, checksum, length, stamp = ENTRY.unpack_from(header, way * ENTRY.size)
            data = os.pread(self._file, min(length, BLOCK), base + BLOCK + way * BLOCK)
            if xxhash.xxh3_128_digest(packed + data) == checksum:
                found[key] = data
                if stamp < now:
                    used.append(base + way * ENTRY.size + STAMP_OFFSET)
        if used:
            with self._writing, self._locked(fcntl.LOCK_SH):
                if self._count() == sets:
                    for at in used:
                        os.pwrite(self._file, now.to_bytes(8, "little"), at)
        return found

    def put(self, blocks: Mapping[Key, bytes], *, keep: bool = False) -> None:
        """Write blocks, replacing the least recently used.

        Parameters
        ----------
        blocks
            Data by (16-byte digest, block number).
        keep
            Replace these only after all others: they count as used a month from now.

        Raises
        ------
        OSError
            The disk is full or failed.
        """
        now = time.time_ns()
        stamp = now + (KEPT_LONGER if keep else 0)
        with self._writing, self._locked(fcntl.LOCK_SH):
            sets = self._count()
            by_set: dict[int, list[Key]] = {}
            for key in blocks:
                by_set.setdefault(_set_of(key, sets), []).append(key)
            for number, keys in by_set.items():
                base = number * SET
                header = bytearray(self._header(base))
                stamps = _stamps(header, now)
                for key in keys:
                    packed, data = _pack(key), blocks[key]
                    way = _way_of(header, packed)
                    if way is None:
                        way = int(stamps.argmin())
                    stamps[way] = stamp
                    checksum = xxhash.xxh3_128_digest(packed + data)
                    entry = ENTRY.pack(packed, checksum, len(data), stamp)
                    os.pwrite(self._file, data, base + BLOCK + way * BLOCK)
                    os.pwrite(self._file, entry, base + way * ENTRY.size)
                    header[way * ENTRY.size : (way + 1) * ENTRY.size] = entry

    def size(self) -> int:
        """Measure the file, in bytes."""
        return os.fstat(self._file).st_size

    def close(self) -> None:
        """Let go of the file; what still uses it in another thread gets an OSError."""
        with self._writing:
            self._close()

    def reopen(self) -> None:
        """Take own file handles, in a process that was forked."""
        self._writing = threading.Lock()
        self._close()
        self._open()

    def _open(self) -> None:
        mode = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._lock = os.open(self._lock_path, mode, 0o600)
        try:
            with self._locked(fcntl.LOCK_EX):
                self._file = os.open(self._path, mode, 0o600)
                self._resize()
        except BaseException:
            self._close()
            raise

    def _resize(self) -> None:
        """Shrink to the room that there is, grow only where no other process reads the file."""
        sets, size = max(1, self._room() // SET), self.size()
        alone = True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        if size > sets * SET:
            shrink(self._file, sets)
        elif size < SET or alone:
            os.ftruncate(self._file, sets * SET)
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def _close(self) -> None:
        files = self._file, self._lock
        self._file = self._lock = -1
        for file in files:
            if file >= 0:
                os.close(file)

    def _header(self, base: int) -> bytes:
        return os.pread(self._file, BLOCK, base).ljust(BLOCK, b"\0")

    def _count(self) -> int:
        return os.fstat(self._file).st_size // SET or 1

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        if self._lock < 0:
            raise OSError(errno.EBADF, "the disk cache was closed")
        fcntl.flock(self._lock, kind)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)


def shrink(file: int, sets: int) -> None:
    """Cut a store off, and move what was used last in the sets that go into those that stay.

    Parameters
    ----------
    file
        The store's file, under its exclusive lock.
    sets
        How many sets stay, at least one. A file that has no more is left alone.
    """
    size = os.fstat(file).st_size
    latest = time.time_ns() + 2 * KEPT_LONGER
    for end in range(size // SET, sets, -MOVED_AT_ONCE):
        moving: dict[int, list[tuple[int, int, bytes]]] = {}
        for base in range(max(sets, end - MOVED_AT_ONCE) * SET, end * SET, SET):
            header = os.pread(file, BLOCK, base).ljust(BLOCK, b"\0")
            for way, (packed, _, _, stamp) in enumerate(ENTRY.iter_unpack(header)):
                if 0 < stamp <= latest:
                    number = _set_of((packed[:16], int.from_bytes(packed[16:], "little")), sets)
                    entry = header[way * ENTRY.size : (way + 1) * ENTRY.size]
                    place = base + BLOCK + way * BLOCK
                    moving.setdefault(number, []).append((stamp, place, entry))
        for number, entries in moving.items():
            _move(file, number * SET, entries)
    if size > sets * SET:
        os.ftruncate(file, sets * SET)


def _move(file: int, base: int, entries: list[tuple[int, int, bytes]]) -> None:
    """Let entries, as (time of use, place of the data, entry), replace what was used earlier."""
    header = bytearray(os.pread(file, BLOCK, base).ljust(BLOCK, b"\0"))
    stamps = _stamps(header, time.time_ns())
    for stamp, place, entry in sorted(entries, reverse=True)[:WAYS]:
        way = _way_of(header, entry[:24])
        if way is None:
            way = int(stamps.argmin())
        if stamps[way] < stamp:
            os.pwrite(file, os.pread(file, BLOCK, place), base + BLOCK + way * BLOCK)
            os.pwrite(file, entry, base + way * ENTRY.size)
            header[way * ENTRY.size : (way + 1) * ENTRY.size] = entry
            stamps[way] = stamp


def _stamps(header: bytes | bytearray, now: int) -> npt.NDArray[np.uint64]:
    """Give the times of use of a set's slots, in nanoseconds, 0 where one cannot be true."""
    stamps = np.frombuffer(header, "<u8")[STAMP_OFFSET // 8 :: ENTRY.size // 8].copy()
    stamps[stamps > now + 2 * KEPT_LONGER] = 0  # damaged, or the clock was wrong
    return stamps


def _pack(key: Key) -> bytes:
    return key[0] + key[1].to_bytes(8, "little")


def _set_of(key: Key, sets: int) -> int:
    """Select a set by jump consistent hashing (Lamping and Veach, arXiv:1406.2294)."""
    state = int.from_bytes(key[0][:8], "little") + key[1]
    chosen = following = 0
    while following < sets:
        chosen = following
        state = (state * 2862933555777941757 + 1) & 0xFFFFFFFFFFFFFFFF
        following = int((chosen + 1) * (0x80000000 / ((state >> 33) + 1)))
    return chosen


def _way_of(header: bytes | bytearray, packed: bytes) -> int | None:
    at = header.find(packed)
    while at >= 0 and at % ENTRY.size:
        at = header.find(packed, at + 1)
    return at // ENTRY.size if at >= 0 else None
