"""Reader of word2vec's binary format."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from streamfile._arrays import Floats
from streamfile.errors import FormatError
from streamfile.inputs.base import BATCH, LONGEST_LINE, Batch, Stream, VectorFile, shown

HEADER = re.compile(rb"(\d{1,18})[ \t]+(\d{1,18})[ \t\r]*\n")


class BinaryVectors(VectorFile):
    """Reader of word vectors in word2vec's binary format.

    The header is the number of rows and of dimensions, as text. A row is a key, a space, and
    little-endian 32-bit floats; a newline may follow.
    """

    def _read_head(self, stream: Stream) -> None:
        line = stream.read_line()
        header = HEADER.fullmatch(line)
        if not header:
            raise FormatError(
                f"{self.path}: byte 0: expected word2vec's header (the number of rows and the "
                f"dimensions), found {shown(line)}; of fastText's models convert the .vec file"
            )
        self._header_size = len(line)
        self.declared, self.dim = int(header[1]), self._checked_dim(int(header[2]))

    def batches(self) -> Iterator[Batch]:
        """Yield all rows, see `VectorFile.batches`."""
        self.encoding_errors = 0
        assert self.declared is not None
        left, begin, data = self.declared, self._header_size, b""
        stream = self._stream
        stream.skip_to(begin)
        while left:
            piece = stream.read(BATCH)
            data += piece
            keys, vectors, size = self._parse(data, left)
            left -= len(keys)
            if keys:
                yield Batch(self._valid(keys), vectors, stream.position)
            begin, data = begin + size, data[size:]
            if left and (len(piece) < BATCH or len(data) > LONGEST_LINE + 4 * self.dim):
                raise self._broken(begin, self.declared - left + 1, len(piece) < BATCH)
        data += stream.read(2)
        begin += data.startswith(b"\n")
        if data.removeprefix(b"\n"):
            raise FormatError(
                f"{self.path}: byte {begin:,}: more than the {self.declared:,} rows of "
                f"{self.dim:,} numbers that the header declares"
            )

    def _parse(self, data: bytes, most: int) -> tuple[list[bytes], Floats, int]:
        """Parse at most `most` whole rows.

        Returns
        -------
        keys, vectors, size
            Keys, vectors, float32, shape (n, dim), and the length of the rows in bytes.
        """
        width = 4 * self.dim
        keys: list[bytes] = []
        vectors: list[memoryview] = []
        view, at = memoryview(data), 0
        while len(keys) < most:
            begin = at + (data[at : at + 1] == b"\n")
            space = data.find(b" ", begin)
            if space < 0 or space + 1 + width > len(data):
                break
            at = space + 1 + width
            keys.append(data[begin:space])
            vectors.append(view[space + 1 : at])
        floats = np.frombuffer(b"".join(vectors), "<f4").astype(np.float32, copy=False)
        return keys, floats.reshape(-1, self.dim), at

    def _broken(self, begin: int, row: int, ended: bool) -> FormatError:
        what = "the file ends in it" if ended else "no space behind its key"
        return FormatError(
            f"{self.path}: byte {begin:,}: expected row {row:,} of the {self.declared:,} of "
            f"{self.dim:,} numbers that the header declares, but {what}; is the file whole?"
        )
