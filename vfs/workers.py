"""Daemon threads that send the requests of a wave."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from functools import partial
from typing import TypeVar

CALM = 60.0  # seconds
T = TypeVar("T")
R = TypeVar("R")


class Slots:
    """How many requests may be under way at once.

    A server that refuses some halves the number; a minute without refusals doubles it again.

    Parameters
    ----------
    width
        Slots at the start, and at most.
    """

    def __init__(self, width: int) -> None:
        self._condition = threading.Condition()
        self.width = self._most = width
        self._used = 0
        self._shrunk = 0
        self._changed = 0.0

    def __enter__(self) -> int:
        """Wait for a slot; what this returns is for `shrink`."""
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
        """Halve the width because a request was refused, unless no other was under way.

        A burst of refusals counts once: those that entered before the last call do nothing.
        """
        with self._condition:
            if entered == self._shrunk and self._used:
                self._set(self.width // 2)
                self._shrunk += 1

    def _set(self, width: int) -> None:
        self.width = min(max(1, width), self._most)
        self._changed = time.monotonic()
        self._condition.notify_all()


class Workers:
    """A pool of daemon threads, started when needed.

    Unlike `concurrent.futures`, a thread that hangs in a dead connection does not keep the
    interpreter from exiting.

    Parameters
    ----------
    most
        Upper limit of threads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads = 0
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def submit(self, function: Callable[[], R]) -> Future[R]:
        """Call a function in some thread.

        Returns
        -------
        Future
            Of what it returns or raises. One that is cancelled before it began is never called.
        """
        future: Future[R] = Future()

        def task() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as failure:  # noqa: BLE001 - raised again in the caller
                future.set_exception(failure)

        self._tasks.put(task)
        if self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._run, name="vfs-worker", daemon=True).start()
        return future

    def map(self, function: Callable[[T], R], items: Sequence[T], *, timeout: float) -> list[R]:
        """Apply a function to all items in parallel.

        The first exception, or an interrupt of the caller, cancels what has not begun.

        Parameters
        ----------
        function
            Called once an item.
        items
            Its arguments.
        timeout
            Seconds to wait for all results.

        Returns
        -------
        list
            The results in the order of the items.

        Raises
        ------
        TimeoutError
            Not all results were there in time.
        """
        futures = [self.submit(partial(function, item)) for item in items]
        try:
            done, others = wait(futures, timeout, FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()
        for future in done:
            if (failure := future.exception()) is not None:
                raise failure
        if others:
            raise TimeoutError
        return [future.result() for future in futures]

    def close(self) -> None:
        """Let idle threads end; others are started when there is work again."""
        threads, self._threads = self._threads, 0
        for _ in range(threads):
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task  # an idle thread keeps no results alive
