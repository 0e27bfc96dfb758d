"""Gate that delays forks of the process while torch computes.

torch's libraries have locks of their own. If a process is forked while a thread holds such a lock,
the lock is never released in the child.
"""

from __future__ import annotations

import os
import threading


class Gate:
    """Context manager for computations, of which any number run in parallel, but not during a fork.

    A fork waits until the running computations end, at most one batch of each thread.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside: list[int] = []
        self._closed = False

    def __enter__(self) -> None:
        with self._condition:
            self._condition.wait_for(lambda: not self._closed)
            self._inside.append(threading.get_ident())

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._inside.remove(threading.get_ident())
            self._condition.notify_all()

    def close(self) -> None:
        """Block new computations, and wait for those of other threads.

        This thread itself may be inside a computation, if a signal handler forks.
        """
        with self._condition:
            self._condition.wait_for(lambda: not self._closed)
            self._closed = True
            self._condition.wait_for(lambda: set(self._inside) <= {threading.get_ident()})

    def open(self) -> None:
        """Allow computations again, after a fork in the parent."""
        with self._condition:
            self._closed = False
            self._condition.notify_all()

    def renew(self) -> None:
        """Allow computations in a forked child, with a new lock."""
        self._condition = threading.Condition()
        self._closed = False


computing = Gate()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=computing.close, after_in_parent=computing.open, after_in_child=computing.renew
    )
