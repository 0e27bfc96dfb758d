"""Vectorised decoding of SQLite records (https://sqlite.org/fileformat2.html, section 2.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Bytes, Doubles, Ints

IMPOSSIBLE = 255
SIZES = np.full(256, IMPOSSIBLE, np.uint8)  # bytes of an integer by serial type
SIZES[[1, 2, 3, 4, 5, 6, 8, 9]] = [1, 2, 3, 4, 6, 8, 0, 0]
NUMBER_SIZES = np.array([0, 1, 2, 3, 4, 6, 8, 8, 0, 0], np.int64)


@dataclass(frozen=True)
class Keys:
    """The keys of rows, as encoded bytes in a larger array.

    Attributes
    ----------
    data
        uint8 array that contains the keys.
    starts, ends
        Offset of each key in `data`, and the offset behind it, int64, shape (n,).
    """

    data: Bytes
    starts: Ints
    ends: Ints

    def decode(self, which: slice | Ints = slice(None)) -> list[str]:
        """Decode keys as strings; bytes that are not UTF-8 become surrogates."""
        data = self.data.data
        return [
            str(data[start:end], "utf-8", "surrogateescape")
            for start, end in zip(
                self.starts[which].tolist(), self.ends[which].tolist(), strict=True
            )
        ]

    def first(self, count: int) -> Keys:
        """Return the first `count` keys."""
        return Keys(self.data, self.starts[:count], self.ends[:count])

    def join(self) -> tuple[Bytes, Ints]:
        """Join the bytes of all keys.

        Returns
        -------
        data, sizes
            The joined keys, uint8, and the length of each key in bytes, int64, shape (n,).
        """
        sizes = self.ends - self.starts
        ends = np.cumsum(sizes)
        total = int(ends[-1]) if len(ends) else 0
        return self.data[np.arange(total) + np.repeat(self.starts - ends + sizes, sizes)], sizes


class Scratch:
    """Arrays that one thread reuses, because allocation would take longer than decoding.

    Parameters
    ----------
    values
        Number of values that the user decodes in one step. Larger steps reduce contention between
        threads; smaller ones fit better into the processor's cache.
    """

    def __init__(self, values: int = 1 << 18) -> None:
        self.values = values
        self._buffers: dict[str, Bytes] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        """Return an uninitialised array, valid until the next call with the same name."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[name] = np.empty(size, np.uint8)
        return buffer[:size].view(dtype).reshape(shape)


def read_integers(
    data: Bytes, types: Bytes, begins: Ints, ends: Ints, scratch: Scratch
) -> npt.NDArray[Any] | None:
    """Decode the consecutive integers of each row.

    Parameters
    ----------
    data
        uint8 array that contains the rows, with at least 18 bytes behind each row.
    types
        Serial types of the integers, uint8, shape (n, m).
    begins, ends
        Offset of each row's integers in `data`, and the offset behind them, int64, shape (n,).
    scratch
        Arrays for intermediate results and for the return value.

    Returns
    -------
    ndarray or None
        Integers, shape (n, m), int32, or int64 if an integer has more than four bytes. None if a
        serial type is no integer's, or if the integers of a row do not end at its `ends`.
    """
    shape, width = types.shape, 4
    sizes = scratch.array("sizes", shape, "u1")
    usual, constant = scratch.array("usual", shape, "?"), scratch.array("constant", shape, "?")
    # The integers 0 and 1 have their own serial types, 8 and 9, and no body.
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
    else:  # the rows are far apart: copy each of them
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
    # A gather is fast only from aligned numbers: make an array of the number at each byte.
    count = max(0, len(flat) - width + 1)
    every = scratch.array("every", (count,), f"<i{width}")
    every[:] = np.ndarray((count,), f">i{width}", flat, strides=(1,))
    values = scratch.array("values", shape, f"<i{width}")
    every.take(at, out=values, mode="clip")  # mode "raise" would buffer the output
    shifts = scratch.array("shifts", shape, values.dtype.str)
    np.subtract(8 * width, np.multiply(sizes, 8, out=shifts, casting="unsafe"), out=shifts)
    values >>= shifts  # arithmetic shift: it keeps the sign
    if constant.any():
        values[constant] = types[constant] - np.uint8(8)
    return values


def read_reals(data: Bytes, types: Bytes, begins: Ints) -> Doubles:
    """Decode one number of each row.

    Parameters
    ----------
    data
        uint8 array that contains the numbers, with at least 8 bytes from each number on.
    types
        Serial types of the numbers, 0 to 9, shape (n,). NULL becomes NaN.
    begins
        Offset of each number in `data`, int64, shape (n,).

    Returns
    -------
    ndarray
        float64, shape (n,).
    """
    raw = windows(data, 8)[begins]
    whole = raw.view(">i8").reshape(-1).astype(np.int64)
    whole >>= np.minimum(64 - 8 * NUMBER_SIZES[types], 63)
    whole = np.where(types >= 8, types.astype(np.int64) - 8, whole)
    reals = raw.view(">f8").reshape(-1).astype(np.float64)
    return np.where(types == 7, reals, np.where(types == 0, np.nan, whole))


def windows(data: Bytes, length: int) -> Bytes:
    """View the bytes in windows of `length` bytes, one from every offset on."""
    return np.ndarray((len(data) - length + 1, length), np.uint8, data, strides=(1, 1))
