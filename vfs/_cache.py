"""Where bytes rest: memory, then disk."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import platformdirs
from cachetools import LRUCache

from vfs import _disk
from vfs._disk import BLOCK, DiskStore, Key
from vfs._kept import FOLDER, KeptFiles
from vfs._options import MIB, Options
from vfs.errors import CacheDirectoryError, OptionError

log = logging.getLogger(__name__)

LARGEST_DEFAULT = 512 * MIB
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
        self.disk, self.kept = _open_disk(options)

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

    def after_fork(self) -> None:
        """Replace the lock and the file handles shared with the parent process."""
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


def default_kept_files() -> KeptFiles | None:
    """Find the kept files of the default cache directory, without making anything there.

    Returns
    -------
    KeptFiles or None
        None where there is no disk cache.

    Raises
    ------
    OptionError
        ``STREAMFILE_CACHE_SIZE`` is no size.
    """
    options = Options()
    size = _cap(options)
    if size == 0 or not _disk.SUPPORTED:
        return None
    directory = _named(options)
    if directory is None:
        directory = next(filter(_can_be_own, _unnamed()), None)
    if directory is None:
        return None
    return KeptFiles(directory, size or _default_cap(directory))


def _cap(options: Options) -> int | None:
    """Read the cap that was asked for, None where the default one is."""
    size = options.cache_size
    if size is None and (text := os.environ.get("STREAMFILE_CACHE_SIZE")):
        try:
            size = int(text)
        except ValueError:
            size = -1
        if size < 0:
            raise OptionError(f"STREAMFILE_CACHE_SIZE={text!r}: expected a number of bytes")
    if size and size < _disk.SET:
        raise OptionError(
            f"a cache of {size:,} bytes is too small: expected at least {_disk.SET:,}, "
            "or 0 for none"
        )
    return size


def _open_disk(options: Options) -> tuple[DiskStore, KeptFiles] | tuple[None, None]:
    size = _cap(options)
    if size == 0:
        return None, None
    if not _disk.SUPPORTED:
        log.info("no disk cache on this platform: memory only")
        return None, None
    named = _named(options)
    if named is not None:
        try:
            return _open_store(named, size)
        except OSError as failure:
            raise CacheDirectoryError(
                f"the cache directory {os.fspath(named)!r} cannot be used ({failure}); name "
                "another by the option cache_dir or STREAMFILE_CACHE_DIR, or pass cache_size=0 "
                "for none"
            ) from failure
    reason: OSError
    for directory in _unnamed():
        try:
            return _open_store(directory, size, own=True)
        except OSError as failure:
            reason = failure
    log.warning("no directory for a disk cache can be written (%s): memory only", reason)
    return None, None


def _open_store(
    directory: Path, size: int | None, *, own: bool = False
) -> tuple[DiskStore, KeptFiles]:
    """Open the store in a directory; with `own` only if the directory is this user's."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if own and directory.lstat().st_uid != os.getuid():
        raise PermissionError(f"{directory} belongs to another user")
    kept = KeptFiles(directory, size or _default_cap(directory))
    return DiskStore(directory, kept.capacity, kept.room), kept


def _named(options: Options) -> Path | None:
    named = options.cache_dir or os.environ.get("STREAMFILE_CACHE_DIR")
    return Path(named) if named else None


def _unnamed() -> tuple[Path, Path]:
    """Give the directories to try where none was named, the usual one first."""
    usual = Path(platformdirs.user_cache_dir("streamfile", appauthor=False))
    return usual, Path(tempfile.gettempdir()) / f"streamfile-{os.getuid()}"


def _existing(directory: Path) -> Path:
    """Give a directory, or the nearest one above it that exists."""
    return next(filter(os.path.exists, (directory, *directory.parents)))


def _can_be_own(directory: Path) -> bool:
    """Tell whether a directory is this user's, or could be made."""
    existing = _existing(directory)
    own = existing != directory or existing.lstat().st_uid == os.getuid()
    return own and existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _default_cap(directory: Path) -> int:
    existing, taken = _existing(directory), 0
    for folder in (directory, directory / FOLDER):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            taken += sum(entry.stat().st_blocks * 512 for entry in folder.iterdir())
    half = (shutil.disk_usage(existing).free + taken) // 2
    # A power of two, so that the size stays as the free space changes a little.
    return min(LARGEST_DEFAULT, 1 << max(0, half.bit_length() - 1))
