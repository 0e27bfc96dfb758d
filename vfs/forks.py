"""A lock for objects that are used after a fork."""

from __future__ import annotations

import os
import threading


class ForkLock:
    """A lock that is free in a child process, whichever thread of the parent held it."""

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}  # by process

    def __enter__(self) -> None:
        self._locks.setdefault(os.getpid(), threading.Lock()).acquire()

    def __exit__(self, *_: object) -> None:
        self._locks[os.getpid()].release()
