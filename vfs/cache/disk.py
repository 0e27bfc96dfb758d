"""Bounded, checksummed block store, shared by many processes that do not wait for each other.

The store is one file, divided into sets of one header page and 64 data slots (a set-associative
cache). A block's key selects a set, and the block can be in any slot of this set. If all slots are
taken, a new block replaces the least recently used one. When the file shrinks, only the keys of
the removed sets select another set; the most recently used blocks of the removed sets move there.
An entry's checksum covers its key and its data. A slot that a killed or a concurrent writer left
incomplete is therefore a miss, and readers need no lock. Writers hold a shared lock, which
excludes only a process that shrinks the file. A writer does not wait long for the lock, which a
stopped process would never release: without it nothing is written.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from vfs.cache.locks import lock
from vfs.cache.trust import open_private
from vfs.deadline import Deadline, current

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

STORE = "blocks.v1"
LOCK = "blocks.lock"
BLOCK = 4096
WAYS = 64
ENTRY = struct.Struct("<24s16sI4xQ8x")
STAMP_OFFSET = 48
SET = BLOCK + WAYS * BLOCK
KEPT_LONGER = 30 * 24 * 3600 * 10**9
MOVED_AT_ONCE = 4096
PATIENCE = 1.0  # seconds to wait for the lock, the first time
SUPPORTED = fcntl is not None and hasattr(os, "pread")

Key = tuple[bytes, int]


class DiskStore:
    """Store of blocks of up to 4096 bytes, in one file.

    Parameters
    ----------
    directory
        Existing directory that only the cache uses.
    capacity
        Greatest permitted length of the file in bytes.
    room
        Function that returns the length in bytes that other files in the directory leave for the
        store; called under the exclusive lock. Default: all of `capacity`.

    Raises
    ------
    TimeoutError
        A stopped process holds the lock of a store that must be created or shrunk.
    OSError
        The directory cannot be written, has other files than this user's of these names, or the
        capacity is below one set (260 KiB).
    """

    def __init__(
        self, directory: Path, capacity: int, room: Callable[[], int] | None = None
    ) -> None:
        if capacity < SET:
            raise OSError(f"a disk cache of {capacity} bytes is below the smallest, {SET}")
        self._path = directory / STORE
        self._lock_path = directory / LOCK
        self._capacity = capacity
        self._room = room or (lambda: capacity)
        self._file = self._lock = -1
        self._writing = threading.Lock()
        self._patience = PATIENCE
        self._told = False
        self._open()

    def get(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        """Read blocks, and mark them as used now.

        Parameters
        ----------
        keys
            (16-byte digest, block number) pairs.

        Returns
        -------
        dict
            Blocks by key, without missing and damaged blocks.
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
            with self._writing, self._locked(0) as held:
                if held and self._count() == sets:
                    for at in used:
                        os.pwrite(self._file, now.to_bytes(8, "little"), at)
        return found

    def put(self, blocks: Mapping[Key, bytes], *, keep: bool = False) -> None:
        """Write blocks, which replace the least recently used blocks.

        Nothing is written while another process holds the lock, for example a stopped one.

        Parameters
        ----------
        blocks
            Data by (16-byte digest, block number).
        keep
            Whether to keep these blocks longer than others: their time of use is set to 30 days
            from now.

        Raises
        ------
        OSError
            The disk is full or failed.
        """
        now = time.time_ns()
        stamp = now + (KEPT_LONGER if keep else 0)
        with self._writing, self._locked(self._patience) as held:
            self._patience = PATIENCE if held else 0
            if not held:
                self._tell()
                return
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

    def numbers(self, file: bytes) -> list[int]:
        """List the blocks of a file, from the headers of all sets.

        Parameters
        ----------
        file
            16-byte digest, the first part of keys.
        """
        headers = (self._header(at * SET) for at in range(self._count()))
        found = (packed for h in headers if file in h for packed, *_ in ENTRY.iter_unpack(h))
        return [int.from_bytes(key[16:], "little") for key in found if key[:16] == file]

    def size(self) -> int:
        """Return the length of the store's file in bytes."""
        return os.fstat(self._file).st_size

    def close(self) -> None:
        """Close the file; a thread that still uses the store gets an OSError."""
        with self._writing:
            self._close()

    def reopen(self) -> None:
        """Open the files again in a forked process, so that it shares no locks with its parent."""
        self._writing = threading.Lock()
        self._close()
        self._open()

    def _open(self) -> None:
        opened: list[int] = []
        self._release = weakref.finalize(self, _close_all, opened)
        self._release.atexit = False
        try:
            opened += [open_private(self._lock_path)]
            opened += [open_private(self._path)]
            self._lock, self._file = opened
            with self._locked(PATIENCE, exclusive=True) as held:
                if held:
                    self._resize()
                elif not SET <= self.size() <= self._capacity:
                    raise TimeoutError(
                        f"another process holds the lock {os.fspath(self._lock_path)!r}; is it "
                        "stopped?"
                    )
        except BaseException:
            self._close()
            raise

    def _resize(self) -> None:
        """Shrink the file to the room, or grow it to the room if no other process has it open."""
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
        self._file = self._lock = -1
        self._release()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            log.warning(
                "another process, which may be stopped, holds the lock %s: nothing is written to "
                "the disk cache meanwhile",
                self._lock_path,
            )

    def _header(self, base: int) -> bytes:
        return os.pread(self._file, BLOCK, base).ljust(BLOCK, b"\0")

    def _count(self) -> int:
        return os.fstat(self._file).st_size // SET or 1

    @contextlib.contextmanager
    def _locked(self, seconds: float, *, exclusive: bool = False) -> Iterator[bool]:
        """Hold the lock during a ``with`` block; yield False if it is not free in time."""
        if self._lock < 0:
            raise OSError(errno.EBADF, "the disk cache was closed")
        deadline = Deadline(min(seconds, current().left))
        held = lock(self._lock, exclusive=exclusive, deadline=deadline)
        try:
            yield held
        finally:
            if held:
                fcntl.flock(self._lock, fcntl.LOCK_UN)


def shrink(file: int, sets: int) -> None:
    """Remove sets from the end of a store, and move their most recently used blocks.

    Parameters
    ----------
    file
        Descriptor of the store's file; the caller holds the exclusive lock.
    sets
        Number of sets that stay, at least one. A file that has no more sets is not changed.
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
    """Move blocks to a set, where they replace blocks that were used less recently.

    Parameters
    ----------
    file
        Descriptor of the store's file.
    base
        Offset of the set in the file.
    entries
        (time of use, offset of the data, header entry) of each block.
    """
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
    """Return the times of use of a set's slots in nanoseconds, 0 for an impossible time."""
    stamps = np.frombuffer(header, "<u8")[STAMP_OFFSET // 8 :: ENTRY.size // 8].copy()
    stamps[stamps > now + 2 * KEPT_LONGER] = 0  # damaged, or the clock was wrong
    return stamps


def _close_all(files: list[int]) -> None:
    while files:
        os.close(files.pop())


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
