"""Block cache of two levels: memory and disk."""

from __future__ import annotations

import hashlib
import logging
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from cachetools import LRUCache

from vfs.cache.directory import open_disk
from vfs.cache.disk import BLOCK, DiskStore, Key
from vfs.cache.kept_files import KeptFiles
from vfs.forks import renew_in_children
from vfs.options import MIB, Options

log = logging.getLogger(__name__)

MOST_RECORD = 64 * MIB
DIGEST = 16  # bytes

T = TypeVar("T")


class BlockCache:
    """Cache of blocks in memory and on disk, and of records on disk.

    Parameters
    ----------
    options
        Options with the cache directory and the sizes.

    Attributes
    ----------
    disk
        The block store on disk, None without a disk cache.
    kept
        The whole files in the cache directory, None without a disk cache.

    Raises
    ------
    CacheDirectoryError
        The options or the environment name a directory that cannot be used.
    OptionError
        The size of the cache is no size, or too small.
    """

    def __init__(self, options: Options) -> None:
        self._lock = threading.Lock()
        self._memory: LRUCache[Key, bytes] = LRUCache(options.memory_size, getsizeof=len)
        self.disk: DiskStore | None
        self.kept: KeptFiles | None
        self.disk, self.kept = open_disk(options)
        renew_in_children(self)

    def get(self, file: bytes, numbers: Iterable[int], *, on_disk: bool) -> dict[int, bytes]:
        """Look up blocks of a file.

        Parameters
        ----------
        file
            16-byte digest of the file's name and version.
        numbers
            Block numbers.
        on_disk
            Whether to look on disk for blocks that are not in memory.

        Returns
        -------
        dict
            The cached blocks by number.
        """
        found: dict[int, bytes] = {}
        absent: list[Key] = []
        with self._lock:
            for number in numbers:
                data = self._memory.get((file, number))
                if data is None:
                    absent.append((file, number))
                else:
                    found[number] = data
        if absent and on_disk:
            blocks = self._read(absent)
            self._remember(blocks)
            found |= {number: data for (_, number), data in blocks.items()}
        return found

    def sample(self, file: bytes, most: int, *, on_disk: bool) -> list[int]:
        """Choose the first cached block of a file, and others at random.

        Parameters
        ----------
        file
            16-byte digest of the file's name and version.
        most
            Greatest number of blocks.
        on_disk
            Whether to choose among the blocks on disk, not only those in memory.

        Returns
        -------
        list of int
            Block numbers.
        """
        with self._lock:
            numbers = {number for name, number in self._memory if name == file}
        disk = self.disk
        if on_disk and disk is not None:
            numbers.update(self._try(lambda: disk.numbers(file)) or ())
        first, others = sorted(numbers)[:1], sorted(numbers)[1:]
        return first + random.sample(others, min(most - 1, len(others)))

    def put(
        self, file: bytes, blocks: Mapping[int, bytes], *, on_disk: bool, keep: bool = False
    ) -> None:
        """Store blocks in memory and, with `on_disk`, on disk; a failure of the disk is no error.

        Parameters
        ----------
        file
            16-byte digest of the file's name and version.
        blocks
            Blocks by number.
        on_disk
            Whether to store the blocks on disk too.
        keep
            Whether the disk keeps these blocks longer than others, see `DiskStore.put`.
        """
        keyed = {(file, number): data for number, data in blocks.items()}
        self._remember(keyed)
        if on_disk:
            self._write(keyed, keep=keep)

    def get_record(self, name: bytes) -> bytes | None:
        """Read a record from disk.

        Returns
        -------
        bytes or None
            None if the record is not there or damaged.
        """
        first = self._read([(name, 0)]).get((name, 0))
        if first is None or len(first) < DIGEST + 8:
            return None
        length = int.from_bytes(first[DIGEST : DIGEST + 8], "little")
        if length > MOST_RECORD:
            return None
        count = -(-(DIGEST + 8 + length) // BLOCK)
        rest = self._read([(name, number) for number in range(1, count)])
        if len(rest) != count - 1:
            return None
        data = b"".join([first, *(rest[name, number] for number in range(1, count))])
        record = data[DIGEST + 8 :]
        return record if _checksum(record) == data[:DIGEST] else None

    def put_record(self, name: bytes, record: bytes) -> None:
        """Write a record to disk, where it is kept longer than ordinary blocks.

        Nothing is written without a disk cache, or if the record is longer than 64 MiB or than a
        quarter of the block store.
        """
        disk = self.disk
        size = None if disk is None else self._try(disk.size)
        if size is None or len(record) > min(MOST_RECORD, size // 4):
            return
        data = _checksum(record) + len(record).to_bytes(8, "little") + record
        blocks = {(name, at // BLOCK): data[at : at + BLOCK] for at in range(0, len(data), BLOCK)}
        self._write(blocks, keep=True)

    def renew(self) -> None:
        """Replace the lock and the file handles, which belong to the parent process."""
        if self._lock.locked():  # by a thread of the parent: the memory cache may be inconsistent
            self._memory = LRUCache(self._memory.maxsize, getsizeof=len)
        self._lock = threading.Lock()
        disk = self.disk
        if disk is not None:
            self._try(disk.reopen)

    def close(self) -> None:
        """Clear the memory cache and close the block store."""
        with self._lock:
            self._memory.clear()
            disk, self.disk, self.kept = self.disk, None, None
        if disk is not None:
            disk.close()

    def _remember(self, blocks: Mapping[Key, bytes]) -> None:
        if self._memory.maxsize < BLOCK:
            return
        with self._lock:
            self._memory.update(blocks)

    def _read(self, keys: Sequence[Key]) -> dict[Key, bytes]:
        disk = self.disk
        if disk is None:
            return {}
        return self._try(lambda: disk.get(keys)) or {}

    def _write(self, blocks: Mapping[Key, bytes], *, keep: bool) -> None:
        disk = self.disk
        if disk is not None:
            self._try(lambda: disk.put(blocks, keep=keep))

    def _try(self, action: Callable[[], T]) -> T | None:
        """Call a function that uses the disk; if it fails, log that and close the disk cache."""
        try:
            return action()
        except OSError as failure:
            with self._lock:
                disk, self.disk = self.disk, None
            if disk is not None:
                log.warning("the disk cache failed (%s): from here on memory only", failure)
                disk.close()
            return None


def _checksum(record: bytes) -> bytes:
    return hashlib.blake2b(record, digest_size=DIGEST).digest()
