"""Checks of constructor arguments: unknown names, impossible numbers, ignored options."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec

from streamfile.errors import ArgumentError

P = ParamSpec("P")

_warned: set[str] = set()


def checked_arguments(constructor: Callable[P, None]) -> Callable[P, None]:
    """Make a constructor reject unknown argument names, and store its arguments for pickling.

    Parameters
    ----------
    constructor
        An ``__init__`` method of named parameters. Its signature stays visible. The new object has
        the positional and the named arguments as the attribute ``_arguments``.

    Raises
    ------
    TypeError
        The constructor got an unknown name; the message suggests the nearest known name.
    """
    owner = constructor.__qualname__.partition(".")[0]
    names = list(inspect.signature(constructor).parameters)[1:]

    @functools.wraps(constructor)
    def checked(*arguments: P.args, **options: P.kwargs) -> None:
        if unknown := [name for name in options if name not in names]:
            from difflib import get_close_matches  # few need it, and importing is to be cheap

            near = [match for name in unknown for match in get_close_matches(name, names, 1)]
            hint = f"did you mean {', '.join(map(repr, near))}?" if near else ""
            raise TypeError(
                f"{owner} has no argument {', '.join(map(repr, unknown))}: "
                f"{hint or 'it has ' + ', '.join(names)}"
            )
        model: Any = arguments[0]
        model._arguments = arguments[1:], options
        constructor(*arguments, **options)

    return checked


def check_counts(lazy_loading: int, placeholders: int) -> int:
    """Check two arguments that constructors share, and return `placeholders`.

    Raises
    ------
    ArgumentError
        A number is too small.
    """
    if lazy_loading < -1 or placeholders < 0:
        raise ArgumentError(
            f"lazy_loading={lazy_loading}, placeholders={placeholders}: expected -1 or more, "
            "and 0 or more"
        )
    return placeholders


def warn_of_ignored(**options: object) -> None:
    """Warn, once for each name, about arguments that have no effect.

    Parameters
    ----------
    **options
        Values of the arguments by name, None for arguments that the caller omitted.
    """
    for name, value in options.items():
        if value is not None and name not in _warned:
            _warned.add(name)
            warnings.warn(
                f"{name}={value!r} is accepted, for pymagnitude has it, and means nothing here",
                stacklevel=4,  # the caller, behind the constructor and the check of names
            )
