"""One wave: requests that run in parallel for one caller, until the last answer or an error."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from functools import partial
from typing import TypeVar

from vfs.deadline import Deadline
from vfs.errors import DeadlineError, TransportError
from vfs.transport.pools import Attempt
from vfs.workers import Workers

T = TypeVar("T")
R = TypeVar("R")

LOOK = 0.05  # seconds between two looks at slow requests
HINT = ", or lower the option connections if the server bears few at a time"


class Wave:
    """The requests of one wave, none of which outlives it.

    Parameters
    ----------
    name
        Name of the file, for error messages.
    deadline
        Deadline of the call.

    Attributes
    ----------
    deadline
        The parameter of this name.
    """

    def __init__(self, name: str, deadline: Deadline) -> None:
        self.deadline = deadline
        self._name = name
        self._over = threading.Event()
        self._attempts: set[Attempt] = set()
        self._failure: TransportError | None = None

    def run(
        self,
        workers: Workers,
        function: Callable[[T], R],
        items: Sequence[T],
        look: Callable[[list[Attempt]], None],
    ) -> list[R]:
        """Apply a function to all items in parallel.

        The first exception, the deadline, or an interrupt of the caller ends all calls.

        Parameters
        ----------
        workers
            Threads for the calls.
        function
            Function that is called once for each item.
        items
            Arguments of the calls.
        look
            Function that is called with the attempts under way, again and again if they are slow.

        Returns
        -------
        list
            The results in the order of the items.

        Raises
        ------
        DeadlineError
            The deadline has passed.
        """
        futures = [workers.submit(partial(function, item)) for item in items]
        pending: set[Future[R]] = set(futures)
        try:
            while pending and self.deadline.left:
                done, pending = wait(pending, min(LOOK, self.deadline.left), FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if pending:
                    look(list(self._attempts))
            if pending:
                raise self.too_late()
        finally:
            self._over.set()
            for future in futures:
                future.cancel()
            for attempt in list(self._attempts):
                attempt.break_off()
        return [future.result() for future in futures]

    @property
    def over(self) -> bool:
        """Whether nobody waits for the answers any more."""
        return self._over.is_set()

    @contextlib.contextmanager
    def attempt(self) -> Iterator[Attempt]:
        """Make one attempt of this thread during a ``with`` block, which the wave can break off."""
        attempt = Attempt()
        self._attempts.add(attempt)
        try:
            with attempt.made():
                yield attempt
        finally:
            self._attempts.discard(attempt)

    def check(self) -> None:
        """Raise an error if nobody waits for the answers any more."""
        if self._over.is_set() or not self.deadline.left:
            raise self.too_late()

    def failed(self, failure: TransportError) -> None:
        """Record a failure, after which another attempt follows."""
        self._failure = failure

    def pause(self, seconds: float) -> None:
        """Wait; raise an error if the wave ends before, or the deadline would pass."""
        self.check()
        if seconds > self.deadline.left or self._over.wait(seconds):
            raise self.too_late()

    def too_late(self, asked: str = "") -> DeadlineError:
        """Return the error that the deadline has passed, with the last failure as its cause.

        Parameters
        ----------
        asked
            What the server asks for instead.
        """
        failure = self._failure
        came = str(failure).removeprefix(f"{self._name}: ")
        last = "" if failure is None else f" (last came: {came}{asked})"
        error = self.deadline.error(self._name, HINT + last)
        error.__cause__ = failure
        return error
