"""Compiled decoder of usual leaf pages, used if numba is installed (extra ``fast``).

It refuses rows that overflow their page, integers of more than four bytes, and malformed pages.
numpy code decodes such pages, or raises the error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from streamfile._arrays import Bytes, Floats, Ints
from streamfile._jit import Kernel
from streamfile.format.records import Keys, Scratch

Decoded = tuple[Ints, Floats, Keys]
LEAST_ROW = 4  # bytes of a row without its dimensions


class CompiledDecoder:
    """Decoder of vectors of unit length.

    Parameters
    ----------
    function
        The compiled `KERNEL`.
    usable
        Usable size of a page in bytes.
    dim, precision
        Fields of `Format`.
    """

    def __init__(self, function: Callable[..., int], usable: int, dim: int, precision: int) -> None:
        self._function = function
        self._usable, self._dim = usable, dim
        self._scale = float(np.float32(10**precision))

    def decode(self, data: Bytes, starts: Ints, scratch: Scratch) -> Decoded | None:
        """Decode leaf pages.

        Parameters
        ----------
        data, starts
            Pages from `Pages.block`.
        scratch
            Arrays for the vectors.

        Returns
        -------
        tuple or None
            Consecutive row ids, vectors and keys; None if a page is unusual or has no rows.
        """
        room = len(starts) * self._usable // (self._dim + LEAST_ROW)
        vectors = scratch.array("vectors", (room, self._dim), "f4")
        rowids, begins, ends = scratch.array("rows", (3, room), "i8")
        starts = np.ascontiguousarray(starts, np.int64)
        count = self._function(
            *(data.ctypes.data, len(data), starts.ctypes.data, len(starts)),
            *(self._usable, self._dim, self._scale, vectors.ctypes.data, room),
            *(rowids.ctypes.data, begins.ctypes.data, ends.ctypes.data),
        )
        if count <= 0:
            return None
        return rowids[:count], vectors[:count], Keys(data, begins[:count], ends[:count])


def _read_varint(data: Any, at: int) -> tuple[int, int]:
    """Decode a varint of up to eight bytes.

    Returns
    -------
    value, next
        The value, -1 of a longer varint, and the offset behind it.
    """
    value = 0
    for _ in range(8):
        byte = data[at]
        at += 1
        value = value << 7 | byte & 127
        if byte < 128:
            return value, at
    return -1, at


def _decode_pages(
    data: Any,
    size: int,
    starts: Any,
    pages: int,
    usable: int,
    dim: int,
    scale: float,
    vectors: Any,
    room: int,
    rowids: Any,
    begins: Any,
    ends: Any,
) -> int:
    """Decode leaf pages, given as pointers to arrays.

    Returns
    -------
    int
        Number of rows, -1 if a page is unusual.
    """
    count = 0
    for page in range(pages):
        base = starts[page]
        if base < 0 or base + usable > size - 18 or data[base] != 13:
            return -1
        cells = data[base + 3] << 8 | data[base + 4]
        if 8 + 2 * cells > usable:
            return -1
        edge = base + usable  # each cell must end before the cell that precedes it begins
        for cell in range(cells):
            pointer = base + 8 + 2 * cell
            begin = base + (data[pointer] << 8 | data[pointer + 1])
            if begin + 4 > edge or count >= room:
                return -1
            length, at = _read_varint(data, begin)
            if length < 0 or length > usable - 35:
                return -1
            rowid, start = _read_varint(data, at)
            end = start + length
            if rowid < 0 or end > edge or (count and rowid != rowids[count - 1] + 1):
                return -1
            header, at = _read_varint(data, start)
            key_type, at = _read_varint(data, at)
            body = start + header
            if at + dim + 1 != body or key_type < 13 or key_type % 2 == 0:
                return -1
            value = body + (key_type - 13) // 2
            kind = data[body - 1]
            if value > end or kind > 9:
                return -1
            rowids[count] = rowid
            begins[count] = body
            ends[count] = value
            last = end
            if kind < 5:
                last -= kind
            elif kind == 5:
                last -= 6
            elif kind < 8:
                last -= 8
            total, constants, unusual = 0, 0, 0
            for column in range(dim):
                code = data[at + column]
                constant = (code == 8) | (code == 9)
                constants |= constant
                unusual |= ((code < 1) | (code > 4)) & (not constant)
                total += 0 if constant else code
            if unusual or value + total != last:
                return -1
            out = count * dim
            for column in range(dim):
                code = data[at + column]
                if constants and code >= 8:
                    vectors[out + column] = np.float32(code - 8)
                    continue
                word = (  # LLVM joins the eight loads
                    data[value] << 56
                    | data[value + 1] << 48
                    | data[value + 2] << 40
                    | data[value + 3] << 32
                    | data[value + 4] << 24
                    | data[value + 5] << 16
                    | data[value + 6] << 8
                    | data[value + 7]
                )
                vectors[out + column] = np.float32(np.int64(word) >> np.int64(64 - 8 * code))
                value += code
            for column in range(out, out + dim):  # LLVM vectorises this loop
                vectors[column] /= scale
            edge = begin
            count += 1
    return count


KERNEL = Kernel(
    _decode_pages,
    *("uint8*", "int64", "int64*", "int64", "int64", "int64", "float32"),
    *("float32*", "int64", "int64*", "int64*", "int64*"),
    helpers=(_read_varint,),
)
