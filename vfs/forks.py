"""Repair of locks and other state in a forked child process, which has only one thread.

A lock that another thread of the parent held would stay locked in the child for ever. There is one
means for each kind of state: `ForkLock` for a lock, `renew_in_children` for an object that owns
sockets, file handles or threads, and `native`, a gate around libraries with locks that cannot be
replaced (SQLite, torch).
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
        """Replace the state that belongs to the parent process."""


_renewable: weakref.WeakValueDictionary[int, Renewable] = weakref.WeakValueDictionary()


def renew_in_children(thing: Renewable) -> None:
    """Arrange that each child process calls an object's `renew` right after the fork.

    Parameters
    ----------
    thing
        The object, completely initialised; only a weak reference to it is kept.
    """
    _renewable[id(thing)] = thing


def _renew() -> None:
    for thing in list(_renewable.values()):
        thing.renew()


class ForkLock:
    """A lock that is free in a child process, even if a thread of the parent holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        renew_in_children(self)

    def renew(self) -> None:
        """Replace the lock by a free one."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class ForkGate:
    """A gate at which a fork waits until no other thread is inside; a context manager.

    Any number of threads may be inside. A fork while a thread holds a lock of a native library
    would leave the lock locked in the child process for ever. A thread inside that waits for the
    network uses `outside` meanwhile.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside: list[int] = []  # thread ids, one for each entry
        self._closed = False

    def __enter__(self) -> None:
        with self._condition:
            self._condition.wait_for(lambda: not self._closed)
            self._inside.append(threading.get_ident())

    def __exit__(self, *_: object) -> None:
        with self._condition:
            with contextlib.suppress(ValueError):  # an interrupt on the way back from `outside`
                self._inside.remove(threading.get_ident())
            self._condition.notify_all()

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Permit forks during a ``with`` block in which this thread waits.

        Nothing changes for a thread that is not inside. During the block, this thread must hold no
        lock of the native library that a child process needs.
        """
        thread = threading.get_ident()
        if thread not in self._inside:
            yield
            return
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
        """Close the gate, and wait until no thread but this one (in a signal handler) is inside."""
        with self._condition:
            self._condition.wait_for(lambda: not self._closed)
            self._closed = True
            self._condition.wait_for(lambda: set(self._inside) <= {threading.get_ident()})

    def open(self) -> None:
        """Open the gate again."""
        with self._condition:
            self._closed = False
            self._condition.notify_all()

    def renew(self) -> None:
        """Remove the threads that the child process does not have, and open the gate."""
        self._condition = threading.Condition()
        self._inside = [thread for thread in self._inside if thread == threading.get_ident()]
        self._closed = False


native = ForkGate()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=native.close, after_in_parent=native.open, after_in_child=_renew)
renew_in_children(native)
