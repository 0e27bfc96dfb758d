"""A compiled parser of vectors as text, where numba is installed (extra ``fast``).

Numbers are read as in `_decimals`. What is malformed it refuses, for numpy to tell what is wrong.
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
    """Parses lines of a key and numbers.

    Parameters
    ----------
    function
        The machine code.
    dim
        Numbers of each row.
    """

    def __init__(self, function: Callable[..., int], dim: int) -> None:
        self._function, self._dim = function, dim
        self._scratch = Scratch()

    def parse(self, text: bytes, lines: int) -> tuple[list[bytes], Doubles] | None:
        """Parse rows.

        Parameters
        ----------
        text, lines
            Whole lines, and how many.

        Returns
        -------
        tuple or None
            Keys and vectors; None if a line is malformed.
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
    """Load a little-endian word, digits as their values."""
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
    """Count the digits before the first byte that is none."""
    over = word + np.uint64(0x7676767676767676)  # from 10 on to the highest bit
    over = (over | word) & np.uint64(0x8080808080808080)
    if over == np.uint64(0):
        return 8
    first = over & (~over + np.uint64(1))  # of its bits the lowest
    return np.int64((first >> np.uint64(7)) * np.uint64(0x0001020304050607) >> np.uint64(56))


def _join_digits(word: Any, count: int) -> Any:
    """Give the number that the first digits of a word make, 1 to 8 of them."""
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
    """Parse whole lines, given as pointers: the number of rows, or -1 if one is malformed.

    Numbers that are not written in the usual way are left, with where they are, from place 1 on;
    place 0 tells how many.
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
