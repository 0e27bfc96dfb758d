"""Unfinished files, which a process writes in the cache directory, and finished ones."""

from __future__ import annotations

import errno
import hashlib
import os
import weakref
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from vfs.cache.disk import BLOCK
from vfs.cache.trust import FLAGS
from vfs.forks import renew_in_children

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

MOST_STATE = 4 * BLOCK - 16  # bytes; a checksum of 16 bytes precedes the state


class _WriterLocks(set[int]):
    """Descriptors of the locks that this process's writers hold."""

    def renew(self) -> None:
        """Close the descriptors in a forked child, so that the locks end with the parent."""
        while self:
            os.close(self.pop())


_writing = _WriterLocks()
renew_in_children(_writing)


class Space(Protocol):
    """Interface to the cap and the lock under which an unfinished file grows."""

    def growing(self, part: Path, size: int) -> AbstractContextManager[None]:
        """Make room for an unfinished file of a new size, see `KeptFiles.growing`."""

    def locked(self) -> AbstractContextManager[None]:
        """Hold the exclusive lock of the block store."""


class KeptFile:
    """A finished file, which is not evicted before this object is closed or garbage-collected.

    Attributes
    ----------
    path
        Path of the file. Close files and maps opened by this path before this object.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._close = weakref.finalize(self, os.close, lock)

    def close(self) -> None:
        """Release the shared lock, so that the file may be evicted."""
        self._close()

    def __enter__(self) -> KeptFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<KeptFile {self.path}>"


class Part:
    """An unfinished file, which this process writes.

    Attributes
    ----------
    path
        Path of the unfinished file.
    file
        Descriptor of the file, for reading and writing.
    size
        Length of the file in bytes, all of them reserved on disk and under the cap.
    state
        The state that the present or an interrupted writer saved last, ``b""`` if none. With a
        state, the file has the bytes that were written before it; without one, the file begins
        empty.
    """

    def __init__(self, files: Space, path: Path, lock: int) -> None:
        self._files = files
        self._final = path
        self._lock = lock
        self.path = Path(f"{path}.part")
        self._state = Path(f"{path}.state")
        self.file = os.open(self.path, os.O_RDWR | FLAGS)
        self.size = os.fstat(self.file).st_size
        self.state = _recall(self._state) if self.size else b""
        if not self.state:
            self.reserve(0)

    def reserve(self, size: int) -> None:
        """Change the file's length.

        Parameters
        ----------
        size
            The new length in bytes; new bytes are zeros. The writer must reserve the final length
            before it returns. 0 begins anew, and deletes the saved state.

        Raises
        ------
        CacheSpaceError
            The file does not fit under the cap.
        OSError
            The file does not fit on the disk.
        """
        if size == 0:  # before the truncation: a state must not outlive the bytes that it describes
            self._forget()
        if size > self.size:
            with self._files.growing(self.path, size):
                _allocate(self.file, self.size, size)
        else:
            os.ftruncate(self.file, size)
        self.size = size

    def save(self, state: bytes) -> None:
        """Save the progress of writing, after the written bytes have reached the disk.

        Parameters
        ----------
        state
            1 to 16,368 bytes, from which a later writer can go on after an interruption.
        """
        if not 0 < len(state) <= MOST_STATE:
            raise ValueError(f"a state of {len(state):,} bytes: expected 1 to {MOST_STATE:,}")
        os.fsync(self.file)
        new = self._state.with_suffix(".new")
        new.write_bytes(_checksum(state) + state)
        new.replace(self._state)
        self.state = state

    def finish(self) -> KeptFile:
        """Rename the file to its final name, and turn the writer's lock into a user's."""
        length = os.fstat(self.file).st_size
        if length != self.size:
            raise ValueError(f"{length:,} bytes were written where {self.size:,} were reserved")
        os.fsync(self.file)
        with self._files.locked():  # nobody evicts the file while its lock becomes a shared one
            self.path.replace(self._final)
            _writing.discard(self._lock)
            kept = KeptFile(self._final, self._lock)
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        os.utime(self._lock)
        self._state.unlink(missing_ok=True)
        return kept

    def abandon(self, *, resumable: bool) -> None:
        """Abandon writing, and delete the file unless another process may go on with it.

        Parameters
        ----------
        resumable
            Whether to keep the file, if it has a saved state.
        """
        if self._lock not in _writing:  # in a child process that was forked during the writing
            return
        if not (resumable and self.state):
            self._forget()
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, and release the writer's lock if the file is not finished."""
        os.close(self.file)
        if self._lock in _writing:
            let_go(self._lock)

    def _forget(self) -> None:
        self.state = b""
        for path in (self._state, self._state.with_suffix(".new")):
            path.unlink(missing_ok=True)


def take_lock(path: Path) -> int:
    """Open an unfinished file for locking, and create it if it does not exist.

    The descriptor is closed in forked child processes.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | FLAGS, 0o600)
    _writing.add(lock)
    return lock


def let_go(lock: int) -> None:
    """Close a descriptor from `take_lock`, which releases its lock."""
    _writing.discard(lock)
    os.close(lock)


def _allocate(file: int, start: int, end: int) -> None:
    """Lengthen a file and allocate disk space, because a write to a map must not fail."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, start, end - start)
    except OSError as failure:
        if failure.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            os.ftruncate(file, start)
            raise
    os.ftruncate(file, end)


def _checksum(state: bytes) -> bytes:
    return hashlib.blake2b(state, digest_size=16).digest()


def _recall(path: Path) -> bytes:
    """Read a saved state, empty if it does not exist or is damaged."""
    try:
        with path.open("rb") as file:
            data = file.read(16 + MOST_STATE)
    except OSError:
        return b""
    return data[16:] if _checksum(data[16:]) == data[:16] else b""
