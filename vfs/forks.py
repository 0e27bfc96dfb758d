"""What survives a fork: a child process has one thread, and every lock as some thread held it.

Three means, one for each kind of state: `ForkLock` for a lock, `renew_in_children` for an object
that owns sockets, file handles or threads, and `native`, a gate around libraries with locks of
their own (SQLite, torch), which no fork can renew.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Protocol


class Renewable(Protocol):
    """An object with state that belongs to one process."""

    def renew(self) -> None:
        """Replace what belongs to the parent process."""


_renewable: weakref.WeakValueDictionary[int, Renewable] = weakref.WeakValueDictionary()


def renew_in_children(thing: Renewable) -> None:
    """Call an object's `renew` in each child process, right after the fork.

    Parameters
    ----------
    thing
        A complete object; it is not kept alive.
    """
    _renewable[id(thing)] = thing


def _renew() -> None:
    for thing in list(_renewable.values()):
        thing.renew()


class ForkLock:
    """A lock that is free in a child process, whichever thread of the parent held it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        renew_in_children(self)

    def renew(self) -> None:
        """Replace the lock."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class ForkGate:
    """Keeps a fork waiting while threads are inside, any number side by side.

    A context manager. A child process born while a thread holds a lock of a native library would
    find it taken for ever. A thread that waits for the network inside steps `outside` meanwhile.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside: list[int] = []  # threads, once for each time that they entered
        self._closed = False

    def __enter__(self) -> None:
        with self._condition:
            self._condition.wait_for(lambda: not self._closed)
            self._inside.append(threading.get_ident())

    def __exit__(self, *_: object) -> None:
        with self._condition:
            with contextlib.suppress(ValueError):  # interrupted on its way back from outside
                self._inside.remove(threading.get_ident())
            self._condition.notify_all()

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Let forks pass while this thread waits; nothing changes for one that is not inside.

        The native library must hold no lock then that other threads of a child process need.
        """
        thread = threading.get_ident()
        with self._condition:
            entered = self._inside.count(thread)
            self._inside = [other for other in self._inside if other != thread]
            self._condition.notify_all()
        try:
            yield
        finally:
            with self._condition:
                self._condition.wait_for(lambda: not self._closed)
                self._inside += [thread] * entered

    def close(self) -> None:
        """Let nobody in, and wait until all are out but this thread (a signal's handler)."""
        with self._condition:
            self._condition.wait_for(lambda: not self._closed)
            self._closed = True
            self._condition.wait_for(lambda: set(self._inside) <= {threading.get_ident()})

    def open(self) -> None:
        """Let threads in again."""
        with self._condition:
            self._closed = False
            self._condition.notify_all()

    def renew(self) -> None:
        """Forget threads that a child process does not have."""
        self._condition = threading.Condition()
        self._inside = [thread for thread in self._inside if thread == threading.get_ident()]
        self._closed = False


native = ForkGate()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=native.close, after_in_parent=native.open, after_in_child=_renew)
renew_in_children(native)
