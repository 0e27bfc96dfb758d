"""Whole files in the cache directory, each written once and shared by processes, under one cap.

A file's name is a digest in hexadecimal. The writer of a file holds an exclusive lock on the
unfinished file ``<name>.part``, and other processes that want the file wait for this lock. A user
of the finished file holds a shared lock on it. A file without a lock may be evicted. Files grow
only under the lock of the block store, and the block store shrinks before a file grows, so that
files and block store together never exceed the cap. Another folder has the checksums of each
finished file, under the file's name; a file without its checksums is no file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from vfs.cache import disk
from vfs.cache.checksums import DamagedFileError, packed_size, unpack
from vfs.cache.disk import SET
from vfs.cache.kept_file import SUMS, KeptFile, is_at, read_small, sums_path
from vfs.cache.locks import held, lock
from vfs.cache.room import Room, charge_unfinished
from vfs.cache.trust import FLAGS, check_directory, make_directory, open_private
from vfs.cache.unfinished_file import Part, let_go, take_lock
from vfs.deadline import current
from vfs.errors import CacheDirectoryError, CacheSpaceError, VFSError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

FOLDER = "files"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class KeptFiles:
    """Whole files in a cache directory, each written once and shared by processes.

    The object holds no file handles. It can be used after a fork and in many threads.

    Parameters
    ----------
    directory
        The cache directory, which is created together with the first file.
    capacity
        Greatest permitted size of the directory in bytes, the block store included.
    """

    def __init__(self, directory: Path, capacity: int) -> None:
        self._directory = directory
        self._files = directory / FOLDER
        self.capacity = capacity
        self._room = Room(self._files, capacity)

    def get(self, name: bytes, *, unchecked: bool = False) -> KeptFile | None:
        """Open a kept file, and mark it as used now.

        Parameters
        ----------
        name
            Digest that names the file.
        unchecked
            Whether the caller checks what it uses of the file, and discards a damaged file.

        Returns
        -------
        KeptFile or None
            None if there is no such file. A damaged file is discarded.

        Raises
        ------
        DeadlineError
            Another process held a lock for longer than the call may take.
        """
        kept = self._find(name)
        if kept is not None and not unchecked:
            try:
                kept.check()
            except DamagedFileError as damage:
                kept.discard(damage)
                return None
        return kept

    def make(
        self, name: bytes, size: int, write: Callable[[Part], object], *, unchecked: bool = False
    ) -> KeptFile:
        """Open a kept file; if it does not exist, write it, or wait for a process that writes it.

        Parameters
        ----------
        name
            Digest of all inputs of the content, which names the file.
        size
            Number of bytes to reserve before writing.
        write
            Function that fills the file. If it raises an error, the unfinished file stays only if
            a state was saved and space was not the reason. It is called again if the file is
            damaged.
        unchecked
            See `get`.

        Raises
        ------
        CacheSpaceError
            The file does not fit under the cap beside the files in use, or the disk is full.
        CacheDirectoryError
            The directory cannot be written, or does not keep what is written.
        DeadlineError
            Another process held a lock for longer than the call may take.
        """
        while True:
            kept, new = self._open_or_write(name, size, write)
            try:
                if not unchecked:
                    kept.check()
                return kept
            except DamagedFileError as damage:
                kept.discard(damage)
                if new:
                    raise DamagedFileError(
                        f"{damage}, a moment ago: the disk may be failing; name a directory on "
                        "another one by the option cache_dir or STREAMFILE_CACHE_DIR"
                    ) from damage

    def _open_or_write(
        self, name: bytes, size: int, write: Callable[[Part], object]
    ) -> tuple[KeptFile, bool]:
        """Open or write a file, and tell whether this call has written it; see `make`."""
        try:
            make_directory(self._directory)
            for folder in (self._files, self._directory / SUMS):
                make_directory(folder, linked=False)
            part = self._claim(name)
        except VFSError:
            raise
        except OSError as failure:
            raise CacheDirectoryError(
                f"no file can be kept in {os.fspath(self._files)!r} ({failure}); name another "
                "directory by the option cache_dir or STREAMFILE_CACHE_DIR"
            ) from failure
        if isinstance(part, KeptFile):
            return part, False
        try:
            if part.size < size:
                part.reserve(size)
            write(part)
            return part.finish(), True
        except OSError as failure:
            full = failure.errno in NO_SPACE
            part.abandon(
                resumable=not full and not isinstance(failure, (CacheSpaceError, DamagedFileError))
            )
            if full:
                raise CacheSpaceError(
                    f"the disk of {os.fspath(self._files)!r} is full ({failure}): a file of "
                    f"{max(size, part.size):,} bytes was being kept there; free space, or name a "
                    "directory on another disk by the option cache_dir or STREAMFILE_CACHE_DIR"
                ) from failure
            raise
        except BaseException:
            part.abandon(resumable=True)
            raise
        finally:
            part.close()

    def room(self) -> int:
        """Compute the bytes that files leave for the block store; the caller holds its lock."""
        return self._room.make(0)

    @contextlib.contextmanager
    def growing(self, part: Path, size: int) -> Iterator[None]:
        """Make room for an unfinished file of a new size, and hold the lock during the block.

        Parameters
        ----------
        part
            Path of the unfinished file.
        size
            Length in bytes that the ``with`` block will give it.

        Raises
        ------
        CacheSpaceError
            The file does not fit under the cap beside the files in use.
        """
        with self.locked():
            left = self._room.make(charge_unfinished(size), part.name)
            with contextlib.suppress(FileNotFoundError):
                store = open_private(self._directory / disk.STORE, create=False)
                try:
                    disk.shrink(store, left // SET)
                finally:
                    os.close(store)
            yield

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the exclusive lock of the block store.

        Raises
        ------
        DeadlineError
            Another process held the lock for longer than the call may take.
        """
        path, deadline = self._directory / disk.LOCK, current()
        file = open_private(path)
        try:
            if not lock(file, exclusive=True, deadline=deadline):
                raise held(path, deadline)
            yield
        finally:
            # `close` alone keeps the lock if a process was forked meanwhile.
            fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)

    def _find(self, name: bytes) -> KeptFile | None:
        """Open a file without checking its content, see `get`."""
        path, deadline = self._files / name.hex(), current()
        while True:
            try:
                for folder in (self._files, self._directory / SUMS):
                    check_directory(folder, linked=False)
                file = os.open(path, os.O_RDONLY | FLAGS)
            except OSError:
                return None
            size = os.fstat(file).st_size
            sums = read_small(sums_path(path), packed_size(size))
            digests = unpack(sums, path.name, size)
            kept = KeptFile(self, path, file, size, digests or b"")
            if not stat.S_ISREG(os.fstat(file).st_mode):
                kept.close()
                return None
            if not lock(file, exclusive=False, deadline=deadline):
                kept.close()
                raise held(path, deadline)
            if not is_at(path, file):
                kept.close()
                continue
            if digests is None:
                kept.discard(
                    f"{os.fspath(path)}: the kept file has not the length or not the checksums "
                    "with which it was written"
                )
                return None
            with contextlib.suppress(OSError):
                os.utime(file)
            return kept

    def _claim(self, name: bytes) -> KeptFile | Part:
        """Wait until the file is finished, or until this process may write it."""
        path, deadline = self._files / name.hex(), current()
        unfinished = Path(f"{path}.part")
        while True:
            if (kept := self._find(name)) is not None:
                return kept
            for place in (path, sums_path(path)):  # before the file is written
                if place.is_dir() and not place.is_symlink():
                    raise IsADirectoryError(f"{os.fspath(place)!r} is a directory")
            claimed = take_lock(unfinished)
            part = None
            try:
                # After finishing the file, its writer holds a shared lock as long as it uses it.
                watched = partial(_progress, claimed)
                if not lock(claimed, exclusive=False, deadline=deadline, watched=watched):
                    raise held(unfinished, deadline)
                if is_at(unfinished, claimed) and _take_alone(claimed):
                    if (kept := self._find(name)) is None:
                        part = Part(self, path, claimed)
                        return part
                    # The file was finished between the first look and the lock.
                    unfinished.unlink()
                    return kept
            finally:
                if part is None:
                    let_go(claimed)


def _take_alone(file: int) -> bool:
    """Try to make a shared lock exclusive; if another process holds it too, the lock is lost."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _progress(file: int) -> tuple[int, int]:
    """Return what changes while another process writes a file."""
    facts = os.fstat(file)
    return facts.st_size, facts.st_mtime_ns
