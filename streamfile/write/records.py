"""Vectorised encoding of rows of the table ``magnitude`` as SQLite records.

https://sqlite.org/fileformat2.html, section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Bytes, Doubles, Ints
from streamfile.format.records import NUMBER_SIZES, SIZES

WIDTH = 4  # bytes of the widest integer
NULL, REAL, ZERO = 0, 7, 8  # serial types; 9 is the serial type of the integer 1
LEAST_TEXT = 13

Mask = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int32]

# Whether each byte of a big-endian integer is stored, by serial type.
STORED = np.arange(WIDTH) >= WIDTH - np.minimum(SIZES[:10, None], WIDTH)


def encode_rows(keys: Sequence[bytes], ints: Integers, magnitudes: Doubles) -> tuple[Bytes, Ints]:
    """Encode records of a key, integers and a magnitude.

    Parameters
    ----------
    keys
        Keys in UTF-8, n of them, at least one.
    ints
        Quantised components, int32, shape (n, dim).
    magnitudes
        Magnitudes of at least 0, or NaN, float64, shape (n,).

    Returns
    -------
    data, sizes
        The joined records, uint8, and the length of each record in bytes, int64, shape (n,).
    """
    count, dim = ints.shape
    lengths = np.fromiter(map(len, keys), np.int64, count)
    types = integer_types(ints)
    kinds, numbers = number_types(magnitudes)
    header, key_types = header_sizes(lengths, dim)
    sizes = header + lengths + NUMBER_SIZES[kinds]
    sizes += SIZES[types].sum(axis=1, dtype=np.int64)
    # Make each record of the greatest width of its parts, and a mask of the bytes to store.
    longest = max(1, int(lengths.max()))
    padded = np.array(keys, f"S{longest}").view(np.uint8).reshape(count, longest)
    parts = [
        *(varints(header), varints(key_types)),
        (types, np.ones((1, dim), bool)),
        (kinds[:, None], np.ones((1, 1), bool)),
        (padded, np.arange(longest, dtype=np.int32) < lengths[:, None]),
        (
            ints.astype(">i4").view(np.uint8),
            STORED.view(np.uint32)[:, 0][types].view(bool),
        ),
        (numbers, np.arange(8) >= 8 - NUMBER_SIZES[kinds][:, None]),
    ]
    width = sum(part.shape[1] for part, _ in parts)
    wide, mask = np.empty((count, width), np.uint8), np.empty((count, width), bool)
    at = 0
    for part, stored in parts:
        columns = slice(at, at + part.shape[1])
        wide[:, columns], mask[:, columns] = part, stored
        at = columns.stop
    return wide[mask], sizes


def header_sizes(lengths: Ints, dim: int) -> tuple[Ints, Ints]:
    """Compute the header length of each record in bytes, and the serial type of its key.

    Parameters
    ----------
    lengths
        Length of each key in bytes, int64, shape (n,).
    dim
        Number of dimensions of each vector.
    """
    key_types = 2 * lengths + LEAST_TEXT
    sizes = varint_sizes(key_types) + dim + 1
    sizes += varint_sizes(sizes + varint_sizes(sizes))
    return sizes, key_types


def integer_types(ints: Integers) -> Bytes:
    """Compute the serial types of integers, those with the fewest bytes, uint8."""
    bits = ints ^ (ints >> 31)
    types = (bits > 0x7F).view(np.uint8) + np.uint8(1)
    types += bits > 0x7FFF
    types += bits > 0x7FFFFF
    constant = ints.view(np.uint32) <= 1
    np.copyto(types, ints + ZERO, where=constant, casting="unsafe")
    return types


def number_types(reals: Doubles) -> tuple[Bytes, Bytes]:
    """Encode numbers as SQLite stores them in a REAL column.

    An integral number is stored as an integer if that is shorter, which section 2.1 of the file
    format permits. NaN is stored as NULL.

    Returns
    -------
    kinds, numbers
        Serial types, uint8, shape (n,), and big-endian numbers, uint8, shape (n, 8), of which the
        last bytes are stored.
    """
    kinds = np.full(len(reals), REAL, np.uint8)
    whole = np.flatnonzero((reals == np.rint(reals)) & (reals < 1 << 47))
    integers = reals[whole].astype(np.int64)
    kinds[whole] = np.select(
        [integers <= 1, *(integers < 1 << bits for bits in (7, 15, 23, 31))],
        [integers + ZERO, 1, 2, 3, 4],
        5,
    )
    kinds[np.isnan(reals)] = NULL
    numbers = reals.astype(">f8").view(np.uint8).reshape(-1, 8)
    numbers[whole] = integers.astype(">i8").view(np.uint8).reshape(-1, 8)
    return kinds, numbers


def varint_sizes(values: Ints) -> Ints:
    """Compute the lengths in bytes of varints below 2**28."""
    sizes: Ints = 1 + (values > 0x7F) + (values > 0x3FFF) + (values > 0x1FFFFF)
    return sizes


def varints(values: Ints) -> tuple[Bytes, Mask]:
    """Encode varints below 2**28.

    Returns
    -------
    groups, stored
        Four bytes of each varint, uint8, and whether each byte is stored, bool, shape (n, 4).
    """
    groups = (values[:, None] >> np.array([21, 14, 7, 0]) & 0x7F).astype(np.uint8)
    groups[:, :3] |= 0x80
    return groups, np.arange(4) >= 4 - varint_sizes(values)[:, None]
