"""Arguments of constructors: names that are misspelt, and names that mean nothing any more."""

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
    """Make a constructor refuse unknown names, and remember its arguments for pickles.

    Parameters
    ----------
    constructor
        An ``__init__`` of named parameters, whose signature stays visible. The object's
        ``_arguments`` will be the arguments by place, and those by name.

    Raises
    ------
    TypeError
        From the constructor: an unknown name. The message has the nearest name that there is.
    """
    owner = constructor.__qualname__.partition(".")[0]
    names = list(inspect.signature(constructor).parameters)[1:]

    @functools.wraps(constructor)
    def checked(*arguments: P.args, **options: P.kwargs) -> None:
        if unknown := [name for name in options if name not in names]:
            from difflib import get_close_matches  # few need it, and importing is to be cheap

            near = [match for name in unknown for match in get_close_matches(name, names, 1)]
            raise TypeError(
                f"{owner} has no argument {', '.join(map(repr, unknown))}: "
                + (f"did you mean {', '.join(map(repr, near))}?" if near else "")
                + ("" if near else f"it has {', '.join(names)}")
            )
        model: Any = arguments[0]
        model._arguments = arguments[1:], options
        constructor(*arguments, **options)

    return checked


def check_counts(lazy_loading: int, placeholders: int) -> int:
    """Check numbers that constructors share, and return the second.

    Raises
    ------
    ArgumentError
        A number that cannot be.
    """
    if lazy_loading < -1 or placeholders < 0:
        raise ArgumentError(
            f"lazy_loading={lazy_loading}, placeholders={placeholders}: expected -1 or more, "
            "and 0 or more"
        )
    return placeholders


def warn_of_ignored(**options: object) -> None:
    """Warn, once for each name, of arguments that are accepted and mean nothing.

    Parameters
    ----------
    **options
        Their values, None where they were not given.
    """
    for name, value in options.items():
        if value is not None and name not in _warned:
            _warned.add(name)
            warnings.warn(
                f"{name}={value!r} is accepted, for pymagnitude has it, and means nothing here",
                stacklevel=4,  # the constructor, its check of names, the caller
            )
