"""Several Magnitude objects as one: each key's vectors, one behind the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from streamfile._arrays import Array
from streamfile.errors import ArgumentError
from streamfile.magnitude.featurizer import FeaturizerMagnitude
from streamfile.magnitude.magnitude import Magnitude
from streamfile.magnitude.shapes import Key, as_list
from vfs.stats import Counters, Stats
from vfs.workers import Workers

SHARED = ("use_numpy", "pad_to_length", "pad_left", "truncate_left")
COUNTERS = [field.name for field in fields(Counters)]


class ConcatenatedMagnitude(Magnitude):
    """What ``Magnitude(a, b, …)`` gives.

    A tuple stands for one key with a form for each part; a key that is no tuple is asked of all
    parts. Parts have different rows, so that there is no ``len``, no iteration, and no place in the
    whole: those are asked of its ``parts``.

    Parameters
    ----------
    *parts : Magnitude
        Two or more, which agree in ``use_numpy``, ``pad_to_length``, ``pad_left`` and
        ``truncate_left``.

    Attributes
    ----------
    parts : tuple of Magnitude
        As given.

    Raises
    ------
    ArgumentError
        Fewer than two, something else, or parts that do not agree.
    """

    def __init__(self, *parts: Magnitude) -> None:
        if len(parts) < 2 or not all(isinstance(part, Magnitude) for part in parts):
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
            setattr(self, name, values[0])
        self.parts = parts
        self.path = ", ".join(part.path for part in parts)
        self.stream = any(part.stream for part in parts)
        self.placeholders = 0  # those of the parts are inside
        self.case_insensitive = all(part.case_insensitive for part in parts)
        self.dtype = np.result_type(*(part.dtype for part in parts))

    @property
    def emb_dim(self) -> int:
        """Dimensions of the answers, as `dim`."""
        return self.dim

    @property
    def dim(self) -> int:
        """Dimensions of the answers: the sum of those of the parts."""
        return sum(part.dim for part in self.parts)

    @property
    def normalized(self) -> bool:
        """Whether all parts give vectors of unit length unless a query says otherwise."""
        return all(part.normalized for part in self.parts)

    @property
    def ngram_oov(self) -> bool:
        """Whether all parts give unknown keys the mean vector of their n-grams."""
        return all(part.ngram_oov for part in self.parts)

    @property
    def stats(self) -> Stats:
        """The sums of the parts' counters; budgets are set on the parts."""
        return SummedStats(part.stats for part in self.parts)

    def query(
        self,
        q: Key | Sequence[Key] | Sequence[Sequence[Key]],
        *,
        pad_to_length: int | None = None,
        pad_left: bool | None = None,
        truncate_left: bool | None = None,
        normalized: bool | None = None,
    ) -> Any:
        """Give the vectors of a key, of a list of keys, or of a list of lists.

        Parameters
        ----------
        q : key, list of keys, or list of lists of keys
            A key is a string or a number, for all parts, or a tuple with one for each part.
        pad_to_length, pad_left, truncate_left, normalized
            As in `Magnitude.query`.

        Returns
        -------
        ndarray or list
            Shape (dim,), (n, dim) or (lists, n, dim), zeros where there is no key.

        Raises
        ------
        ArgumentError
            A tuple of another length than there are parts, or something that is no key.
        vfs.VFSError
            See `vfs.errors`.
        """
        options: dict[str, Any] = {
            "pad_to_length": pad_to_length,
            "pad_left": pad_left,
            "truncate_left": truncate_left,
            "normalized": normalized,
        }
        return self._given(self._joined(q, lambda part, share: part.query(share, **options)))

    def unroll(self, v: Any) -> Any:
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
        """Tell whether each part but featurizers has the key, or its share of a tuple."""
        if isinstance(key, tuple) and len(key) != len(self.parts):
            return False
        asked = [
            (part, self._share(key, number))
            for number, part in enumerate(self.parts)
            if not isinstance(part, FeaturizerMagnitude)
        ]
        return bool(asked) and all(share in part for part, share in asked)

    def __bool__(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        """Refuse whatever would need a file."""
        raise AttributeError(
            "a concatenation has no file of its own, and so no length, rows, or searches "
            f"({name}): ask one of its parts, such as v.parts[0]"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Magnitude, self.parts

    def __repr__(self) -> str:
        return f"<Magnitude of {', '.join(map(repr, self.parts))}>"

    def _each(self, keys: Sequence[Key], normalized: bool | None = None) -> Array:
        return self._joined(keys, lambda part, share: part._each(share, normalized))

    def _joined(self, q: Any, ask: Callable[[Magnitude, Any], Any]) -> Array:
        """Ask each part its share of a query, and put the answers behind each other."""
        shares = [(part, self._share(q, number)) for number, part in enumerate(self.parts)]
        if sum(part.stream for part in self.parts) > 1:  # their round trips overlap
            workers = Workers(len(shares))
            try:
                answers = workers.map(lambda one: ask(*one), shares, timeout=threading.TIMEOUT_MAX)
            finally:
                workers.close()
        else:
            answers = [ask(*one) for one in shares]
        return np.concatenate(answers, axis=-1)

    def _share(self, q: Any, number: int) -> Any:
        """Take what a query asks of one part."""
        if isinstance(q, tuple):
            if len(q) != len(self.parts):
                raise ArgumentError(
                    f"{q!r} has {len(q)} keys for a concatenation of {len(self.parts)}: "
                    "expected one for each part (lists hold several keys, tuples one)"
                )
            return q[number]
        keys = as_list(q)
        return [self._share(key, number) for key in keys] if isinstance(keys, list) else q


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
