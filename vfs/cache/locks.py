"""Locks of files in the cache directory, which a call waits for no longer than its deadline.

A process that is stopped (SIGSTOP, a paused container) keeps its locks for ever, and ``flock`` has
no timeout.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from vfs.deadline import Deadline
from vfs.errors import DeadlineError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

SHORTEST, LONGEST = 0.0005, 0.05  # seconds between two attempts
PATIENCE = 10.0  # seconds


def lock(
    file: int,
    *,
    exclusive: bool,
    deadline: Deadline,
    watched: Callable[[], object] = lambda: None,
) -> bool:
    """Lock a file. A free lock is taken at once, also after the deadline.

    Parameters
    ----------
    file
        Descriptor of the file.
    exclusive
        Whether the lock excludes every other one, or only exclusive ones.
    deadline
        Time by which waiting ends.
    watched
        Function whose value changes while the holder of the lock goes on with its work. A change
        is progress of the deadline.

    Returns
    -------
    bool
        False if the deadline has passed.
    """
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    pause, seen = SHORTEST, None
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return True
        value = watched()
        if value != seen:
            seen = value
            deadline.progress()
        left = deadline.left
        if not left:
            return False
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST)


def held(path: Path, deadline: Deadline) -> DeadlineError:
    """Return the error that says that another process held a lock until the deadline."""
    return DeadlineError(
        f"{os.fspath(path)}: another process held the lock of this file for {deadline.seconds:g} s "
        "and more, the time that this call may wait; it may be stopped or very slow: let it go on "
        "or end it, or name another directory by the option cache_dir or STREAMFILE_CACHE_DIR"
    )


class Patience(Deadline):
    """The deadline of a wait for another process, without which the call can end too.

    It leaves half of the call's time for that, and lasts 10 seconds at most without progress.

    Parameters
    ----------
    call
        Deadline of the call.
    """

    def __init__(self, call: Deadline) -> None:
        self._call = call
        super().__init__(min(PATIENCE, call.left / 2))

    def renew(self) -> None:
        """Begin anew."""
        super().__init__(min(PATIENCE, self._call.left / 2))

    def progress(self) -> None:
        """Record progress, see `Deadline.progress`."""
        if not self._call.strict:
            self._call.progress()
            self.renew()
