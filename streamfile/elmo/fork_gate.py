"""No process is forked while something is computed.

torch's libraries have locks of their own. A child process born while a thread holds one would find
it taken for ever.
"""

from __future__ import annotations

import os
import threading


class Gate:
    """Lets computations in, any number side by side, unless a fork is under way.

    A context manager. A fork waits for what is computed: at most a batch of each thread.
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
        """Let nobody in, and wait until all are out but this thread (a signal's handler)."""
        with self._condition:
            self._condition.wait_for(lambda: not self._closed)
            self._closed = True
            self._condition.wait_for(lambda: set(self._inside) <= {threading.get_ident()})

    def open(self) -> None:
        """Let computations in again."""
        with self._condition:
            self._closed = False
            self._condition.notify_all()

    def renew(self) -> None:
        """Forget threads that a child process does not have."""
        self._condition = threading.Condition()
        self._closed = False


computing = Gate()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=computing.close, after_in_parent=computing.open, after_in_child=computing.renew
    )
