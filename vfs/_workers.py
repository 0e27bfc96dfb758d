"""Daemon threads that send the requests of a wave."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Slots:
    """How many requests may be under way at once; a server that refuses lowers it.

    Parameters
    ----------
    width
        Slots at the start.
    """

    def __init__(self, width: int) -> None:
        self._condition = threading.Condition()
        self.width = width
        self._used = 0

    def __enter__(self) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._used < self.width)
            self._used += 1

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._used -= 1
            self._condition.notify()

    def shrink(self) -> None:
        """Halve the width, unless so few are in use that the width was not the reason.

        While more are in use than the width allows, an earlier call is still taking effect.
        """
        with self._condition:
            if self.width // 2 < self._used <= self.width:
                self.width = max(1, self.width // 2)


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

    def start(self, task: Callable[[], None]) -> None:
        """Run a task, which must not raise, in some thread."""
        self._tasks.put(task)
        if self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._run, name="vfs-worker", daemon=True).start()

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
        results: dict[int, R] = {}
        failures: list[BaseException] = []
        finished = threading.Event()

        def run(position: int) -> None:
            if failures:
                return
            try:
                results[position] = function(items[position])
            except BaseException as failure:  # noqa: BLE001 - raised again in the caller
                failures.append(failure)
            if failures or len(results) == len(items):
                finished.set()

        for position in range(len(items)):
            self.start(lambda position=position: run(position))  # type: ignore[misc]
        try:
            in_time = finished.wait(timeout)
        except BaseException as interrupt:
            failures.append(interrupt)
            raise
        if failures:
            raise failures[0]
        if not in_time:
            failures.append(TimeoutError())
            raise failures[0]
        return [results[position] for position in range(len(items))]

    def close(self) -> None:
        """Let idle threads end."""
        for _ in range(self._threads):
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task  # an idle thread keeps no results alive
