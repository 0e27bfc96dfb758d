"""Whole files in the cache directory, each written once and shared by processes, under one cap.

A file's name is a digest in hexadecimal. The writer of a file holds an exclusive lock on the
unfinished file ``<name>.part``, and other processes that want the file wait for this lock. A user
of the finished file holds a shared lock on it. A file without a lock may be evicted. Files grow
only under the lock of the block store, and the block store shrinks before a file grows, so that
files and block store together never exceed the cap.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vfs.cache import disk
from vfs.cache.disk import BLOCK, SET
from vfs.cache.trust import FLAGS, check_directory, make_directory, open_private
from vfs.cache.unfinished_file import KeptFile, Part, let_go, take_lock
from vfs.errors import CacheDirectoryError, CacheSpaceError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

FOLDER = "files"
NAME = re.compile(r"[0-9a-f]+(\.part|\.state|\.new|)")
LEAST_STORE = 16  # sets
SETS_SHARE = 32  # sets of the cap for each set of the least block store
SLACK = 1 << 20  # bytes for rounding, and for the states of unfinished files
STATES = 8 * BLOCK  # bytes of two state files: the saved one, and one that is being written
ABANDONED = 24 * 3600 * 10**9  # ns after which an unfinished file that nobody writes is evicted
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
        self._least = max(1, min(LEAST_STORE, capacity // (SETS_SHARE * SET))) * SET

    def get(self, name: bytes) -> KeptFile | None:
        """Open a kept file, and mark it as used now.

        Parameters
        ----------
        name
            Digest that names the file.

        Returns
        -------
        KeptFile or None
            None if there is no such file.
        """
        with contextlib.suppress(OSError):
            check_directory(self._files, linked=False)
            while True:
                file = os.open(self._files / name.hex(), os.O_RDONLY | FLAGS)
                kept = KeptFile(self._files / name.hex(), file)
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    return None
                fcntl.flock(file, fcntl.LOCK_SH)
                if _is_at(kept.path, file):
                    os.utime(file)
                    return kept
                kept.close()
        return None

    def make(self, name: bytes, size: int, write: Callable[[Part], object]) -> KeptFile:
        """Open a kept file; if it does not exist, write it, or wait for a process that writes it.

        Parameters
        ----------
        name
            Digest of all inputs of the content, which names the file.
        size
            Number of bytes to reserve before writing.
        write
            Function that fills the file. If it raises an error, the unfinished file stays only if
            a state was saved and space was not the reason.

        Raises
        ------
        CacheSpaceError
            The file does not fit under the cap beside the files in use, or the disk is full.
        CacheDirectoryError
            The directory cannot be written.
        """
        try:
            make_directory(self._directory)
            make_directory(self._files, linked=False)
            part = self._claim(name)
        except OSError as failure:
            raise CacheDirectoryError(
                f"no file can be kept in {os.fspath(self._files)!r} ({failure}); name another "
                "directory by the option cache_dir or STREAMFILE_CACHE_DIR"
            ) from failure
        if isinstance(part, KeptFile):
            return part
        try:
            if part.size < size:
                part.reserve(size)
            write(part)
            return part.finish()
        except OSError as failure:
            full = failure.errno in NO_SPACE
            part.abandon(resumable=not full and not isinstance(failure, CacheSpaceError))
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
        return self._make_room(0)

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
            left = self._make_room(_charge(size) + STATES, part.name)
            with contextlib.suppress(FileNotFoundError):
                store = open_private(self._directory / disk.STORE, create=False)
                try:
                    disk.shrink(store, left // SET)
                finally:
                    os.close(store)
            yield

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the exclusive lock of the block store."""
        lock = open_private(self._directory / disk.LOCK)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            # `close` alone keeps the lock if a process was forked meanwhile.
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)

    def _claim(self, name: bytes) -> KeptFile | Part:
        """Wait until the file is finished, or until this process may write it."""
        path = self._files / name.hex()
        unfinished = Path(f"{path}.part")
        while True:
            if (kept := self.get(name)) is not None:
                return kept
            lock = take_lock(unfinished)
            part = None
            try:
                # After finishing the file, its writer holds a shared lock as long as it uses it.
                fcntl.flock(lock, fcntl.LOCK_SH)
                if _is_at(unfinished, lock) and _take_alone(lock):
                    if (kept := self.get(name)) is None:
                        part = Part(self, path, lock)
                        return part
                    # The file was finished between the first `get` and the lock.
                    unfinished.unlink()
                    return kept
            finally:
                if part is None:
                    let_go(lock)

    def _make_room(self, needed: int, own: str = "") -> int:
        """Evict the least recently used files, until a file fits beside the least block store.

        Abandoned unfinished files are evicted in any case.

        Parameters
        ----------
        needed
            Size of the new file in bytes, 0 for no file.
        own
            Name of an existing file that the new one replaces; it is neither counted nor evicted.

        Returns
        -------
        int
            Bytes of the cap that the other files and the new file leave.
        """
        left = self.capacity - needed
        old = time.time_ns() - ABANDONED
        files = [entry for entry in self._scan() if entry[-1] != own]
        left -= sum(charge for _, _, charge, _ in files)
        evicted: list[tuple[int, Path]] = []
        try:
            for finished, used, charge, name in sorted(files):
                if left >= self._least and (finished or used > old):
                    continue
                path = self._files / name
                lock = _lock_alone(path) if NAME.fullmatch(name) else None
                if lock is not None:
                    evicted.append((lock, path))
                    left += charge
            if needed and left < self._least:
                raise CacheSpaceError(
                    f"a file that needs {needed:,} bytes does not fit the disk cache in "
                    f"{os.fspath(self._directory)!r}: of its cap of {self.capacity:,} bytes, "
                    f"{max(0, left + needed - self._least):,} are free or can be freed; raise the "
                    "cap by the option cache_size or STREAMFILE_CACHE_SIZE, or close other files"
                )
            for _, path in evicted:
                path.with_suffix(".state").unlink(missing_ok=True)
                path.unlink(missing_ok=True)
        finally:
            for lock, _ in evicted:
                os.close(lock)
        return left

    def _scan(self) -> Iterator[tuple[bool, int, int, str]]:
        """Yield each file: whether it is finished, its last use in ns, its greatest size, its name.

        Saved states are part of the size of their unfinished file; states without one are deleted.
        """
        with contextlib.suppress(FileNotFoundError):
            check_directory(self._files, linked=False)
            for entry in os.scandir(self._files):
                with contextlib.suppress(FileNotFoundError):
                    facts = entry.stat(follow_symlinks=False)
                    name, _, kind = entry.name.partition(".")
                    part = self._files / f"{name}.part"
                    if NAME.fullmatch(entry.name) and kind in ("state", "new"):
                        if not part.exists():
                            Path(entry).unlink()
                        continue  # its bytes are counted with its unfinished file
                    charge = _charge(facts.st_size) + STATES * (kind == "part")
                    yield kind != "part", facts.st_mtime_ns, charge, entry.name


def cap_for(size: int) -> int:
    """Compute a cap of the cache directory under which files fit together.

    Parameters
    ----------
    size
        Bytes of the files, of which there are few.

    Returns
    -------
    int
        Bytes: the files, the least block store under such a cap, and `SLACK`.
    """
    sets = (size + SLACK + LEAST_STORE * SET) // (SETS_SHARE * SET)
    return size + SLACK + max(1, min(LEAST_STORE, sets)) * SET


def _take_alone(lock: int) -> bool:
    """Try to make a shared lock exclusive; if another process holds it too, the lock is lost."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _charge(size: int) -> int:
    """Round a length in bytes up to a multiple of the block size."""
    return -(-size // BLOCK) * BLOCK


def _is_at(path: Path, file: int) -> bool:
    """Tell whether a path names the open file of a descriptor."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _lock_alone(path: Path) -> int | None:
    """Open and lock a file that nobody uses or writes; None if somebody does."""
    try:
        file = os.open(path, os.O_RDONLY | FLAGS)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(path, file):
            return file
    except BlockingIOError:
        pass
    os.close(file)
    return None
