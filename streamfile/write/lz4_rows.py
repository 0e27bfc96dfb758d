"""Whole files as the rows of a table: one LZ4 frame, in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lz4.frame  # type: ignore[import-untyped]

from streamfile.write.database import Record

CHUNK = 16 << 20  # bytes of a file that become a row


def frame_rows(file: Path, *first: int) -> Iterator[Record]:
    """Compress a file to one LZ4 frame, in rows that each begin with the same values."""
    compressor = lz4.frame.LZ4FrameCompressor()
    head = compressor.begin(file.stat().st_size)
    with file.open("rb") as stream:
        chunk = stream.read(CHUNK)
        while True:
            following = stream.read(CHUNK)
            data = head + (compressor.compress(chunk) if chunk else b"")
            if not following:
                yield (*first, data + compressor.flush())
                return
            yield (*first, data)
            head, chunk = b"", following
