"""Vectorised parser of decimal numbers, correctly rounded.

Eight digits at a time are converted in one 64-bit word (Lemire 2021, "Number Parsing at a Gigabyte
per Second", doi:10.1002/spe.2984). If the digits are an integer up to 2**53 and the power of ten
that divides it is at most 10**22, both are exact doubles, and one division rounds correctly
(Clinger 1990, "How to Read Floating Point Numbers Accurately", doi:10.1145/93542.93557). Python
converts numbers of any other form.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Doubles, Ints

MARGIN = 16
MOST_DECIMALS = 16  # digits of two words
NUMERALS = b"0123456789+-.eE" + b"nNaAiIfFtTyY"  # the letters are of nan, inf, infinity

Words = npt.NDArray[np.uint64]

# One digit precedes the decimals. With 16 decimals the number can exceed 2**53, but not 2**64.
POWERS: Words = 10 ** np.arange(MOST_DECIMALS + 1, dtype=np.uint64)
DIVISORS = POWERS.astype(np.float64)
# Masks of the last `count` characters of a little-endian word.
LAST_BYTES: Words = np.array(
    [(1 << 64) - (1 << 64 - 8 * min(count, 8)) for count in range(MOST_DECIMALS + 1)], np.uint64
)


def word(value: int) -> Any:
    """Make a uint64 constant, because some numpy versions convert uint64 and int to float64."""
    return np.uint64(value)


def parse_decimals(text: bytes, ends: Ints, sizes: Ints) -> tuple[Doubles, int]:
    """Parse numbers at given places of a text.

    Parameters
    ----------
    text
        Text with at least `MARGIN` bytes before and behind the numbers.
    ends
        Offset behind each number, rising, int64, shape (n,).
    sizes
        Number of characters of each number, int64, shape (n,).

    Returns
    -------
    values, wrong
        The numbers, float64, shape (n,), and the position of the first field that is no number,
        -1 if all are numbers.
    """
    if not len(ends):
        return np.empty(0), -1
    base = int(ends[0] - sizes[0]) - MARGIN
    data = np.frombuffer(text, np.uint8)[base : int(ends[-1]) + MARGIN]
    # A gather is fast only from aligned words: make an array of the word at each byte.
    every = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,)).astype(np.uint64)
    last = ends - base
    head = every.take(last - sizes, mode="clip")
    negative = head & word(0xFF) == word(ord("-"))
    head >>= negative.astype(np.uint64) << word(3)
    decimals = sizes - negative - 2  # less one digit and the point
    usual = head & word(0xFF00) == word(ord(".") << 8)
    head &= word(0xFF)
    head -= word(ord("0"))
    usual &= head <= word(9)
    usual &= decimals <= MOST_DECIMALS
    np.clip(decimals, 1, MOST_DECIMALS, out=decimals)
    whole, valid = _eight_digits(every.take(last - 8, mode="clip"), LAST_BYTES.take(decimals))
    usual &= valid
    long = np.flatnonzero(decimals > 8)
    if len(long):
        masks = LAST_BYTES.take(decimals[long] - 8)
        upper, valid = _eight_digits(every.take(last[long] - 16), masks)
        usual[long] &= valid
        upper *= word(10**8)
        whole[long] += upper
    head *= POWERS.take(decimals)
    whole += head
    usual &= whole <= word(1 << 53)
    values = whole.astype(np.float64)
    values /= DIVISORS.take(decimals)
    values.view(np.uint64)[...] |= negative.astype(np.uint64) << word(63)
    wrong = -1
    if not usual.all():
        which = np.flatnonzero(~usual)
        bounds = zip((ends - sizes)[which].tolist(), ends[which].tolist(), strict=True)
        found, wrong = read_each([text[start:end] for start, end in bounds])
        values[which[: len(found)]] = found
        wrong = wrong if wrong < 0 else int(which[wrong])
    return values, wrong


def _eight_digits(words: Words, masks: Words) -> tuple[Words, npt.NDArray[np.bool_]]:
    """Convert the masked characters of each word to a number, and tell whether all are digits."""
    words ^= word(0x3030303030303030)  # a digit becomes its value
    words &= masks
    over = words + word(0x7676767676767676)  # sets the highest bit of bytes from 10 on
    over |= words
    over &= word(0x8080808080808080)
    pairs = words >> word(8)
    words *= word(10)
    words += pairs
    fours = words >> word(16)
    fours &= word(0x000000FF000000FF)
    fours *= word(1 + (10_000 << 32))
    words &= word(0x000000FF000000FF)
    words *= word(100 + (1_000_000 << 32))
    words += fours
    words >>= word(32)
    return words, over == word(0)


def read_each(numbers: list[bytes]) -> tuple[list[float], int]:
    """Convert numbers one by one, up to the first field that is no number.

    Returns
    -------
    values, wrong
        The numbers before that field, and its position, -1 if all fields are numbers.
    """
    if not b"".join(numbers).translate(None, NUMERALS):
        try:
            return list(map(float, numbers)), -1
        except ValueError:
            pass
    values: list[float] = []
    for place, number in enumerate(numbers):
        # Python's `float` also takes spaces and underscores.
        if number.translate(None, NUMERALS):
            return values, place
        try:
            values.append(float(number))
        except ValueError:
            return values, place
    return values, -1
