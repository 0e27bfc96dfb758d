"""The shapes of a query and of its answer: a key, a list of keys, a list of lists, padding."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile.errors import ArgumentError

Array = npt.NDArray[Any]
Key = Any  # a string; a number has a vector too


def as_list(q: Any) -> Any:
    """Turn the sequences that hold keys into lists, and leave keys as they are."""
    if isinstance(q, np.ndarray):
        return q.tolist()
    return list(q) if isinstance(q, (list, tuple, range)) else q


def padded_length(pad_to_length: int | None) -> int | None:
    """Check a length that lists of keys are padded to.

    Raises
    ------
    ArgumentError
        It is negative.
    """
    if pad_to_length is not None and pad_to_length < 0:
        raise ArgumentError(f"pad_to_length={pad_to_length}: expected 0 or more")
    return pad_to_length


def shaped(
    q: Key | Sequence[Key] | Sequence[Sequence[Key]],
    vectors_of: Callable[[list[Key]], Array],
    *,
    pad_to_length: int | None,
    pad_left: bool,
    truncate_left: bool,
) -> Array:
    """Give the vectors of all keys of a query, in its shape.

    Parameters
    ----------
    q
        A key, keys, or lists of keys.
    vectors_of
        Gives the vectors of keys, shape (n, dim); called once.
    pad_to_length, pad_left, truncate_left
        See `streamfile.Magnitude`.

    Returns
    -------
    ndarray
        Shape (dim,), (n, dim) or (lists, n, dim) with n the padded length.
    """
    q = as_list(q)
    if not isinstance(q, list):
        vector: Array = vectors_of([q])[0]
        return vector
    nested = bool(q) and all(isinstance(as_list(keys), list) for keys in q)
    lists = [as_list(keys) for keys in q] if nested else [q]
    length = max(map(len, lists)) if pad_to_length is None else pad_to_length
    lists = [
        keys[max(len(keys) - length, 0) :] if truncate_left else keys[:length] for keys in lists
    ]
    vectors = vectors_of([key for keys in lists for key in keys])
    if not nested and len(vectors) == length:
        return vectors
    answer = np.zeros((len(lists), length, vectors.shape[1]), vectors.dtype)
    at = 0
    for row, keys in zip(answer, lists, strict=True):
        begin = length - len(keys) if pad_left else 0
        row[begin : begin + len(keys)] = vectors[at : at + len(keys)]
        at += len(keys)
    return answer if nested else answer[0]


def several(q: Any) -> tuple[list[Any], bool]:
    """Give the items of a list, or a single one, and whether it is single."""
    if isinstance(q, np.ndarray) and q.dtype.kind not in "fiu":
        q = q.tolist()
    if isinstance(q, (list, tuple, np.ndarray)) and as_vector(q) is None:
        return list(q), False
    return [q], True


def as_vector(item: Any) -> Array | None:
    """Tell vectors, which are arrays or lists of numbers, from keys."""
    if isinstance(item, np.ndarray) and item.ndim:
        if item.ndim == 1 and item.dtype.kind in "fiu":
            return item.astype(np.float64)
        return None
    numeric = isinstance(item, (list, tuple)) and all(isinstance(n, numbers.Real) for n in item)
    if numeric and len(item):
        return np.array(item, np.float64)
    return None
