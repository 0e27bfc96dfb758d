"""Encoder of SQLite's record format (https://sqlite.org/fileformat2.html, section 2.1)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from vfs.btree.record import SIZES, Ints, Value

NULL, REAL, BLOB, TEXT = 0, 7, 12, 13
INTEGERS = range(1, 7)  # serial types of integers with a body


def encode_varint(value: int) -> bytes:
    """Encode a signed 64-bit integer as a varint of one to nine bytes.

    Raises
    ------
    ValueError
        The integer has more than 64 bits.
    """
    if 0 <= value < 0x80:
        return bytes((value,))
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"expected an integer of 64 bits, found {value}")
    value &= (1 << 64) - 1
    encoded = bytearray()
    if value >> 56:
        encoded.append(value & 0xFF)
        value >>= 8
        while len(encoded) < 9:
            encoded.append(value & 0x7F | 0x80)
            value >>= 7
    else:
        encoded.append(value & 0x7F)
        while value := value >> 7:
            encoded.append(value & 0x7F | 0x80)
    encoded.reverse()
    return bytes(encoded)


def encode_varints(values: Ints) -> tuple[bytes, Ints]:
    """Encode many integers as varints.

    Parameters
    ----------
    values
        Integers, int64, shape (n,).

    Returns
    -------
    data, ends
        The joined varints, and the offset behind each one, int64, shape (n,).
    """
    whole = values.astype(np.int64).view(np.uint64)
    lengths = np.ones(len(whole), np.int64)
    for bits in range(7, 63, 7):
        lengths += whole >= 1 << bits
    width = int(lengths.max(initial=1))
    longest = lengths == 9  # the last of nine bytes has eight bits of the value
    sevens = np.where(longest, whole >> np.uint64(1), whole)
    columns = np.empty((len(whole), width), np.uint8)
    for place in range(width):
        columns[:, width - 1 - place] = sevens >> np.uint64(7 * place) & 0x7F | 0x80
    columns[:, -1] = np.where(longest, whole & 0xFF, whole & 0x7F)
    used = np.arange(width) >= width - lengths[:, None]
    return columns[used].tobytes(), np.cumsum(lengths)


def encode_record(values: Sequence[Value | str]) -> bytes:
    """Encode a row of a table, or an entry of an index, as a record.

    Parameters
    ----------
    values
        Values of the columns: text as str, blobs as bytes. NaN becomes NULL, as in SQLite.

    Raises
    ------
    ValueError
        An integer has more than 64 bits, or a text has a surrogate, which UTF-8 cannot encode.
    """
    types, body = bytearray(), bytearray()
    for value in values:
        kind, data = _encode(value)
        types += encode_varint(kind)
        body += data
    size = len(types) + 1
    while len(encode_varint(size)) + len(types) != size:
        size = len(encode_varint(size)) + len(types)
    return encode_varint(size) + types + body


def _encode(value: Value | str) -> tuple[int, bytes]:
    """Return the serial type and the bytes of a value."""
    if value is None:
        return NULL, b""
    if isinstance(value, str):
        text = value.encode()
        return TEXT + 2 * len(text), text
    if isinstance(value, bytes):
        return BLOB + 2 * len(value), value
    if isinstance(value, float):
        return (NULL, b"") if value != value else (REAL, struct.pack(">d", value))
    if value in (0, 1):
        return 8 + value, b""
    bits = (value if value >= 0 else ~value).bit_length() + 1
    for kind in INTEGERS:
        if bits <= 8 * SIZES[kind]:
            return kind, value.to_bytes(SIZES[kind], "big", signed=True)
    raise ValueError(f"expected an integer of 64 bits, found {value}")
