"""Output files, which have their name only when they are whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamfile.errors import ExistsError, PathError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def unfinished(target: Path, *, force: bool) -> Iterator[Path]:
    """Give a file beside the target to write to, renamed in the end, removed on an error.

    What a killed run has left there is written over.

    Parameters
    ----------
    target
        What it is to become.
    force
        Whether to replace a file that is there.

    Raises
    ------
    ExistsError
        There is one, and it is not to be replaced; or another process is writing it.
    PathError
        There is no such directory, or the target is one.
    """
    if target.is_dir():
        raise PathError(f"{target}: a directory; expected the path of the file to write")
    if not target.parent.is_dir():
        raise PathError(f"{target}: there is no directory {target.parent}")
    path = target.with_name(f".{target.name}.tmp")
    with _locked(path, target):
        try:
            if target.exists() and not force:
                raise ExistsError(
                    f"{target}: exists; pass force=True (--force) to replace it, or another "
                    "output path"
                )
            yield path
            path.replace(target)
        except BaseException as failure:
            path.unlink(missing_ok=True)
            if isinstance(failure, OSError) and failure.errno in NO_SPACE:
                failure.filename = failure.filename or str(target)
            raise


@contextmanager
def _locked(path: Path, target: Path) -> Iterator[None]:
    """Create a file, unless it is there, and keep other processes from doing the same."""
    if fcntl is None:
        yield
        return
    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ExistsError(
                    f"{target}: is being written by another process; wait for it, or choose "
                    "another output path"
                ) from None
            if _is_at(file.fileno(), path):
                yield
                return


def _is_at(file: int, path: Path) -> bool:
    """Tell whether an open file still has its name: its last owner may have renamed it."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
