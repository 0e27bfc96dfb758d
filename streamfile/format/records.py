"""Many values of SQLite records at once (https://sqlite.org/fileformat2.html, section 2.1).

Each operation goes over a block of values that is small enough for a processor's cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Bytes, Doubles, Ints

IMPOSSIBLE = 255
SIZES = np.full(256, IMPOSSIBLE, np.uint8)  # bytes of an integer, by its serial type
SIZES[[1, 2, 3, 4, 5, 6, 8, 9]] = [1, 2, 3, 4, 6, 8, 0, 0]
NUMBER_SIZES = np.array([0, 1, 2, 3, 4, 6, 8, 8, 0, 0], np.int64)


@dataclass(frozen=True)
class Keys:
    """The keys of rows, as they lie in the file.

    Attributes
    ----------
    data
        Bytes that hold them.
    starts, ends
        Where each key begins and ends, shape (n,).
    """

    data: Bytes
    starts: Ints
    ends: Ints

    def decode(self, which: slice | Ints = slice(None)) -> list[str]:
        """Make strings; bytes that are no UTF-8 become surrogates."""
        data = self.data.data
        return [
            str(data[start:end], "utf-8", "surrogateescape")
            for start, end in zip(
                self.starts[which].tolist(), self.ends[which].tolist(), strict=True
            )
        ]

    def first(self, count: int) -> Keys:
        """Give the first so many."""
        return Keys(self.data, self.starts[:count], self.ends[:count])

    def join(self) -> tuple[Bytes, Ints]:
        """Give the bytes of all keys, one behind the other, and how many are of each."""
        sizes = self.ends - self.starts
        ends = np.cumsum(sizes)
        total = int(ends[-1]) if len(ends) else 0
        return self.data[np.arange(total) + np.repeat(self.starts - ends + sizes, sizes)], sizes


class Scratch:
    """Arrays that are used again and again, by one thread.

    Fresh memory costs more than what is done with it.

    Parameters
    ----------
    values
        How many are to be decoded at once: with more, threads contend less.
    """

    def __init__(self, values: int = 1 << 18) -> None:
        self.values = values
        self._buffers: dict[str, Bytes] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        """Give an array of any content, valid until the same name is asked for again."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[name] = np.empty(size, np.uint8)
        return buffer[:size].view(dtype).reshape(shape)


def read_integers(
    data: Bytes, types: Bytes, begins: Ints, ends: Ints, scratch: Scratch
) -> npt.NDArray[Any] | None:
    """Decode integers that lie one behind the other in each row.

    Parameters
    ----------
    data
        With at least 18 bytes behind each row.
    types
        Serial types, shape (n, m).
    begins, ends
        Where the values of each row lie in the data, shape (n,).
    scratch
        For what is computed, the result among it.

    Returns
    -------
    ndarray or None
        Shape (n, m), int32, or int64 where a value has more than four bytes. None where a type is
        no integer's, or the values do not end where they should.
    """
    shape, width = types.shape, 4
    sizes = scratch.array("sizes", shape, "u1")
    usual, constant = scratch.array("usual", shape, "?"), scratch.array("constant", shape, "?")
    # The integers 0 and 1 have types of their own, and take no bytes.
    np.greater_equal(np.subtract(types, np.uint8(8), out=sizes), np.uint8(2), out=constant)
    np.logical_not(constant, out=constant)
    np.less(np.subtract(types, np.uint8(1), out=sizes), np.uint8(4), out=usual)
    np.multiply(types, usual, out=sizes)
    np.logical_or(usual, constant, out=usual)
    if not usual.all():
        width = 8
        np.take(SIZES, types, out=sizes)
        if sizes.max() == IMPOSSIBLE:
            return None
    low, high = int(begins.min(initial=len(data))), int(ends.max(initial=0))
    if high - low <= 2 * int((ends - begins).sum()):
        flat, first = data[low : high + 2 * width], begins - low
    else:  # far apart
        longest = min(int((ends - begins).max(initial=0)), width * shape[1])
        length = longest + width
        starts = np.minimum(begins, len(data) - length)
        first = np.arange(shape[0]) * length + (begins - starts)
        flat = windows(data, length)[starts].reshape(-1)
    at = scratch.array("at", shape, "i8")
    at[:, 0] = first
    at[:, 1:] = sizes[:, :-1]
    np.cumsum(at, axis=1, out=at)
    if not np.array_equal(at[:, -1] + sizes[:, -1] - first, ends - begins):
        return None
    # A gather is fast only from aligned numbers: lay out the one that begins at each byte.
    count = max(0, len(flat) - width + 1)
    every = scratch.array("every", (count,), f"<i{width}")
    every[:] = np.ndarray((count,), f">i{width}", flat, strides=(1,))
    values = scratch.array("values", shape, f"<i{width}")
    every.take(at, out=values, mode="clip")  # which does not copy them once more
    shifts = scratch.array("shifts", shape, values.dtype.str)
    np.subtract(8 * width, np.multiply(sizes, 8, out=shifts, casting="unsafe"), out=shifts)
    values >>= shifts  # down, with the sign
    if constant.any():
        values[constant] = types[constant] - np.uint8(8)
    return values


def read_reals(data: Bytes, types: Bytes, begins: Ints) -> Doubles:
    """Decode one number of each row.

    Parameters
    ----------
    data
        With at least 8 bytes behind each number.
    types
        Serial types up to 9, shape (n,); NULL is NaN.
    begins
        Where each number begins in the data, shape (n,).
    """
    raw = windows(data, 8)[begins]
    whole = raw.view(">i8").reshape(-1).astype(np.int64)
    whole >>= np.minimum(64 - 8 * NUMBER_SIZES[types], 63)
    whole = np.where(types >= 8, types.astype(np.int64) - 8, whole)
    reals = raw.view(">f8").reshape(-1).astype(np.float64)
    return np.where(types == 7, reals, np.where(types == 0, np.nan, whole))


def windows(data: Bytes, length: int) -> Bytes:
    """View so many bytes from every byte on."""
    return np.ndarray((len(data) - length + 1, length), np.uint8, data, strides=(1, 1))
