"""Vectors for features: a Magnitude object with no file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile.errors import ArgumentError
from streamfile.format.rows import VectorRows
from streamfile.format.tables import Format
from streamfile.magnitude.magnitude import Magnitude
from streamfile.readers.base import Reader
from vfs.btree.table import Rows
from vfs.stats import Budget, Stats

COLLISION = 0.001  # the chance that two of all values get nearly the same vector
STEPS = 100  # places that a component is taken to tell apart
LEAST_DIM = 2
SPARE = 16  # bytes behind the last row, as `Rows` has them


class FeaturizerMagnitude(Magnitude):
    """Vectors for the values of a feature, such as parts of speech: made from their spelling.

    No key is in it, every one has a vector. Concatenated with word vectors,
    ``Magnitude(words, tags)``, it is asked for pairs: ``query([("cat", "NN"), …])``.

    Parameters
    ----------
    number_of_values : int
        How many values the feature may take, roughly. It makes the dimensions, so that the chance
        of two values colliding is 0.1 %.
    namespace : str, optional
        The feature's name: equal values of features of different names have different vectors.
    **options
        Those of `Magnitude` that are not about a file: ``normalized``, ``use_numpy``,
        ``case_insensitive``, ``pad_to_length``, ``pad_left``, ``truncate_left``,
        ``placeholders``, ``ngram_oov``, ``dtype``, ``lazy_loading``.

    Raises
    ------
    ArgumentError
        Less than one value, or an option that cannot be.
    """

    def __init__(self, number_of_values: int, namespace: str | None = None, **options: Any) -> None:
        if number_of_values < 1:
            raise ArgumentError(f"number_of_values={number_of_values}: expected 1 or more")
        self.number_of_values = number_of_values
        self.namespace = namespace
        super().__init__(f"feature {namespace or '(no name)'}", **options)

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.number_of_values, self.namespace)
        return partial(FeaturizerMagnitude, *arguments, **self._arguments), ()

    def _open(self, **options: Any) -> Reader:
        if options["stream"] or options["stream_options"] or options["remote_path"]:
            raise ArgumentError("a featurizer has no file to stream")
        return NoFile(self.path, _dimensions(self.number_of_values), self.namespace)


class NoFile(Reader):
    """A file without rows.

    Parameters
    ----------
    name
        For messages.
    dim
        Dimensions.
    namespace
        Of the hashes of keys.
    """

    def __init__(self, name: str, dim: int, namespace: str | None) -> None:
        self.stats = Stats()
        self.budget = Budget(self.stats, None, None)
        self.namespace = namespace
        self._name = name
        self._format = Format(size=0, dim=dim, precision=0, elmo=False, table_root=0, index_root=0)

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self._name

    @property
    def format(self) -> Format:
        """Dimensions, and no rows."""
        return self._format

    @property
    def assumed(self) -> Format:
        """The same."""
        return self._format

    def find(self, keys: Sequence[str], *, case_insensitive: bool) -> dict[str, int]:
        """Find nothing."""
        return {}

    def similar(
        self, keys: Sequence[str], *, language: str | None, case_insensitive: bool
    ) -> list[list[int]]:
        """Find nothing."""
        return [[] for _ in keys]

    def rows(self, rowids: npt.ArrayLike) -> VectorRows:
        """Find nothing."""
        none = np.empty(0, np.int64)
        data = np.zeros(SPARE + self._format.dim, np.uint8)
        return VectorRows(self._name, Rows(none, data, none, none), self._format.dim)


def _dimensions(number_of_values: int) -> int:
    """Give the fewest dimensions in which values collide rarely enough (a birthday bound)."""
    pairs = number_of_values**2 / (-2 * math.log(1 - COLLISION))
    return max(math.ceil(math.log(pairs, STEPS)), LEAST_DIM)
