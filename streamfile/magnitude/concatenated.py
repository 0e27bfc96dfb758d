"""Concatenation of models, which concatenates the vectors of each key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, ClassVar, NoReturn, TypeVar

import numpy as np

from streamfile._arrays import Array
from streamfile.errors import ArgumentError
from streamfile.magnitude.model import VectorModel
from streamfile.magnitude.shapes import Key, Query
from vfs.stats import Counters, Stats
from vfs.workers import Workers

T = TypeVar("T")

SHARED = ("use_numpy", "pad_to_length", "pad_left", "truncate_left")
COUNTERS = [field.name for field in fields(Counters)]


class ConcatenatedMagnitude(VectorModel):
    """A concatenation of models, made by ``Magnitude(a, b, …)``.

    A tuple is one key, with one form for each part. Any other key goes to all parts unchanged. The
    parts have different rows. A concatenation therefore has no ``len``, no iteration, no positions
    and no searches; its ``parts`` have them.

    Parameters
    ----------
    *parts : VectorModel
        Two or more models with the same ``use_numpy``, ``pad_to_length``, ``pad_left`` and
        ``truncate_left``.

    Attributes
    ----------
    parts : tuple of VectorModel
        The models.

    Raises
    ------
    ArgumentError
        There are fewer than two parts, a part is no model, or the parts have different options.
    """

    __module__ = "streamfile"

    _tuple_is_key: ClassVar[bool] = True

    def __init__(self, *parts: VectorModel) -> None:
        if len(parts) < 2 or not all(isinstance(part, VectorModel) for part in parts):
            raise ArgumentError(
                f"Magnitude{parts!r}: expected two or more Magnitude objects to concatenate"
            )
        for name in SHARED:
            values = [getattr(part, name) for part in parts]
            if any(value != values[0] for value in values):
                raise ArgumentError(
                    f"the parts of a concatenation have different {name}: "
                    f"{', '.join(map(repr, values))}; open them with the same"
                )
        super().__init__(
            dtype=np.result_type(*(part.dtype for part in parts)),
            case_insensitive=all(part.case_insensitive for part in parts),
            **{name: getattr(parts[0], name) for name in SHARED},
        )
        self.parts = parts
        self.path = ", ".join(part.path for part in parts)
        self.stream = any(part.stream for part in parts)

    @property
    def deadline(self) -> float | None:
        """The shortest deadline of the parts."""
        return min(
            (part.deadline for part in self.parts if part.deadline is not None), default=None
        )

    @property
    def dim(self) -> int:
        """Number of dimensions of a result: the sum over the parts."""
        return sum(part.dim for part in self.parts)

    @property
    def normalized(self) -> bool:
        """Whether the vectors of all parts have unit length unless a query says otherwise."""
        return all(part.normalized for part in self.parts)

    @property
    def ngram_oov(self) -> bool:
        """Whether an unknown key gets the mean vector of its n-grams in all parts."""
        return all(part.ngram_oov for part in self.parts)

    @property
    def stats(self) -> Stats:
        """Sums of the counters of the parts; budgets are attributes of the parts."""
        return SummedStats(part.stats for part in self.parts)

    def unroll(self, v: Any) -> NoReturn:
        """Raise an ArgumentError: only the vectors of a single part have layers."""
        raise ArgumentError(
            "a concatenation has no layers to unroll: expected the vectors of one ELMo part; try "
            "v.parts[0].unroll(v.parts[0].query(q)), with the number of that part"
        )

    def close(self) -> None:
        """Close all parts."""
        for part in self.parts:
            part.close()

    def _check_open(self) -> None:
        for part in self.parts:
            part._check_open()

    def __contains__(self, key: object) -> bool:
        """Tell whether all parts with keys contain the key, or their forms of a tuple."""
        self._check_open()
        if isinstance(key, tuple) and len(key) != len(self.parts):
            return False
        asked = [
            (part, self._form(key, number))
            for number, part in enumerate(self.parts)
            if part._has_keys
        ]
        return bool(asked) and all(form in part for part, form in asked)

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        raise self._no_file("__len__")

    def __iter__(self) -> Iterator[Any]:
        raise self._no_file("__iter__")

    def __getitem__(self, q: Any) -> Any:
        raise self._no_file("__getitem__")

    def __getattr__(self, name: str) -> Any:
        raise self._no_file(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return ConcatenatedMagnitude, self.parts

    def __repr__(self) -> str:
        return f"<Magnitude of {', '.join(map(repr, self.parts))}>"

    def _of_keys(self, keys: Sequence[Key], normalized: bool | None) -> Array:
        answers = self._asked(
            partial(part._of_keys, [self._form(key, number) for key in keys], normalized)
            for number, part in enumerate(self.parts)
        )
        return np.concatenate(answers, axis=-1, dtype=self.dtype)

    def _of_query(self, query: Query, normalized: bool | None) -> Iterable[Array]:
        if not query.depth:
            return super()._of_query(query, normalized)
        # The parts get lists, because an ELMo part reads a list as a sentence.
        answers = self._asked(
            partial(_lists, part, query.of_keys(partial(self._form, number=number)), normalized)
            for number, part in enumerate(self.parts)
        )
        return [
            np.concatenate(lists, axis=-1, dtype=self.dtype) for lists in zip(*answers, strict=True)
        ]

    def _asked(self, questions: Iterable[Callable[[], T]]) -> list[T]:
        """Call one function for each part; the round trips of streamed parts overlap."""
        if sum(part.stream for part in self.parts) < 2:
            return [ask() for ask in questions]
        workers = Workers(len(self.parts))
        try:
            futures = [workers.submit(ask) for ask in questions]
            return [future.result() for future in futures]
        finally:
            workers.close()

    def _form(self, key: Any, number: int) -> Any:
        """Return the form of a key for part `number`."""
        if not isinstance(key, tuple):
            return key
        if len(key) != len(self.parts):
            raise ArgumentError(
                f"{key!r} has {len(key)} keys for a concatenation of {len(self.parts)}: "
                "expected one for each part (lists hold several keys, tuples one)"
            )
        return key[number]

    def _no_file(self, name: str) -> AttributeError:
        return AttributeError(
            "a concatenation has no file of its own, and so no length, rows, or searches "
            f"({name}): ask one of its parts, such as v.parts[0]"
        )


def _lists(part: VectorModel, query: Query, normalized: bool | None) -> list[Array]:
    return list(part._of_query(query, normalized))


class SummedStats(Stats):
    """Sums of other counters, computed at each access.

    Parameters
    ----------
    parts
        Counters to sum; an object that occurs twice counts once.
    """

    def __init__(self, parts: Iterable[Stats]) -> None:
        self.parts = list({id(part): part for part in parts}.values())
        super().__init__()

    def __getattribute__(self, name: str) -> Any:
        if name in COUNTERS:
            return sum(getattr(part, name) for part in self.parts)
        return super().__getattribute__(name)
