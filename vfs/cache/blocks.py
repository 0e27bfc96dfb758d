"""Where bytes rest: memory, then disk."""

from __future__ import annotations

import hashlib
import logging
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
DIGEST = 16

T = TypeVar("T")


class BlockCache:
    """Blocks of files in memory over a disk store, small records and whole files on disk.

    Parameters
    ----------
    options
        Directory and sizes.

    Raises
    ------
    CacheDirectoryError
        A directory was named that cannot be used.
    """

    def __init__(self, options: Options) -> None:
        self._lock = threading.Lock()
        self._memory: LRUCache[Key, bytes] = LRUCache(options.memory_size, getsizeof=len)
        self.disk: DiskStore | None
        self.kept: KeptFiles | None
        self.disk, self.kept = open_disk(options)
        renew_in_children(self)

    def get(self, file: bytes, numbers: Iterable[int], *, on_disk: bool) -> dict[int, bytes]:
        """Look blocks up.

        Parameters
        ----------
        file
            16-byte digest of the file's name and version.
        numbers
            Block numbers.
        on_disk
            Whether the disk may be asked too.
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

    def put(
        self, file: bytes, blocks: Mapping[int, bytes], *, on_disk: bool, keep: bool = False
    ) -> None:
        """Keep blocks; a full or failing disk leaves them in memory only."""
        keyed = {(file, number): data for number, data in blocks.items()}
        self._remember(keyed)
        if on_disk:
            self._write(keyed, keep=keep)

    def get_record(self, name: bytes) -> bytes | None:
        """Read a record from disk, None if there is none or it is damaged."""
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
        """Write a record that is kept longer than any block, if it is not too long for that."""
        disk = self.disk
        size = None if disk is None else self._try(disk.size)
        if size is None or len(record) > min(MOST_RECORD, size // 4):
            return
        data = _checksum(record) + len(record).to_bytes(8, "little") + record
        blocks = {(name, at // BLOCK): data[at : at + BLOCK] for at in range(0, len(data), BLOCK)}
        self._write(blocks, keep=True)

    def renew(self) -> None:
        """Replace what was being changed, and the file handles shared with the parent process."""
        if self._lock.locked():  # by a thread that this process does not have
            self._memory = LRUCache(self._memory.maxsize, getsizeof=len)
        self._lock = threading.Lock()
        disk = self.disk
        if disk is not None:
            self._try(disk.reopen)

    def close(self) -> None:
        """Let go of memory and file handles."""
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
        """Do something with the disk, and do without a disk from then on if that fails."""
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
