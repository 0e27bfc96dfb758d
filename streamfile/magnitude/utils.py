"""Utilities for training on vectors: download, batches, one-hot vectors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Array
from streamfile.errors import ArgumentError
from streamfile.magnitude.published import download_model


class MagnitudeUtils:
    """Download of models, batches, and class numbers."""

    __module__ = "streamfile"

    download_model = staticmethod(download_model)

    @staticmethod
    def batchify(
        X: Sequence[Any],  # noqa: N803
        y: Sequence[Any],
        batch_size: int,
    ) -> Iterator[tuple[Any, Any]]:
        """Divide inputs and outputs into batches, repeated without end.

        Parameters
        ----------
        X, y : sequence or ndarray
            Inputs and outputs, of equal length.
        batch_size : int
            Size of a batch; the last batch of a round may be smaller.

        Returns
        -------
        iterator of (X, y)
            Slices of both. After the last batch, the first one follows again.

        Raises
        ------
        ArgumentError
            The lengths differ or are 0, or the size is below 1.
        """
        if len(X) != len(y) or not len(X) or batch_size < 1:
            raise ArgumentError(
                f"{len(X)} inputs, {len(y)} outputs, batch_size={batch_size}: expected as many "
                "inputs as outputs, and a batch_size of 1 or more"
            )
        starts = itertools.cycle(range(0, len(X), batch_size))
        return ((X[at : at + batch_size], y[at : at + batch_size]) for at in starts)

    @staticmethod
    def class_encoding() -> tuple[
        Callable[[Hashable], int], Callable[[Hashable], int], Callable[[int], Any]
    ]:
        """Make functions that assign numbers to classes.

        Returns
        -------
        add_class : callable
            Return the number of a class; a new class gets the next free number, from 0.
        class_to_int : callable
            Return the number of a class; raise a KeyError if the class was not added.
        int_to_class : callable
            Return the class of a number; raise an IndexError if no class has the number.
        """
        numbers: dict[Hashable, int] = {}
        classes: list[Hashable] = []

        def add_class(c: Hashable) -> int:
            if c not in numbers:
                numbers[c] = len(classes)
                classes.append(c)
            return numbers[c]

        def class_to_int(c: Hashable) -> int:
            return numbers[c]

        def int_to_class(i: int) -> Any:
            if i < 0:
                raise IndexError(f"{i} is the number of no class")
            return classes[i]

        return add_class, class_to_int, int_to_class

    @staticmethod
    def to_categorical(y: npt.ArrayLike, num_classes: int | None = None) -> Array:
        """Convert class numbers to one-hot vectors.

        Parameters
        ----------
        y
            Class numbers from 0, of any shape; of several axes, a last one of length 1 is dropped.
        num_classes
            Number of classes. Default: the largest class number plus 1.

        Returns
        -------
        ndarray
            float32, shape of `y` followed by (num_classes,); 1 at each class, 0 elsewhere.

        Raises
        ------
        ArgumentError
            A class number is below 0, or not below `num_classes`.
        """
        numbers = np.asarray(y).astype(np.int64)
        if numbers.ndim > 1 and numbers.shape[-1] == 1:
            numbers = numbers[..., 0]
        least, most = int(numbers.min(initial=0)), int(numbers.max(initial=-1))
        count = most + 1 if num_classes is None else num_classes
        if least < 0 or most >= count:
            raise ArgumentError(
                f"classes from {least} to {most}: expected numbers from 0 to {count - 1}"
            )
        answer = np.zeros((*numbers.shape, count), np.float32)
        np.put_along_axis(answer, numbers[..., None], 1, axis=-1)
        return answer

    @staticmethod
    def from_categorical(c: npt.ArrayLike) -> Array:
        """Convert one-hot vectors, or probabilities of classes, to class numbers.

        Parameters
        ----------
        c
            Vectors, of any shape; the last axis is that of the classes.

        Returns
        -------
        ndarray
            Class numbers, int64, shape of `c` without the last axis: the positions of the largest
            values.
        """
        numbers: Array = np.argmax(np.asarray(c), axis=-1)
        return numbers
