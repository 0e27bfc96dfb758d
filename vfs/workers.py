"""Daemon threads for the requests of a wave, and a limit of parallel requests."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from vfs.deadline import carried, ongoing

CALM = 60.0  # seconds without a refusal, after which the limit grows
R = TypeVar("R")


class Slots:
    """Limit of the requests that run in parallel; a context manager that occupies one slot.

    A refused request halves the limit. A minute without refusals doubles it again.

    Parameters
    ----------
    width
        Initial and greatest number of slots.
    """

    def __init__(self, width: int) -> None:
        self._condition = threading.Condition()
        self.width = self._most = width
        self._used = 0
        self._shrunk = 0
        self._changed = 0.0

    def __enter__(self) -> int:
        """Wait for a slot, and return the argument for `shrink`."""
        with self._condition:
            if self.width < self._most and time.monotonic() - self._changed > CALM:
                self._set(2 * self.width)
            self._condition.wait_for(lambda: self._used < self.width)
            self._used += 1
            return self._shrunk

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._used -= 1
            self._condition.notify()

    def shrink(self, entered: int) -> None:
        """Halve the limit after a refused request, unless no other request is running.

        A burst of refusals counts once: a request that entered before the last reduction has no
        effect.
        """
        with self._condition:
            if entered == self._shrunk and self._used:
                self._set(self.width // 2)
                self._shrunk += 1

    def limit(self, width: int) -> None:
        """Set the limit to a number of requests that the server was seen to answer."""
        with self._condition:
            self._set(width)

    def bound(self, most: int) -> None:
        """Set the greatest number of slots."""
        with self._condition:
            self.width = self._most = most

    @property
    def crowded(self) -> bool:
        """Whether more requests are running than the limit, which has shrunk meanwhile."""
        return self._used > self.width

    def _set(self, width: int) -> None:
        self.width = min(max(1, width), self._most)
        self._changed = time.monotonic()
        self._condition.notify_all()


class Workers:
    """A pool of daemon threads, which are started when they are needed.

    Unlike in `concurrent.futures`, a thread that waits for a dead connection does not prevent the
    interpreter's exit.

    Parameters
    ----------
    most
        Greatest number of threads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads = 0
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def submit(self, function: Callable[[], R]) -> Future[R]:
        """Call a function in a thread of the pool, within the deadline of this thread's call.

        Returns
        -------
        Future
            Future of the result. If it is cancelled before the call, the function is not called.
        """
        future: Future[R] = Future()
        deadline = ongoing()

        def task() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                with carried(deadline):
                    future.set_result(function())
            except BaseException as failure:  # noqa: BLE001 - raised again in the caller
                future.set_exception(failure)

        self._tasks.put(task)
        if self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._run, name="vfs-worker", daemon=True).start()
        return future

    def close(self) -> None:
        """End the threads when they are idle; `submit` starts new ones."""
        threads, self._threads = self._threads, 0
        for _ in range(threads):
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task  # an idle thread keeps no results alive
