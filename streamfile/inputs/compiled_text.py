"""Compiled parser of vectors as text, used if numba is installed (extra ``fast``).

It reads numbers as `streamfile.inputs.decimals` does. It refuses malformed text without a reason;
the numpy parser then raises the error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from streamfile._arrays import Doubles, Ints
from streamfile._jit import Kernel
from streamfile.format.records import Scratch
from streamfile.inputs.decimals import DIVISORS, MOST_DECIMALS, POWERS, read_each

FACTORS = POWERS[: MOST_DECIMALS + 1].astype(np.int64)
SIGNED_DIVISORS = np.concatenate([DIVISORS, -DIVISORS])


class CompiledParser:
    """Parser of lines that have a key and numbers.

    Parameters
    ----------
    function
        The compiled `KERNEL`.
    dim
        Number of numbers in each row.
    """

    def __init__(self, function: Callable[..., int], dim: int) -> None:
        self._function, self._dim = function, dim
        self._scratch = Scratch()

    def parse(self, text: bytes, lines: int) -> tuple[list[bytes], Doubles] | None:
        """Parse rows.

        Parameters
        ----------
        text, lines
            Whole lines, and the number of lines.

        Returns
        -------
        tuple or None
            Keys, and vectors, float64, shape (n, dim); None if a line is malformed.
        """
        dim = self._dim
        room = min(lines, len(text) // (2 * dim + 1))
        values = np.empty((room, dim))
        keys: Ints = self._scratch.array("keys", (2, room), "i8")
        others: Ints = self._scratch.array("others", (3, room * dim + 1), "i8")
        data = np.frombuffer(text, np.uint8)
        count = self._function(
            *(data.ctypes.data, len(data), dim, room),
            *(FACTORS.ctypes.data, SIGNED_DIVISORS.ctypes.data),
            *(values.ctypes.data, keys[0].ctypes.data, keys[1].ctypes.data),
            *(others[0].ctypes.data, others[1].ctypes.data, others[2].ctypes.data),
        )
        if count < 0:
            return None
        left = int(others[0, 0])
        if left:
            places, begins, ends = others[:, 1 : left + 1]
            bounds = zip(begins.tolist(), ends.tolist(), strict=True)
            found, wrong = read_each([text[begin:end] for begin, end in bounds])
            if wrong >= 0:
                return None
            values.reshape(-1)[places] = found
        bounds = zip(keys[0, :count].tolist(), keys[1, :count].tolist(), strict=True)
        return [text[begin:end] for begin, end in bounds], values[:count]


def _eight_bytes(data: Any, at: int) -> Any:
    """Load eight bytes as a little-endian word, in which each digit has its value."""
    word = (
        np.uint64(data[at])
        | np.uint64(data[at + 1]) << np.uint64(8)
        | np.uint64(data[at + 2]) << np.uint64(16)
        | np.uint64(data[at + 3]) << np.uint64(24)
        | np.uint64(data[at + 4]) << np.uint64(32)
        | np.uint64(data[at + 5]) << np.uint64(40)
        | np.uint64(data[at + 6]) << np.uint64(48)
        | np.uint64(data[at + 7]) << np.uint64(56)
    )
    return word ^ np.uint64(0x3030303030303030)


def _count_digits(word: Any) -> Any:
    """Count the digits before the first byte that is no digit."""
    over = word + np.uint64(0x7676767676767676)  # sets the highest bit of bytes from 10 on
    over = (over | word) & np.uint64(0x8080808080808080)
    if over == np.uint64(0):
        return 8
    first = over & (~over + np.uint64(1))  # the lowest set bit
    return np.int64((first >> np.uint64(7)) * np.uint64(0x0001020304050607) >> np.uint64(56))


def _join_digits(word: Any, count: int) -> Any:
    """Compute the number that the first `count` digits of a word are, 1 to 8 of them."""
    word <<= np.uint64(64 - 8 * count)
    word = word * np.uint64(10) + (word >> np.uint64(8))
    fours = (word >> np.uint64(16) & np.uint64(0x000000FF000000FF)) * np.uint64(1 + (10_000 << 32))
    word = (word & np.uint64(0x000000FF000000FF)) * np.uint64(100 + (1_000_000 << 32))
    return np.int64((word + fours) >> np.uint64(32))


def _parse_rows(
    data: Any,
    size: int,
    dim: int,
    room: int,
    factors: Any,
    divisors: Any,
    values: Any,
    key_begins: Any,
    key_ends: Any,
    places: Any,
    begins: Any,
    ends: Any,
) -> int:
    """Parse whole lines.

    Numbers of an unusual form are not parsed: `places`, `begins` and `ends` list their positions in
    `values` and their bounds in `data`, from index 1 on. ``places[0]`` is their number.

    Parameters
    ----------
    data, size
        Pointer to the text, and its length in bytes.
    dim
        Number of numbers in each row.
    room
        Greatest number of rows.
    factors, divisors
        Pointers to `FACTORS` and `SIGNED_DIVISORS`.
    values, key_begins, key_ends, places, begins, ends
        Pointers to the output.

    Returns
    -------
    int
        Number of rows, -1 if a line is malformed.
    """
    count, left, at = 0, 0, 0
    while at < size:
        begin = at
        while data[at] == 32 or data[at] == 9:
            at += 1
        if data[at] == 10:  # an empty line
            at += 1
            continue
        if count == room:
            return -1
        at = begin
        while data[at] != 32 and data[at] != 9 and data[at] != 10:
            at += 1  # most keys end at the first separator
        known, whole = left, False
        for attempt in range(2):
            left, place, start = known, 0, at
            while place < dim:
                while data[at] == 32 or data[at] == 9:
                    at += 1
                if data[at] == 10:
                    break
                field, negative, fine = at, int(data[at] == 45), False
                if place == 0:
                    start = at
                if at + 20 <= size:
                    at += negative
                    head = np.int64(data[at]) - 48
                    word = _eight_bytes(data, at + 2)
                    digits = _count_digits(word)
                    if 0 <= head <= 9 and data[at + 1] == 46 and digits > 0:
                        number = _join_digits(word, digits)
                        at += 2 + digits
                        if digits == 8:
                            word = _eight_bytes(data, at)
                            more = _count_digits(word)
                            if more > 0:
                                number = number * factors[more] + _join_digits(word, more)
                                at += more
                                digits += more
                        number += head * factors[digits]
                        fine = number <= 9007199254740992  # 2**53
                        index = digits + 17 * negative
                        values[count * dim + place] = np.float64(number) / divisors[index]
                if not (fine and (data[at] == 32 or data[at] == 10 or data[at] == 9)):
                    while data[at] != 32 and data[at] != 9 and data[at] != 10:
                        at += 1
                    left += 1
                    places[left], begins[left], ends[left] = count * dim + place, field, at
                place += 1
            while data[at] == 32 or data[at] == 9:
                at += 1
            if place == dim and data[at] == 10:
                whole = True
                break
            if attempt:
                break
            while data[at] != 10:
                at += 1
            # The key has separators: find the first number from the end of the line.
            for _ in range(dim):
                while at > begin and (data[at - 1] == 32 or data[at - 1] == 9):
                    at -= 1
                while at > begin and data[at - 1] != 32 and data[at - 1] != 9:
                    at -= 1
            if at == begin:
                return -1
        if not whole or start <= begin:
            return -1
        key_begins[count] = begin
        key_ends[count] = start - 1
        count += 1
        at += 1
    places[0] = left
    return count


KERNEL = Kernel(
    _parse_rows,
    *("uint8*", "int64", "int64", "int64", "int64*", "float64*"),
    *("float64*", "int64*", "int64*", "int64*", "int64*", "int64*"),
    helpers=(_eight_bytes, _count_digits, _join_digits),
)
