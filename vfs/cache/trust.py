"""Trust in the cache directory: only what this user owns and nobody else may write is used.

Another user who can write the directory could replace vectors by others, whose checksums are right
too, or put a symbolic link there that leads a writer to a file elsewhere.
"""

from __future__ import annotations

import os
import stat
from itertools import takewhile
from pathlib import Path

from vfs.errors import CacheDirectoryError

FLAGS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))
BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
ALL, READ_WRITE = 0o700, 0o600  # rights of the owner


def make_directory(directory: Path, *, linked: bool = True) -> None:
    """Create a directory and its missing parents for this user alone, and check it.

    Parameters
    ----------
    directory, linked
        See `check_directory`.

    Raises
    ------
    OSError
        See `check_directory`; or the directory cannot be created.
    """
    family = (directory, *directory.parents)
    for path in reversed(list(takewhile(lambda path: not path.exists(), family))):
        try:
            path.mkdir(mode=ALL)
        except FileExistsError:  # another process made it
            continue
        if stat.S_IMODE(path.stat().st_mode) & ALL != ALL:  # the umask takes the owner's rights
            path.chmod(ALL)
    check_directory(directory, linked=linked)


def check_directory(directory: Path, *, linked: bool = True) -> None:
    """Raise an error if others could have changed a directory, or could change it.

    Parameters
    ----------
    directory
        Path of the directory.
    linked
        Whether the path may be a symbolic link, which this user or root must have made.

    Raises
    ------
    CacheDirectoryError
        The directory belongs to another user, others may write it, or it is no directory.
    OSError
        The directory does not exist, or cannot be reached.
    """
    link = directory.lstat()
    facts = directory.stat() if linked else link
    if not stat.S_ISDIR(facts.st_mode):
        raise CacheDirectoryError(f"{directory} is no directory")
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.getuid()):
        raise CacheDirectoryError(f"{directory} is a symbolic link that another user made")
    _check_owner(directory, facts, ALL, f"name one inside it, such as {directory / 'streamfile'}")


def open_private(path: Path, *, create: bool = True) -> int:
    """Open a regular file of this user for reading and writing.

    Parameters
    ----------
    path
        Path of the file; its directory was checked.
    create
        Whether to create the file if it does not exist.

    Returns
    -------
    int
        Descriptor of the file.

    Raises
    ------
    CacheDirectoryError
        The path names something else, such as a device, or a file that others may write or that
        has a second name.
    OSError
        The path is a symbolic link, or the file cannot be opened.
    """
    file = os.open(path, os.O_RDWR | FLAGS | (os.O_CREAT if create else 0), READ_WRITE)
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise CacheDirectoryError(f"{path} is no regular file")
        if facts.st_nlink > 1:
            raise CacheDirectoryError(f"{path} has a second name (a hard link): delete it here")
        _check_owner(path, facts, READ_WRITE, "delete it")
        if facts.st_mode & READ_WRITE != READ_WRITE:  # the umask takes the owner's rights
            os.fchmod(file, READ_WRITE)
    except BaseException:
        os.close(file)
        raise
    return file


def _check_owner(path: Path, facts: os.stat_result, mode: int, instead: str) -> None:
    if facts.st_uid != os.getuid():
        raise CacheDirectoryError(
            f"{path} belongs to another user (number {facts.st_uid}, and this process runs as "
            f"{os.getuid()}), who could change what is cached: chown it, or {instead}"
        )
    if facts.st_mode & BY_OTHERS:
        raise CacheDirectoryError(
            f"other users may write {path} (mode {stat.S_IMODE(facts.st_mode):o}) and could change "
            f"what is cached: chmod {mode:o} it if nobody else needs it, or {instead}"
        )
