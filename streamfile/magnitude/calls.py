"""Public methods as calls, each of which ends within the deadline of a streamed file."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from vfs.deadline import within

OPERATORS = {"__contains__", "__getitem__", "__iter__", "__len__"}


class Calls:
    """Base class of classes whose public methods may ask a server.

    All requests and waits of a method share one deadline, those of a property too. A generator has
    one for each step.

    Attributes
    ----------
    stream : bool
        Whether a file is read from a server.
    deadline : float or None
        The option ``deadline`` of the file.
    """

    stream = False

    @property
    def deadline(self) -> float | None:
        """The option ``deadline`` of a streamed file: seconds that a call may take."""
        return None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, member in list(vars(cls).items()):
            if name in ("deadline", "close") or (name.startswith("_") and name not in OPERATORS):
                continue
            if inspect.isfunction(member):
                setattr(cls, name, _call(member))
            elif isinstance(member, property) and inspect.isfunction(member.fget):
                setattr(cls, name, property(_call(member.fget), member.fset, doc=member.__doc__))


def _call(method: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(method):

        @functools.wraps(method)
        def steps(self: Calls, /, *arguments: Any, **options: Any) -> Iterator[Any]:
            generator = method(self, *arguments, **options)
            return _steps(self, generator) if self.stream else generator

        return steps

    @functools.wraps(method)
    def limited(self: Calls, /, *arguments: Any, **options: Any) -> Any:
        if not self.stream:
            return method(self, *arguments, **options)
        with within(self.deadline):
            return method(self, *arguments, **options)

    return limited


def _steps(owner: Calls, generator: Iterator[Any]) -> Iterator[Any]:
    done = object()
    while True:
        with within(owner.deadline):
            item = next(generator, done)
        if item is done:
            return
        yield item
