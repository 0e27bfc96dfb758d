"""Several models as one: each key's vectors, one behind the other."""

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
    """What ``Magnitude(a, b, …)`` makes.

    A tuple is one key, with a form for each part; a key that is no tuple is asked of all parts.
    Parts have different rows, so that there is no ``len``, no iteration, no place and no search in
    the whole: those are asked of its ``parts``.

    Parameters
    ----------
    *parts : VectorModel
        Two or more, which agree in ``use_numpy``, ``pad_to_length``, ``pad_left`` and
        ``truncate_left``.

    Attributes
    ----------
    parts : tuple of VectorModel
        As given.

    Raises
    ------
    ArgumentError
        Fewer than two, something else, or parts that do not agree.
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
    def dim(self) -> int:
        """Dimensions of the answers: the sum of those of the parts."""
        return sum(part.dim for part in self.parts)

    @property
    def normalized(self) -> bool:
        """Whether all parts have vectors of unit length unless a query says otherwise."""
        return all(part.normalized for part in self.parts)

    @property
    def ngram_oov(self) -> bool:
        """Whether in all parts unknown keys get the mean vector of their n-grams."""
        return all(part.ngram_oov for part in self.parts)

    @property
    def stats(self) -> Stats:
        """The sums of the parts' counters; budgets are set on the parts."""
        return SummedStats(part.stats for part in self.parts)

    def unroll(self, v: Any) -> NoReturn:
        """Refuse: layers are those of a part."""
        raise ArgumentError(
            "a concatenation has no layers to unroll: expected the vectors of one ELMo part; try "
            "v.parts[0].unroll(v.parts[0].query(q)), with the number of that part"
        )

    def close(self) -> None:
        """Close all parts."""
        for part in self.parts:
            part.close()

    def __contains__(self, key: object) -> bool:
        """Tell whether each part that has keys has the key, or its form of a tuple."""
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
        # Lists are passed on as lists: an ELMo part reads them as sentences.
        answers = self._asked(
            partial(_lists, part, query.of_keys(partial(self._form, number=number)), normalized)
            for number, part in enumerate(self.parts)
        )
        return [
            np.concatenate(lists, axis=-1, dtype=self.dtype) for lists in zip(*answers, strict=True)
        ]

    def _asked(self, questions: Iterable[Callable[[], T]]) -> list[T]:
        """Ask each part its question; the round trips of streamed parts overlap."""
        if sum(part.stream for part in self.parts) < 2:
            return [ask() for ask in questions]
        workers = Workers(len(self.parts))
        try:
            futures = [workers.submit(ask) for ask in questions]
            return [future.result() for future in futures]
        finally:
            workers.close()

    def _form(self, key: Any, number: int) -> Any:
        """Return a key's form for one part."""
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
    """The sums of several counters, whenever they are looked at.

    Parameters
    ----------
    parts
        Counters; the same given twice count once.
    """

    def __init__(self, parts: Iterable[Stats]) -> None:
        self.parts = list({id(part): part for part in parts}.values())
        super().__init__()

    def __getattribute__(self, name: str) -> Any:
        if name in COUNTERS:
            return sum(getattr(part, name) for part in self.parts)
        return super().__getattribute__(name)
