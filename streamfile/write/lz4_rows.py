"""Encoding of a whole file as rows of a table, which together are one LZ4 frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lz4.frame  # type: ignore[import-untyped]

from streamfile.write.database import Record

CHUNK = 16 << 20  # bytes of the file in each row, before compression


def frame_rows(file: Path, *first: int) -> Iterator[Record]:
    """Yield rows that together have a file as one LZ4 frame.

    Parameters
    ----------
    file
        Path of the file.
    *first
        Values of the columns before the blob, equal in all rows.
    """
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
