"""Compiled encoder of rows, used if numba is installed (extra ``fast``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from streamfile._arrays import Bytes, Doubles, Ints
from streamfile._jit import Kernel
from streamfile.format.records import NUMBER_SIZES
from streamfile.write.records import WIDTH, header_sizes, number_types


class CompiledEncoder:
    """Encoder of vectors as records.

    Parameters
    ----------
    function
        The compiled `KERNEL`.
    dim
        Number of dimensions of each vector.
    scale
        Factor of the components of unit vectors, 10**precision.
    counts
        Histograms of the components, int64, shape (dim * bins,), which `encode` updates, see
        `Quantizer`.
    """

    def __init__(self, function: Callable[..., int], dim: int, scale: int, counts: Ints) -> None:
        self._function, self._dim, self._scale = function, dim, float(scale)
        self._counts = counts.reshape(dim, -1)
        self._ints = np.empty(2 * dim, np.int32)

    def encode(
        self, keys: Sequence[bytes], vectors: Doubles, lengths: Doubles, magnitudes: Doubles
    ) -> tuple[Bytes, Ints]:
        """Quantise vectors, encode them as records, and count their components.

        Parameters
        ----------
        keys
            Keys in UTF-8, n of them.
        vectors, lengths
            Vectors, shape (n, dim), and the divisor of each vector, shape (n,).
        magnitudes
            Stored magnitude of each vector, shape (n,).

        Returns
        -------
        data, sizes
            The records, see `encode_rows`.
        """
        count, dim = vectors.shape
        vectors = np.ascontiguousarray(vectors)
        key_sizes = np.fromiter(map(len, keys), np.int64, count)
        kinds, numbers = number_types(magnitudes)
        headers, key_types = header_sizes(key_sizes, dim)
        number_sizes = NUMBER_SIZES[kinds]
        sizes = np.empty(count, np.int64)
        room = int(headers.sum() + key_sizes.sum()) + count * (WIDTH * dim + 8) + WIDTH
        data = np.empty(room, np.uint8)
        key_data = np.frombuffer(b"".join(keys) or b"\0", np.uint8)
        total = self._function(
            *(vectors.ctypes.data, lengths.ctypes.data, count, dim, self._scale),
            *(self._counts.ctypes.data, self._counts.shape[1], self._ints.ctypes.data),
            *(key_data.ctypes.data, key_sizes.ctypes.data, key_types.ctypes.data),
            *(headers.ctypes.data, kinds.ctypes.data),
            *(numbers.ctypes.data, number_sizes.ctypes.data),
            *(data.ctypes.data, sizes.ctypes.data),
        )
        return data[:total], sizes


def _put_varint(data: Any, at: int, value: int) -> int:
    """Encode a varint below 2**28, and return the offset behind it."""
    for shift in (21, 14, 7):
        if value >> shift:
            data[at] = value >> shift & 0x7F | 0x80
            at += 1
    data[at] = value & 0x7F
    return at + 1


def _encode_rows(
    vectors: Any,
    lengths: Any,
    count: int,
    dim: int,
    scale: float,
    counts: Any,
    bins: int,
    ints: Any,
    keys: Any,
    key_sizes: Any,
    key_types: Any,
    headers: Any,
    kinds: Any,
    numbers: Any,
    number_sizes: Any,
    data: Any,
    sizes: Any,
) -> int:
    """Encode rows, given as pointers to arrays, and return the length of all records in bytes."""
    at, key = 0, 0
    middle = bins // 2
    for row in range(count):
        begin, base, length = at, row * dim, lengths[row]
        at = _put_varint(data, at, headers[row])
        types = _put_varint(data, at, key_types[row])
        for column in range(dim):  # LLVM vectorises this loop and the next one
            part = min(max(vectors[base + column] / length, -1.0), 1.0)
            ints[column] = np.int32(np.rint(part * scale))
            ints[dim + column] = np.int32(part * middle)
        for column in range(dim):
            value = ints[column]
            bits = value ^ (value >> 31)
            size = 1 + (bits > 0x7F) + (bits > 0x7FFF) + (bits > 0x7FFFFF)
            data[types + column] = value + 8 if value == 0 or value == 1 else size
        data[types + dim] = kinds[row]
        at = types + dim + 1
        for place in range(key_sizes[row]):
            data[at + place] = keys[key + place]
        key += key_sizes[row]
        at += key_sizes[row]
        for column in range(dim):
            counts[column * bins + middle + ints[dim + column]] += 1
            size = np.int64(data[types + column])
            if size >= 8:
                continue
            value = np.uint64(np.uint32(ints[column])) << np.uint64(32 - 8 * size)
            data[at] = value >> np.uint64(24) & np.uint64(255)  # LLVM joins the four stores
            data[at + 1] = value >> np.uint64(16) & np.uint64(255)
            data[at + 2] = value >> np.uint64(8) & np.uint64(255)
            data[at + 3] = value & np.uint64(255)
            at += size
        size = number_sizes[row]
        for place in range(size):
            data[at + place] = numbers[8 * row + 8 - size + place]
        at += size
        sizes[row] = at - begin
    return at


KERNEL = Kernel(
    _encode_rows,
    *("float64*", "float64*", "int64", "int64", "float64", "int64*", "int64", "int32*"),
    *("uint8*", "int64*", "int64*", "int64*", "uint8*", "uint8*", "int64*"),
    *("uint8*", "int64*"),
    helpers=(_put_varint,),
)
