"""Unfinished files, which a process writes in the cache directory."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from vfs.cache.checksums import DIGEST, PIECE, Digests, pack
from vfs.cache.disk import BLOCK
from vfs.cache.kept_file import KeptFile, Locked, read_small, sums_path, write_small
from vfs.cache.trust import FLAGS
from vfs.deadline import current
from vfs.forks import renew_in_children

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

# Bytes before a state: its checksum, the length of the beginning of the file, that one's checksum.
BEFORE_STATE = DIGEST + 8 + DIGEST
MOST_STATE = 4 * BLOCK - BEFORE_STATE  # bytes


class _WriterLocks(set[int]):
    """Descriptors of the locks that this process's writers hold."""

    def renew(self) -> None:
        """Close the descriptors in a forked child, so that the locks end with the parent."""
        while self:
            os.close(self.pop())


_writing = _WriterLocks()
renew_in_children(_writing)


class Space(Locked, Protocol):
    """Interface to the cap and the lock under which an unfinished file grows."""

    def growing(self, part: Path, size: int) -> AbstractContextManager[None]:
        """Make room for an unfinished file of a new size, see `KeptFiles.growing`."""


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
        state, the file has the bytes that were written before it, which were checked; without
        one, the file begins empty.
    """

    def __init__(self, files: Space, path: Path, lock: int) -> None:
        self._files = files
        self._final = path
        self._lock = lock
        self.path = Path(f"{path}.part")
        self._state = Path(f"{path}.state")
        self.file = os.open(self.path, os.O_RDWR | FLAGS)
        self._digests = Digests()
        try:
            self.size = os.fstat(self.file).st_size
            self.state = self._recall() if self.size else b""
            if not self.state:
                self.reserve(0)
        except BaseException:
            os.close(self.file)
            raise

    def write(self, data: bytes | memoryview, at: int) -> None:
        """Write data at an offset, where nothing was written yet; any thread may do that."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self.file, view, at)
            self._digests.add(view[:written], at)
            view, at = view[written:], at + written

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
            self._digests.cut(size)
            os.ftruncate(self.file, size)
        self.size = size

    def save(self, state: bytes, length: int = 0) -> None:
        """Save the progress of writing, after the written bytes have reached the disk.

        Parameters
        ----------
        state
            1 to 16,344 bytes, from which a later writer can go on after an interruption.
        length
            Number of bytes at the beginning of the file that the later writer relies on. They are
            checked before; if they are not the written ones now, the state is forgotten.
        """
        if not 0 < len(state) <= MOST_STATE:
            raise ValueError(f"a state of {len(state):,} bytes: expected 1 to {MOST_STATE:,}")
        os.fsync(self.file)
        digest = self._digests.of_beginning(self.file, length)
        if digest is None:
            self._forget()
            return
        told = length.to_bytes(8, "little") + digest + state
        new = self._state.with_suffix(".new")
        write_small(new, _checksum(told) + told)
        new.replace(self._state)
        self.state = state

    def finish(self) -> KeptFile:
        """Rename the file to its final name, and turn the writer's lock into a user's.

        Raises
        ------
        DamagedFileError
            The file has other bytes than were written.
        """
        length = os.fstat(self.file).st_size
        if length != self.size:
            raise ValueError(f"{length:,} bytes were written where {self.size:,} were reserved")
        os.fsync(self.file)
        digests, sums = self.digests(), sums_path(self._final)
        current().progress()
        with self._files.locked():  # nobody evicts the file while its lock becomes a shared one
            self._delete_states()  # whose space the checksums take
            write_small(sums, pack(self._final.name, length, digests))
            self.path.replace(self._final)
            _writing.discard(self._lock)
            kept = KeptFile(self._files, self._final, self._lock, length, digests)
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        os.utime(self._lock)
        return kept

    def digests(self) -> bytes:
        """Return the checksums of the complete file, see `Digests.of_file`."""
        return self._digests.of_file(self.file, self.size, self.path)

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
        self._delete_states()

    def _delete_states(self) -> None:
        for path in (self._state, self._state.with_suffix(".new")):
            path.unlink(missing_ok=True)

    def _recall(self) -> bytes:
        """Read the saved state; it is empty if the state or what was written is damaged."""
        told = read_small(self._state, BEFORE_STATE + MOST_STATE)
        length = int.from_bytes(told[DIGEST : DIGEST + 8], "little")
        if _checksum(told[DIGEST:]) != told[:DIGEST] or length > self.size:
            return b""
        for at in range(0, length, PIECE):
            data = os.pread(self.file, min(PIECE, length - at), at)
            self._digests.add(memoryview(data), at)
        digest = told[DIGEST + 8 : BEFORE_STATE]
        if self._digests.of_beginning(self.file, length) != digest:
            log.warning("%s: the unfinished file is damaged: it is begun anew", self.path)
            return b""
        return told[BEFORE_STATE:]


def take_lock(path: Path) -> int:
    """Open an unfinished file for locking, and create it if it does not exist.

    The descriptor is closed in forked child processes.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | FLAGS, 0o600)
    if not stat.S_ISREG(os.fstat(lock).st_mode):  # a FIFO
        os.close(lock)
        raise FileExistsError(f"{os.fspath(path)!r} is no regular file")
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
