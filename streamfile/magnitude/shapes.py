"""The shapes of a query and of its answer: a key, a list of keys, a list of lists, padding."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from streamfile._arrays import Array
from streamfile.errors import ArgumentError

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
    lists, nested = _lists(q)
    length = max(map(len, lists)) if pad_to_length is None else pad_to_length
    lists = [_cut(keys, length, left=truncate_left) for keys in lists]
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


def shaped_in_context(
    q: Sequence[Key] | Sequence[Sequence[Key]],
    vectors_of: Callable[[list[list[Key]]], Iterable[Array]],
    *,
    dim: int,
    dtype: np.dtype[Any],
    pad_to_length: int | None,
    pad_left: bool,
    truncate_left: bool,
) -> Array:
    """Give the vectors of all words of a query in their sentences, in its shape.

    Parameters
    ----------
    q
        A sentence, or sentences. Where they are truncated, their words keep the vectors that they
        have in the whole.
    vectors_of
        Gives the vectors of each sentence, shape (n, up to dim); called once.
    dim, dtype
        Of the answer; what vectors lack is zero.
    pad_to_length, pad_left, truncate_left
        See `streamfile.Magnitude`.

    Returns
    -------
    ndarray
        Shape (n, dim) or (sentences, n, dim) with n the padded length.
    """
    lists, nested = _lists(as_list(q))
    length = max(map(len, lists)) if pad_to_length is None else pad_to_length
    answer = np.zeros((len(lists), length, dim), dtype)
    for row, whole in zip(answer, vectors_of(lists), strict=True):
        vectors = _cut(whole, length, left=truncate_left)
        begin = length - len(vectors) if pad_left else 0
        row[begin : begin + len(vectors), : vectors.shape[1]] = vectors
    return answer if nested else answer[0]


def _lists(q: list[Any]) -> tuple[list[list[Key]], bool]:
    """Give the lists of a query, and whether it has several."""
    nested = bool(q) and all(isinstance(as_list(keys), list) for keys in q)
    return [as_list(keys) for keys in q] if nested else [q], nested


def _cut(items: Any, length: int, *, left: bool) -> Any:
    """Take the first or the last so many of a list or an array."""
    return items[max(len(items) - length, 0) :] if left else items[:length]


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
