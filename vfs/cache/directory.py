"""Choice of the cache directory and of its cap."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

from vfs.cache import disk
from vfs.cache.disk import DiskStore
from vfs.cache.kept_files import FOLDER, KeptFiles
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
    OptionError
        ``STREAMFILE_CACHE_SIZE`` is no size, or too small.
    """
    options = Options()
    size = _cap(options)
    if size == 0 or not disk.SUPPORTED:
        return None
    directory = _named(options)
    if directory is None:
        directory = next(filter(_can_be_own, _unnamed()), None)
    if directory is None:
        return None
    return KeptFiles(directory, size or _default_cap(directory))


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


def open_disk(options: Options) -> tuple[DiskStore, KeptFiles] | tuple[None, None]:
    """Open the block store and the kept files.

    Returns
    -------
    store, kept
        None for both if there is no disk cache.

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
    """Open the store in a directory, which is created if it does not exist.

    Raises
    ------
    OSError
        The directory cannot be used, or with `own`, it belongs to another user.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if own and directory.lstat().st_uid != os.getuid():
        raise PermissionError(f"{directory} belongs to another user")
    kept = KeptFiles(directory, size or _default_cap(directory))
    return DiskStore(directory, kept.capacity, kept.room), kept


def _named(options: Options) -> Path | None:
    named = options.cache_dir or os.environ.get("STREAMFILE_CACHE_DIR")
    return Path(expanded(named)) if named else None


def _unnamed() -> tuple[Path, Path]:
    """Return the default directories, in the order of preference."""
    import platformdirs  # few need it, and importing is to be cheap

    usual = Path(platformdirs.user_cache_dir("streamfile", appauthor=False))
    return usual, Path(tempfile.gettempdir()) / f"streamfile-{os.getuid()}"


def _existing(directory: Path) -> Path:
    """Return a directory if it exists, else its nearest parent that exists."""
    return next(filter(os.path.exists, (directory, *directory.parents)))


def _can_be_own(directory: Path) -> bool:
    """Tell whether this user owns a directory and can write to it, or could create it."""
    existing = _existing(directory)
    own = existing != directory or existing.lstat().st_uid == os.getuid()
    return own and existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _default_cap(directory: Path) -> int:
    existing, taken = _existing(directory), 0
    for folder in (directory, directory / FOLDER):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            taken += sum(entry.stat().st_blocks * 512 for entry in folder.iterdir())
    half = (shutil.disk_usage(existing).free + taken) // 2
    # A power of two, so that the cap usually stays the same when the free space changes a little.
    return min(LARGEST_DEFAULT, 1 << max(0, half.bit_length() - 1))
