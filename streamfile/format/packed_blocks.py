"""Compression of numbered blocks into one record."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

HEAD = struct.Struct("<QI")  # number, length
MOST_BODY = 64 << 20  # bytes
MOST_BLOCKS = 1 << 17


def pack_blocks(blocks: Mapping[int, bytes]) -> bytes:
    """Compress blocks, given by number, into one record."""
    pieces = [HEAD.pack(number, len(block)) + block for number, block in blocks.items()]
    return zlib.compress(b"".join(pieces), 9)


def unpack_blocks(record: bytes) -> dict[int, bytes]:
    """Decompress a record of `pack_blocks`; the result is empty if the record is damaged."""
    inflater = zlib.decompressobj()
    blocks: dict[int, bytes] = {}
    at = 0
    try:
        body = inflater.decompress(record, MOST_BODY)
        for _ in range(MOST_BLOCKS):
            if at == len(body):
                break
            number, length = HEAD.unpack_from(body, at)
            at += HEAD.size + length
            blocks[number] = body[at - length : at]
    except (zlib.error, struct.error):
        return {}
    whole = inflater.eof and not inflater.unused_data and at == len(body)
    return blocks if whole else {}
