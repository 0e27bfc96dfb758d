"""Decoder of the LZ4 frame format, block by block; decoding can go on after any block.

https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import xxhash

from streamfile.errors import FormatError

MAGIC = b"\x04\x22\x4d\x18"
SHORTEST_HEADER, LONGEST_HEADER = 7, 19
HISTORY = 64 << 10  # bytes of earlier content that a linked block can refer to
HIGHEST_RATIO = 255  # greatest ratio of content to compressed bytes
USUAL_RATIO, SLACK = 32, 1 << 20
RAW = 1 << 31  # bit of a block's size that marks an uncompressed block

VERSION, VERSION_MASK = 0b01000000, 0b11000000
INDEPENDENT, BLOCK_CHECKSUM, CONTENT_SIZE, CONTENT_CHECKSUM = 0b100000, 0b10000, 0b1000, 0b100
DICTIONARY, RESERVED_FLAGS, RESERVED_SIZES = 0b1, 0b10, 0b10001111


@dataclass(frozen=True)
class Header:
    """Header of a frame.

    Attributes
    ----------
    data
        Bytes of the header.
    linked
        Whether blocks can refer to the content of earlier blocks.
    block_checksum, content_checksum
        Whether a checksum follows each block, and the content.
    content_size
        Length of the whole content in bytes, None if the header does not tell it.
    most_block
        Greatest length of a block's content in bytes.
    """

    data: bytes
    linked: bool
    block_checksum: bool
    content_checksum: bool
    content_size: int | None
    most_block: int


class FrameDecoder:
    """Decoder of one frame, from pieces of any length.

    Parameters
    ----------
    name
        Name of the source, for error messages.
    stored
        Length of the whole frame in bytes, which limits the content: to 32 times this length and
        1 MiB. A content size in the header replaces this limit, up to 255 times this length.

    Attributes
    ----------
    header
        Header of the frame, None until it is complete.
    consumed, produced
        Number of bytes of the frame up to the end of the last decoded block, and of the content.
    most
        Greatest permitted length of the content in bytes.
    ended
        Whether the end of the frame was read.
    """

    def __init__(self, name: str, stored: int) -> None:
        self.header: Header | None = None
        self.consumed = self.produced = 0
        self.ended = False
        self._name = name
        self._stored = stored
        self.most = USUAL_RATIO * stored + SLACK
        self._waiting = bytearray()
        self._history: bytes | memoryview = b""
        self._digest = xxhash.xxh32()

    def decode(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Yield the content of the blocks that the next bytes of the frame complete.

        Parameters
        ----------
        data
            Next bytes of the frame, any number.

        Yields
        ------
        bytes
            Content of each block. The iterator must be exhausted before the next call.

        Raises
        ------
        FormatError
            The data is no LZ4 frame, is damaged, expands too much, or goes on behind the frame.
        """
        self._waiting += data
        if self.header is None:
            self.header = self._read_header()
            if self.header is None:
                return
            self._advance(len(self.header.data))
        while not self.ended and len(self._waiting) >= 4:
            word = int.from_bytes(self._waiting[:4], "little")
            if word == 0:
                if not self._end(self.header):
                    return
                break
            length = word & (RAW - 1)
            if length > self.header.most_block:
                raise self._damaged(
                    f"a block of {length:,} bytes, where {self.header.most_block:,} are the most"
                )
            whole = 4 + length + 4 * self.header.block_checksum
            if len(self._waiting) < whole:
                return
            content = self._block(self.header, bytes(self._waiting[4:whole]), length, word)
            self._advance(whole)
            self._learn(self.header, content)
            yield content
        if self.ended and self._waiting:
            raise self._damaged("further bytes behind the end of its LZ4 frame")

    def restore(self, consumed: int, produced: int, content: Iterable[bytes]) -> None:
        """Restore the state behind a block, in a decoder that has read only the header.

        Parameters
        ----------
        consumed, produced
            Values of these attributes behind that block.
        content
            Content up to that block, in pieces: all of it if the frame has a content checksum,
            else at least its last 64 KiB.
        """
        assert self.header is not None
        for piece in content:
            self._learn(self.header, piece)
        self.consumed, self.produced = consumed, produced

    def finish(self) -> None:
        """Raise an error if the frame is not complete.

        Raises
        ------
        FormatError
            The end of the frame is missing.
        """
        if not self.ended:
            raise self._damaged(
                f"an LZ4 frame that is cut off: {self._stored:,} bytes without its end"
            )

    def _read_header(self) -> Header | None:
        data = bytes(self._waiting[:LONGEST_HEADER])
        if data[:4] != MAGIC[: len(data)]:
            raise self._damaged(f"no LZ4 frame: expected {MAGIC!r} first, found {data[:4]!r}")
        if len(data) < SHORTEST_HEADER:
            return None
        flags, sizes = data[4], data[5]
        if flags & VERSION_MASK != VERSION or flags & RESERVED_FLAGS or sizes & RESERVED_SIZES:
            raise self._damaged(f"an LZ4 frame with the unknown flags {flags:#04x} {sizes:#04x}")
        if flags & DICTIONARY:
            raise self._damaged("an LZ4 frame that needs a dictionary")
        if sizes >> 4 < 4:
            raise self._damaged(f"an LZ4 frame with the unknown block size {sizes >> 4}")
        length = SHORTEST_HEADER + (8 if flags & CONTENT_SIZE else 0)
        if len(data) < length:
            return None
        if xxhash.xxh32_intdigest(data[4 : length - 1]) >> 8 & 0xFF != data[length - 1]:
            raise self._damaged("an LZ4 frame whose header has a wrong checksum")
        content_size = None
        if flags & CONTENT_SIZE:
            content_size = self.most = int.from_bytes(data[6:14], "little")
            if content_size > HIGHEST_RATIO * self._stored:
                raise self._damaged(
                    f"an LZ4 frame of {self._stored:,} bytes that claims {content_size:,} bytes of "
                    "content, more than LZ4 can make of them"
                )
        return Header(
            data=data[:length],
            linked=not flags & INDEPENDENT,
            block_checksum=bool(flags & BLOCK_CHECKSUM),
            content_checksum=bool(flags & CONTENT_CHECKSUM),
            content_size=content_size,
            most_block=1 << 2 * (sizes >> 4) + 8,
        )

    def _block(self, header: Header, block: bytes, length: int, word: int) -> bytes:
        """Decode one block of `length` bytes, and check the checksum that may follow it."""
        stored = block[:length]
        if header.block_checksum:
            self._check(stored, block[length:], f"block at byte {self.consumed:,}")
        if word & RAW:
            content = stored
        else:
            import lz4.block  # type: ignore[import-untyped]  # importing is to be cheap

            try:
                content = lz4.block.decompress(
                    stored, uncompressed_size=header.most_block, dict=self._history
                )
            except lz4.block.LZ4BlockError:
                raise self._damaged(
                    f"a block at byte {self.consumed:,} of its LZ4 frame that cannot be decoded"
                ) from None
        if self.produced + len(content) > self.most:
            raise self._damaged(
                f"an LZ4 frame that expands beyond {self.most:,} bytes, the most that "
                f"{self._stored:,} bytes are taken to hold"
                if header.content_size is None
                else f"an LZ4 frame with more content than the {self.most:,} bytes it tells of"
            )
        return content

    def _learn(self, header: Header, content: bytes) -> None:
        """Add content to the length, to the checksum, and to the history for linked blocks."""
        self.produced += len(content)
        if header.content_checksum:
            self._digest.update(content)
        if header.linked:
            if len(content) < HISTORY:
                content = bytes(self._history[len(content) - HISTORY :]) + content
            self._history = memoryview(content)[-HISTORY:]

    def _end(self, header: Header) -> bool:
        """Read and check the end of the frame, and tell whether the end is complete."""
        length = 8 if header.content_checksum else 4
        if len(self._waiting) < length:
            return False
        if header.content_size is not None and self.produced != header.content_size:
            raise self._damaged(
                f"an LZ4 frame with {self.produced:,} bytes of content, where its header says "
                f"{header.content_size:,}"
            )
        if header.content_checksum:
            told = bytes(self._waiting[4:8])
            if self._digest.intdigest().to_bytes(4, "little") != told:
                raise self._damaged("an LZ4 frame whose content has a wrong checksum")
        del self._waiting[:length]  # not consumed: a restored decoder reads it again
        self.ended = True
        return True

    def _check(self, data: bytes, told: bytes, what: str) -> None:
        if xxhash.xxh32_intdigest(data).to_bytes(4, "little") != told:
            raise self._damaged(f"a {what} of its LZ4 frame with a wrong checksum")

    def _advance(self, length: int) -> None:
        del self._waiting[:length]
        self.consumed += length

    def _damaged(self, what: str) -> FormatError:
        return FormatError(
            f"{self._name}: malformed: {what}. Was the file damaged? Download or convert it again"
        )
