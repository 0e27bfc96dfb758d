"""Choice of the cache directory and of its cap."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vfs.cache import disk
from vfs.cache.disk import DiskStore
from vfs.cache.kept_files import FOLDER, KeptFiles
from vfs.cache.trust import check_directory, make_directory
from vfs.errors import CacheDirectoryError, OptionError
from vfs.options import MIB, Options, expanded, size_of

log = logging.getLogger(__name__)

LARGEST_DEFAULT = 512 * MIB


def default_kept_files() -> KeptFiles | None:
    """Find the kept files of the default cache directory, without creating the directory.

    Returns
    -------
    KeptFiles or None
        None if there is no disk cache.

    Raises
    ------
    CacheDirectoryError
        The environment names a directory that cannot be used.
    OptionError
        ``STREAMFILE_CACHE_SIZE`` is no size, or too small.
    """
    options = Options()
    size = _cap(options)
    if size == 0 or not disk.SUPPORTED:
        return None
    named = _named(options)
    for directory in [named] if named else filter(_can_be_own, _unnamed()):
        try:
            directory = directory.absolute()  # whatever the current directory is later
            if directory.exists():
                check_directory(directory)
            return KeptFiles(directory, size or _default_cap(directory))
        except (OSError, ValueError) as failure:
            if named:
                raise _unusable(directory, failure) from failure
    return None


def _cap(options: Options) -> int | None:
    """Return the cap from the options or the environment, None if neither sets one."""
    size = options.cache_size
    if size is None and (text := os.environ.get("STREAMFILE_CACHE_SIZE")):
        size = size_of("STREAMFILE_CACHE_SIZE", text)
    if size and size < disk.SET:
        raise OptionError(
            f"a cache of {size:,} bytes is too small: expected at least {disk.SET:,}, or 0 for none"
        )
    return size


def open_disk(options: Options) -> tuple[DiskStore | None, KeptFiles | None]:
    """Open the block store and the kept files.

    Returns
    -------
    store, kept
        None for both if there is no disk cache. None for the store alone if a stopped process
        holds its lock.

    Raises
    ------
    CacheDirectoryError
        The options or the environment name a directory that cannot be used.
    OptionError
        The cap is no size, or too small.
    """
    size = _cap(options)
    if size == 0:
        return None, None
    if not disk.SUPPORTED:
        log.info("no disk cache on this platform: memory only")
        return None, None
    named = _named(options)
    reason: Exception
    for directory in [named] if named else _unnamed():
        try:
            directory = directory.absolute()
            make_directory(directory)
            kept = KeptFiles(directory, size or _default_cap(directory))
            return DiskStore(directory, kept.capacity, kept.room), kept
        except TimeoutError as busy:
            log.warning("no disk cache, but memory only: %s", busy)
            return None, kept
        except (OSError, ValueError) as failure:  # ValueError: a NUL in the path
            if named:
                raise _unusable(directory, failure) from failure
            reason = failure
    log.warning("no directory for a disk cache can be used (%s): memory only", reason)
    return None, None


def _unusable(directory: Path, failure: Exception) -> CacheDirectoryError:
    return CacheDirectoryError(
        f"the cache directory {os.fspath(directory)!r} cannot be used ({failure}); name another by "
        "the option cache_dir or STREAMFILE_CACHE_DIR, or pass cache_size=0 for none"
    )


def _named(options: Options) -> Path | None:
    named = options.cache_dir or os.environ.get("STREAMFILE_CACHE_DIR")
    return Path(expanded(named)) if named else None


def _unnamed() -> Iterator[Path]:
    """Yield the default directories, in the order of preference."""
    import platformdirs  # few need it, and importing is to be cheap

    yield Path(platformdirs.user_cache_dir("streamfile", appauthor=False))
    with contextlib.suppress(FileNotFoundError):  # no temporary directory can be written
        yield Path(tempfile.gettempdir()) / f"streamfile-{os.getuid()}"


def _existing(directory: Path) -> Path:
    """Return a directory if it exists, else its nearest parent that exists."""
    return next(filter(os.path.lexists, (directory, *directory.parents)))


def _can_be_own(directory: Path) -> bool:
    """Tell whether this user owns a directory and can write to it, or could create it."""
    existing = _existing(directory)
    try:
        if existing == directory:
            check_directory(directory)
    except OSError:
        return False
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _default_cap(directory: Path) -> int:
    existing, taken = _existing(directory), 0
    for folder in (directory, directory / FOLDER):
        with contextlib.suppress(OSError):
            taken += sum(entry.stat().st_blocks * 512 for entry in folder.iterdir())
    half = (shutil.disk_usage(existing).free + taken) // 2
    # A power of two, so that the cap usually stays the same when the free space changes a little.
    return min(LARGEST_DEFAULT, 1 << max(0, half.bit_length() - 1))
