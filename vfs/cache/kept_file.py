"""Finished files in the cache directory."""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import stat
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from vfs.cache.checksums import PIECE, Checked, DamagedFileError
from vfs.cache.trust import FLAGS
from vfs.errors import DeadlineError

log = logging.getLogger(__name__)

T = TypeVar("T")

SUMS = "sums"  # folder of the checksums, beside the folder of the files


class Locked(Protocol):
    """Interface to the lock under which files get their names, and lose them."""

    def locked(self) -> AbstractContextManager[None]:
        """Hold the exclusive lock of the block store."""


class KeptFile:
    """A finished file, which is not evicted before this object is closed or garbage-collected.

    Parameters
    ----------
    files
        Owner of the lock under which the file is deleted.
    path
        Path of the file.
    file
        Descriptor of the file, with a shared lock; this object closes it.
    digests
        Checksums of the file's pieces.

    Attributes
    ----------
    path
        Path of the file. Close files and maps opened by this path before this object.
    size
        Length of the file in bytes.
    """

    def __init__(self, files: Locked, path: Path, file: int, size: int, digests: bytes) -> None:
        self._files, self._file, self._digests = files, file, digests
        self.path, self.size = path, size
        self._checked = Checked(path, file, size, digests)
        self._close = weakref.finalize(self, os.close, file)

    def check(self) -> None:
        """Check all pieces that this object has not checked before.

        Raises
        ------
        DamagedFileError
            The file has other bytes than were written.
        """
        self._checked.check()

    def read(self) -> bytes:
        """Read and check the whole file.

        Raises
        ------
        DamagedFileError
            The file has other bytes than were written.
        """
        data = b"".join(os.pread(self._file, PIECE, begin) for begin in range(0, self.size, PIECE))
        self._checked.check_copy(data)
        return data

    def map(self, *, at_once: bool = False) -> tuple[memoryview, Checked]:
        """Map the file into memory.

        Parameters
        ----------
        at_once
            Whether all pages are mapped by this call, which is faster if all are used.

        Returns
        -------
        view, checked
            The content; what is used of it must be checked before.

        Raises
        ------
        DamagedFileError
            The file has another length than was written.
        """
        return map_checked(self.path, self._file, self.size, self._digests, at_once=at_once)

    def others_can_write(self) -> bool:
        """Tell whether another user could have written the file."""
        told = os.fstat(self._file)
        return told.st_uid != os.getuid() or bool(stat.S_IMODE(told.st_mode) & 0o022)

    def discard(self, reason: object) -> None:
        """Delete the file and close it; other users of the file keep what they have opened.

        Parameters
        ----------
        reason
            The damage, for the log.
        """
        try:
            with self._files.locked():
                if is_at(self.path, self._file):
                    self.path.unlink()
                    sums_path(self.path).unlink(missing_ok=True)
                    log.warning("%s: it is deleted and made again", reason)
        except (OSError, DeadlineError) as failure:
            log.warning("%s; it cannot be deleted (%s)", reason, failure)
        finally:
            self.close()

    def discard_if_damaged(self) -> bool:
        """Check all pieces anew, discard the file if it is damaged, and tell whether it was."""
        try:
            Checked(self.path, self._file, self.size, self._digests).check()
        except DamagedFileError as damage:
            self.discard(damage)
            return True
        return False

    def close(self) -> None:
        """Release the shared lock, so that the file may be evicted."""
        self._close()

    def __enter__(self) -> KeptFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<KeptFile {self.path}>"


def again(work: Callable[[], T]) -> T:
    """Call a function that uses kept files, once more if one was damaged and was discarded."""
    try:
        return work()
    except DamagedFileError:
        return work()


def map_checked(
    path: Path, file: int, size: int, digests: bytes, *, at_once: bool
) -> tuple[memoryview, Checked]:
    """Map a complete file, see `KeptFile.map`.

    Parameters
    ----------
    path, file
        Path of the file, and its descriptor.
    size, digests
        Length of the file when it was complete, and checksums of its pieces.
    at_once
        See `KeptFile.map`.
    """
    Checked(path, file, size, digests).check(0, 0)
    if not size:
        return memoryview(b""), Checked(path, file, size, digests)
    flags = mmap.MAP_SHARED | (getattr(mmap, "MAP_POPULATE", 0) if at_once else 0)
    try:
        mapped = mmap.mmap(file, size, flags=flags, prot=mmap.PROT_READ)
    except ValueError as failure:
        raise DamagedFileError(f"{os.fspath(path)}: the kept file is cut off ({failure})") from None
    return memoryview(mapped), Checked(path, mapped, size, digests)


def sums_path(path: Path) -> Path:
    """Return the path of the checksums of a kept file."""
    return path.parent.parent / SUMS / path.name


def is_at(path: Path, file: int) -> bool:
    """Tell whether a path names the open file of a descriptor."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(file))
    except FileNotFoundError:
        return False


def read_small(path: Path, most: int) -> bytes:
    """Read a small file; what is no file, is longer or cannot be read is empty."""
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY | FLAGS)
        try:
            if stat.S_ISREG(os.fstat(file).st_mode):
                data = os.read(file, most + 1)
                return data if len(data) <= most else b""
        finally:
            os.close(file)
    return b""


def write_small(path: Path, data: bytes) -> None:
    """Write a small file anew, whatever is at its path."""
    path.unlink(missing_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.write(data)
