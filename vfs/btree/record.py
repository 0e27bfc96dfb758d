"""SQLite's record format (https://sqlite.org/fileformat2.html, section 2.1)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vfs.errors import DatabaseError

# The pages of a local file are views of its memory map; only `concatenate` copies them.
Page = bytes | memoryview
Value = int | float | bytes | None
Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

MOST_COLUMNS = 32767  # SQLite's own limit
MARGIN = 18  # bytes of two varints of the greatest length
SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)
FEW = 4  # up to so many varints are decoded faster one by one


def read_varint(data: Page, at: int) -> tuple[int, int]:
    """Decode one varint.

    Returns
    -------
    value, next
        The signed 64-bit value and the offset behind the varint.

    Raises
    ------
    IndexError
        The data ends inside the varint.
    """
    value = 0
    for position in range(at, at + 8):
        byte = data[position]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position + 1
    value = value << 8 | data[at + 8]
    return value - (1 << 64) if value >> 63 else value, at + 9


def read_varints(data: Bytes, at: Ints) -> tuple[Ints, Ints]:
    """Decode many varints at once.

    Parameters
    ----------
    data
        uint8 array with at least nine bytes from every offset on.
    at
        Offsets of the varints, int64, shape (n,).

    Returns
    -------
    values, next
        Signed 64-bit values and the offsets behind the varints, both int64, shape (n,).
    """
    if len(at) <= FEW:
        pairs = [read_varint(data[start : start + 9].tobytes(), 0) for start in at.tolist()]
        sizes = [size for _, size in pairs]
        return np.array([value for value, _ in pairs], np.int64), at + np.array(sizes, np.int64)
    values = np.zeros(len(at), np.int64)
    ends = at.copy()
    more = np.ones(len(at), bool)
    for position in range(9):
        byte = data[at + position].astype(np.int64)
        longer = values << 8 | byte if position == 8 else values << 7 | byte & 0x7F
        values = np.where(more, longer, values)
        ends += more
        more &= byte >= 0x80
        if not more.any():
            break
    return values, ends


def decode_record(payload: bytes) -> list[Value]:
    """Decode a whole record; text values are returned as bytes.

    Raises
    ------
    DatabaseError
        The record is malformed.
    """
    try:
        header, at = read_varint(payload, 0)
        if not at <= header <= len(payload):
            raise DatabaseError(f"malformed record: a header of {header} in {len(payload)} bytes")
        types: list[int] = []
        while at < header:
            kind, at = read_varint(payload, at)
            types.append(kind)
            if len(types) > MOST_COLUMNS:
                raise DatabaseError(f"malformed record: more than {MOST_COLUMNS:,} values")
        values: list[Value] = []
        at = header
        for kind in types:
            length = size_of(kind)
            values.append(_decode(kind, payload[at : at + length], length))
            at += length
    except (IndexError, struct.error):
        raise DatabaseError(f"malformed record: cut off after {len(payload)} bytes") from None
    return values


def size_of(kind: int) -> int:
    """Return the length in bytes of a value of a serial type."""
    if kind >= 12:
        return (kind - 12) // 2
    if 0 <= kind < len(SIZES):
        return SIZES[kind]
    raise DatabaseError(f"malformed record: serial type {kind}")


def _decode(kind: int, data: bytes, length: int) -> Value:
    if len(data) < length:
        raise IndexError
    if kind == 0:
        return None
    if kind == 7:
        number: float = struct.unpack(">d", data)[0]
        return number
    if kind in (8, 9):
        return kind - 8
    if kind < 7:
        return int.from_bytes(data, "big", signed=True)
    return data


def concatenate(pieces: Sequence[Page]) -> tuple[Any, Ints]:
    """Join byte strings for vectorised decoding.

    Returns
    -------
    data, starts
        A uint8 array of the joined strings and 18 zero bytes, enough for two varints, and the
        offset of each string in the array, int64, shape (n,).
    """
    joined = np.frombuffer(b"".join([*pieces, bytes(MARGIN)]), np.uint8)
    starts = np.cumsum([0, *map(len, pieces)])[:-1]
    return joined, starts.astype(np.int64)
