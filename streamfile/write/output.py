"""Output files that get their final name only when they are complete."""

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
    """Yield the path of a temporary file beside the target, for the ``with`` block to write.

    At the end of the block the file is renamed to the target, or removed after an error. A file
    that a killed process left is overwritten.

    Parameters
    ----------
    target
        Path of the output file.
    force
        Whether to replace an existing target.

    Raises
    ------
    ExistsError
        The target exists and `force` is false, or another process is writing it.
    PathError
        The directory of the target does not exist, or the target is a directory.
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
    """Create a file if it does not exist, and hold an exclusive lock on it."""
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
    """Tell whether a path names the open file, which its last owner may have renamed."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
