"""A bounded, checksummed block store that many processes share without waiting for each other.

The store is one file of fixed size, divided into sets of one header page and 64 data slots. A
block can rest in any slot of the one set that its key selects; where all are taken, the least
recently used one is replaced. An entry's checksum covers its key and its data, so a slot torn by
a killed or a concurrent writer is a miss, and readers need no lock. Writers hold a shared lock
only against a process that shrinks the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import xxhash

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

BLOCK = 4096
WAYS = 64
ENTRY = struct.Struct("<24s16sI4xQ8x")
STAMP_OFFSET = 48
SET = BLOCK + WAYS * BLOCK
KEPT_LONGER = 30 * 24 * 3600 * 10**9
SUPPORTED = fcntl is not None and hasattr(os, "pread")

Key = tuple[bytes, int]


class DiskStore:
    """Blocks of up to 4096 bytes in one file.

    Parameters
    ----------
    directory
        An existing directory of its own.
    capacity
        Most bytes that the directory may take.

    Raises
    ------
    OSError
        The directory cannot be written, or the capacity is below one set (260 KiB).
    """

    def __init__(self, directory: Path, capacity: int) -> None:
        if capacity < SET:
            raise OSError(f"a disk cache of {capacity} bytes is below the smallest, {SET}")
        self._path = directory / "blocks.v1"
        self._lock_path = directory / "blocks.lock"
        self.capacity = capacity
        self._sets = capacity // SET
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
                stamps = np.frombuffer(header, "<u8")[STAMP_OFFSET // 8 :: ENTRY.size // 8].copy()
                stamps[stamps > now + 2 * KEPT_LONGER] = 0  # damaged, or the clock was wrong
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
        """Shrink to the own capacity always, grow only where no other process reads the file."""
        wanted, size = self._sets * SET, os.fstat(self._file).st_size
        alone = True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        if size > wanted or (size < wanted and (alone or size < SET)):
            os.ftruncate(self._file, wanted)
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


def _pack(key: Key) -> bytes:
    return key[0] + key[1].to_bytes(8, "little")


def _set_of(key: Key, sets: int) -> int:
    return (int.from_bytes(key[0][:8], "little") + key[1]) % sets


def _way_of(header: bytes | bytearray, packed: bytes) -> int | None:
    at = header.find(packed)
    while at >= 0 and at % ENTRY.size:
        at = header.find(packed, at + 1)
    return at // ENTRY.size if at >= 0 else None
