"""Compact encoding of columns of integers, decoded without a Python object for each value.

A column is stored as its least value and the excess of each value over it. All excesses have the
width of the largest one in bytes, 0 if all values are equal. The high bytes of all excesses come
first, the low bytes last.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from vfs.btree.record import Ints

HEAD = struct.Struct("<qB")
WIDEST = 8
MOST_BODY = 64 << 20


def compress(fields: Iterable[bytes]) -> bytes:
    """Compress joined fields into a record for `Columns`."""
    return zlib.compress(b"".join(fields), 9)


def column(values: npt.ArrayLike) -> bytes:
    """Pack integers into one field."""
    numbers = np.asarray(values, np.int64)
    least = int(numbers.min()) if len(numbers) else 0
    excess = (numbers - least).view(np.uint64)  # modulo 2**64: no difference overflows
    width = (int(excess.max(initial=0)).bit_length() + 7) // 8
    octets = excess.astype(">u8").view(np.uint8).reshape(-1, WIDEST)
    return HEAD.pack(least, width) + octets[:, WIDEST - width :].T.tobytes()


def rising_column(values: npt.ArrayLike) -> bytes:
    """Pack integers as their differences, for columns whose neighbours differ by little."""
    return column(np.diff(np.asarray(values, np.int64), prepend=np.int64(0)))


def runs(arrays: Sequence[Ints]) -> list[bytes]:
    """Pack arrays that are nearly arithmetic progressions, without their lengths."""
    filled = [array for array in arrays if len(array)]
    counts = np.array([len(array) for array in filled], np.int64)
    starts = np.cumsum(counts) - counts
    values = np.concatenate([*filled, np.zeros(0, np.int64)])
    steps = np.diff(values, prepend=np.int64(0))
    steps[starts] = np.iinfo(np.int64).max
    least = np.minimum.reduceat(steps, starts) if filled else steps
    least[counts == 1] = 0
    excess = steps - np.repeat(least, counts)
    excess[starts] = 0
    return [rising_column(values[starts]), column(least), column(excess)]


class Columns:
    """Reader of packed columns, which come in the order in which they were packed.

    Parameters
    ----------
    record
        Record from `compress`.

    Raises
    ------
    ValueError, zlib.error
        The record is damaged. The methods raise ValueError for the same reason.
    """

    def __init__(self, record: bytes) -> None:
        inflater = zlib.decompressobj()
        self._body = inflater.decompress(record, MOST_BODY)
        if not inflater.eof:
            raise ValueError("cut off, or too long")
        self._at = 0

    @property
    def exhausted(self) -> bool:
        """Whether all bytes were read."""
        return self._at == len(self._body)

    def octets(self, count: int) -> bytes:
        """Read the next `count` bytes."""
        begin, self._at = self._at, self._at + count
        if self._at > len(self._body):
            raise ValueError("a column is cut off")
        return self._body[begin : self._at]

    def column(self, count: int) -> Ints:
        """Read a column of `count` integers, int64, shape (count,)."""
        least, width = HEAD.unpack(self.octets(HEAD.size))
        if width > WIDEST:
            raise ValueError(f"integers of {width} bytes")
        values = np.full(count, 0 if width else least, np.int64)
        for octets in np.frombuffer(self.octets(width * count), np.uint8).reshape(width, count):
            values <<= 8
            values |= octets
        return values + least if width else values

    def rising_column(self, count: int) -> Ints:
        """Read a column of `count` integers from the function `rising_column`."""
        return np.cumsum(self.column(count))

    def runs(self, counts: Ints) -> Ints:
        """Read the arrays of the function `runs`, joined into one array.

        Parameters
        ----------
        counts
            Length of each array, int64, shape (arrays,).
        """
        counts = counts[counts > 0]
        starts = np.cumsum(counts) - counts
        firsts, least = self.rising_column(len(counts)), self.column(len(counts))
        values = self.column(int(counts.sum()))
        values += np.repeat(least, counts)
        np.cumsum(values, out=values)
        values += np.repeat(firsts - values[starts], counts)
        return values
