"""Deadline of a call, which every wait of the call shares: for servers, locks, SQL."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from vfs.errors import DeadlineError

USUAL = 120.0  # seconds
P = ParamSpec("P")
R = TypeVar("R")


class Limited(Protocol):
    """An object whose calls must end in time."""

    @property
    def deadline(self) -> float | None:
        """The option ``deadline`` of the file."""


S = TypeVar("S", bound=Limited)


class Deadline:
    """The time by which a call must have ended.

    Parameters
    ----------
    seconds
        Seconds from now. None for 120 seconds, which begin anew with all `progress`.

    Attributes
    ----------
    seconds : float
        Duration that the call may take.
    strict : bool
        Whether the caller set this time, so that no progress restarts it.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = USUAL if seconds is None else seconds
        self.strict = seconds is not None
        self._end = time.monotonic() + self.seconds

    @property
    def left(self) -> float:
        """Seconds that are left, 0 if the deadline has passed."""
        return max(0.0, self._end - time.monotonic())

    def progress(self) -> None:
        """Record that a long transfer goes on, which restarts the time unless the caller set it.

        Scans of a table and copies of blobs take as long as the network needs. They call this
        after each piece, so that only a transfer that stands still fails by default.
        """
        if not self.strict:
            self._end = time.monotonic() + self.seconds

    def check(self, name: str) -> None:
        """Raise an error if the deadline has passed.

        Parameters
        ----------
        name
            Name of the file, for the message.

        Raises
        ------
        DeadlineError
            The deadline has passed.
        """
        if not self.left:
            raise self.error(name)

    def error(self, name: str, hint: str = "") -> DeadlineError:
        """Return the error that says that the call did not end in time.

        Parameters
        ----------
        name
            Name of the file, for the message.
        hint
            What else is known or may help, the end of the message.
        """
        return DeadlineError(
            f"{name}: the call was not complete within its deadline of {self.seconds:g} s; the "
            f"server may be slow or overloaded: try again, or raise the option deadline{hint}"
        )


_local = threading.local()


def current() -> Deadline:
    """Return the deadline of the call that this thread is in, else a new one of 120 seconds."""
    deadline = ongoing()
    return Deadline() if deadline is None else deadline


def ongoing() -> Deadline | None:
    """Return the deadline of the call that this thread is in, None outside of calls."""
    deadline: Deadline | None = getattr(_local, "deadline", None)
    return deadline


class within:  # noqa: N801 - a class, because a generator takes as long as a short call
    """Begin a call that must end in time; a call within another one has the earlier deadline.

    As a context manager, it gives the deadline that is in force during the ``with`` block.

    Parameters
    ----------
    seconds
        The option ``deadline`` of the file.
    """

    __slots__ = ("_outer", "_seconds")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def __enter__(self) -> Deadline:
        outer, inner = ongoing(), Deadline(self._seconds)
        self._outer = outer
        if outer is not None and outer.left <= inner.left:
            inner = outer
        _local.deadline = inner
        return inner

    def __exit__(self, *_: object) -> None:
        _local.deadline = self._outer


@contextlib.contextmanager
def carried(deadline: Deadline | None) -> Iterator[None]:
    """Make a call's deadline the one of this thread, which works for that call."""
    outer = ongoing()
    _local.deadline = deadline
    try:
        yield
    finally:
        _local.deadline = outer


def call(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Make a method a call that must end within the deadline of its object."""

    @functools.wraps(method)
    def limited(self: S, /, *arguments: P.args, **options: P.kwargs) -> R:
        with within(self.deadline):
            return method(self, *arguments, **options)

    return limited
