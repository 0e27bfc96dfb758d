"""A file that is being written in the cache directory, and one that is finished."""

from __future__ import annotations

import errno
import hashlib
import os
import weakref
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from vfs.cache.disk import BLOCK
from vfs.forks import renew_in_children

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

MOST_STATE = 4 * BLOCK - 16
FLAGS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))


class _WriterLocks(set[int]):
    """Descriptors that hold the locks of this process's writers."""

    def renew(self) -> None:
        """Leave the locks to the parent process, so that they end with it."""
        while self:
            os.close(self.pop())


_writing = _WriterLocks()
renew_in_children(_writing)


class Space(Protocol):
    """What a file grows in, under its cap and its lock."""

    def growing(self, part: Path, size: int) -> AbstractContextManager[None]:
        """Make room for a part of a new size, and hold the lock until it has that size."""

    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock of the block store."""


class KeptFile:
    """A finished file that cannot be evicted until it is closed or forgotten.

    Attributes
    ----------
    path
        Where it is. Close it only after whatever was opened or mapped by this path.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._close = weakref.finalize(self, os.close, lock)

    def close(self) -> None:
        """Let others evict the file."""
        self._close()

    def __enter__(self) -> KeptFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<KeptFile {self.path}>"


class Part:
    """A file while it is written.

    Attributes
    ----------
    path
        Of the unfinished file.
    file
        Its descriptor, for reading and writing.
    size
        Its length, which is what is reserved for it, in bytes.
    state
        What an interrupted writer saved last, ``b""`` where there was none. Then what it had
        written is there too, else all bytes are zero.
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
            The new length in bytes, when the writer returns the final one. 0 begins anew: the
            saved state is forgotten.

        Raises
        ------
        CacheSpaceError
            It does not fit under the cap.
        OSError
            It does not fit on the disk.
        """
        if size == 0:  # the state first: it must not outlive what it tells of
            self._forget()
        if size > self.size:
            with self._files.growing(self.path, size):
                _allocate(self.file, self.size, size)
        else:
            os.ftruncate(self.file, size)
        self.size = size

    def save(self, state: bytes) -> None:
        """Remember how far writing got, after waiting for what was written to reach the disk.

        Parameters
        ----------
        state
            At most 16,368 bytes, not empty, for the writer that may have to go on from here.
        """
        if not 0 < len(state) <= MOST_STATE:
            raise ValueError(f"a state of {len(state):,} bytes: expected 1 to {MOST_STATE:,}")
        os.fsync(self.file)
        new = self._state.with_suffix(".new")
        new.write_bytes(_checksum(state) + state)
        new.replace(self._state)
        self.state = state

    def finish(self) -> KeptFile:
        """Give the file its name, and hold it as a user does."""
        length = os.fstat(self.file).st_size
        if length != self.size:
            raise ValueError(f"{length:,} bytes were written where {self.size:,} were reserved")
        os.fsync(self.file)
        with self._files.locked():  # so that it is not evicted while one lock becomes the other
            self.path.replace(self._final)
            _writing.discard(self._lock)
            kept = KeptFile(self._final, self._lock)
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        os.utime(self._lock)
        self._state.unlink(missing_ok=True)
        return kept

    def abandon(self, *, resumable: bool) -> None:
        """Let another process write the file, from the saved state if there is one."""
        if self._lock not in _writing:  # in a process forked while this one was writing
            return
        if not (resumable and self.state):
            self._forget()
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, and let go of the lock if it was not finished."""
        os.close(self.file)
        if self._lock in _writing:
            let_go(self._lock)

    def _forget(self) -> None:
        self.state = b""
        for path in (self._state, self._state.with_suffix(".new")):
            path.unlink(missing_ok=True)


def take_lock(path: Path) -> int:
    """Open a part, made if need be, whose lock this process's writer will wait for."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | FLAGS, 0o600)
    _writing.add(lock)
    return lock


def let_go(lock: int) -> None:
    """Close what `take_lock` opened."""
    _writing.discard(lock)
    os.close(lock)


def _allocate(file: int, start: int, end: int) -> None:
    """Make a file longer, with disk space: a full disk would kill who writes by a mapping."""
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
    """Read a saved state, empty if there is none or it is damaged."""
    try:
        with path.open("rb") as file:
            data = file.read(16 + MOST_STATE)
    except OSError:
        return b""
    return data[16:] if _checksum(data[16:]) == data[:16] else b""
