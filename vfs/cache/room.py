"""Room for kept files under the cap of the cache directory, by eviction."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from vfs.cache.checksums import packed_size
from vfs.cache.disk import BLOCK, SET
from vfs.cache.kept_file import SUMS, is_at, sums_path
from vfs.cache.trust import FLAGS, check_directory
from vfs.errors import CacheSpaceError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

NAME = re.compile(r"[0-9a-f]+(\.part|\.state|\.new|)")
LEAST_STORE = 16  # sets
SETS_SHARE = 32  # sets of the cap for each set of the least block store
SLACK = 1 << 20  # bytes for rounding, and for the states of unfinished files
STATES = 8 * BLOCK  # bytes of two state files: the saved one, and one that is being written
ABANDONED = 24 * 3600 * 10**9  # ns after which an unfinished file that nobody writes is evicted


class Room:
    """Room for kept files under a cap; its methods need the lock of the block store.

    Parameters
    ----------
    files
        Folder of the kept files, in the cache directory.
    capacity
        Greatest permitted size of the cache directory in bytes.
    """

    def __init__(self, files: Path, capacity: int) -> None:
        self._files, self._directory, self.capacity = files, files.parent, capacity
        self.least = max(1, min(LEAST_STORE, capacity // (SETS_SHARE * SET))) * SET

    def make(self, needed: int, own: str = "") -> int:
        """Evict the least recently used files, until a file fits beside the least block store.

        Abandoned unfinished files are evicted in any case.

        Parameters
        ----------
        needed
            Size of the new file in bytes as `charge_unfinished` computes it, 0 for no file.
        own
            Name of an existing file that the new one replaces; it is neither counted nor evicted.

        Returns
        -------
        int
            Bytes of the cap that the other files and the new file leave.

        Raises
        ------
        CacheSpaceError
            The file does not fit under the cap beside the files in use.
        """
        left = self.capacity - needed
        old = time.time_ns() - ABANDONED
        files = [entry for entry in self._scan() if entry[-1] != own]
        left -= sum(charge for _, _, charge, _ in files)
        evicted: list[tuple[int, Path]] = []
        try:
            for finished, used, charge, name in sorted(files):
                if left >= self.least and (finished or used > old):
                    continue
                path = self._files / name
                taken = _lock_alone(path) if NAME.fullmatch(name) else None
                if taken is not None:
                    evicted.append((taken, path))
                    left += charge
            if needed and left < self.least:
                raise CacheSpaceError(
                    f"a file that needs {needed:,} bytes does not fit the disk cache in "
                    f"{os.fspath(self._directory)!r}: of its cap of {self.capacity:,} bytes, "
                    f"{max(0, left + needed - self.least):,} are free or can be freed; raise the "
                    "cap by the option cache_size or STREAMFILE_CACHE_SIZE, or close other files"
                )
            for _, path in evicted:
                path.with_suffix(".state").unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                sums_path(path).unlink(missing_ok=True)
        finally:
            for taken, _ in evicted:
                os.close(taken)
        return left

    def _scan(self) -> Iterator[tuple[bool, int, int, str]]:
        """Yield each file: whether it is finished, its last use in ns, its greatest size, its name.

        Saved states and checksums are part of the size of their file; those without one are
        deleted.
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
                            _delete(Path(entry))
                        continue  # its bytes are counted with its unfinished file
                    unfinished = kind == "part"
                    charge = (charge_unfinished if unfinished else _charge)(facts.st_size)
                    yield not unfinished, facts.st_mtime_ns, charge, entry.name
        with contextlib.suppress(FileNotFoundError):
            check_directory(self._directory / SUMS, linked=False)
            for entry in os.scandir(self._directory / SUMS):
                if NAME.fullmatch(entry.name) and not os.path.lexists(self._files / entry.name):
                    _delete(Path(entry))


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


def _rounded(size: int) -> int:
    """Round a length in bytes up to a multiple of the block size."""
    return -(-size // BLOCK) * BLOCK


def _charge(size: int) -> int:
    """Compute the bytes that a finished file of some length and its checksums take."""
    return _rounded(size) + _rounded(packed_size(size))


def charge_unfinished(size: int) -> int:
    """Compute the bytes that an unfinished file takes: its checksums follow its states."""
    return _rounded(size) + max(STATES, _rounded(packed_size(size)))


def _delete(path: Path) -> None:
    """Delete a file; a folder, which is not ours, stays."""
    with contextlib.suppress(OSError):
        path.unlink()


def _lock_alone(path: Path) -> int | None:
    """Open and lock a file that nobody uses or writes; None if somebody does."""
    try:
        file = os.open(path, os.O_RDONLY | FLAGS)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(path, file):
            return file
    except BlockingIOError:
        pass
    os.close(file)
    return None
