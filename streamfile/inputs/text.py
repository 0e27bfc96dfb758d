"""Reader of the text formats of word2vec, fastText and GloVe."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from streamfile._arrays import Bytes, Doubles, Ints
from streamfile._jit import compiled_by_default
from streamfile.errors import FormatError
from streamfile.inputs.base import BATCH, LONGEST_LINE, Batch, Stream, VectorFile, shown
from streamfile.inputs.compiled_text import KERNEL, CompiledParser
from streamfile.inputs.decimals import MARGIN, parse_decimals

HEADER = re.compile(rb"[ \t]*(\d{1,18})[ \t]+(\d{1,18})[ \t\r\n]*")
FIELD = re.compile(rb"[^ \t]+")
PART = 1 << 18  # bytes parsed in one step: small enough for a processor's cache
LEAST_COMPILED = 32 << 20  # bytes of the smallest file that the compiled parser reads


class TextVectors(VectorFile):
    """Reader of word vectors as text, one row in each line.

    A line has a key and `dim` numbers, separated by spaces or tabs. The last `dim` fields are the
    numbers. The text before the numbers, less one separator, is the key; it may have spaces or be
    empty.
    The first line may be a header, the number of rows and of dimensions. Without a header (GloVe)
    the first two lines that are not empty have equally many fields. Empty lines are ignored.
    """

    def _read_head(self, stream: Stream) -> None:
        self._header_size = self._header_lines = 0
        first = self._next_filled(stream, count=True)
        if not first:
            raise FormatError(f"{self.path}: empty; expected lines of a key and numbers")
        second = self._next_filled(stream, count=False)
        fields = count_fields(first)
        header = HEADER.fullmatch(first)
        if header and (not second or count_fields(second) != fields):
            self.declared, self.dim = int(header[1]), self._checked_dim(int(header[2]))
            return
        if second and count_fields(second) != fields:
            raise FormatError(
                f"{self.path}: line {self._header_lines}: expected a header (the number of rows "
                "and the dimensions), or as many fields as in the next line, "
                f"{count_fields(second):,}; found {fields:,}: {shown(first)}"
            )
        self.declared, self.dim = None, self._checked_dim(fields - 1)
        self._header_size = self._header_lines = 0

    def _next_filled(self, stream: Stream, *, count: bool) -> bytes:
        """Read the next line that has fields, without its newline; empty at the end of the file.

        With `count`, the lines read are added to the size of the header.
        """
        while line := stream.read_line():
            if len(line) > LONGEST_LINE:
                raise self._too_long(self._header_lines + 1)
            if count:
                self._header_size += len(line)
                self._header_lines += 1
            if FIELD.search(line := line.strip(b"\r\n")):
                return line
        return b""

    def batches(self) -> Iterator[Batch]:
        """Yield all rows, see `VectorFile.batches`."""
        self.encoding_errors = rows = done = 0
        keys: list[bytes] = []
        parts: list[Doubles] = []
        self._stream.skip_to(self._header_size)
        large = self.size >= LEAST_COMPILED
        function = compiled_by_default(KERNEL) if large else None
        parser = CompiledParser(function, self.dim) if function is not None else None
        for line, lines, text in self._lines(self._stream):
            text = text.replace(b"\r\n", b"\n") if b"\r" in text else text
            more, vectors = (parser and parser.parse(text, lines)) or self._parse(line, text)
            keys += more
            parts.append(vectors)
            rows += len(more)
            done += len(text)
            if done >= BATCH:
                yield Batch(self._valid(keys), np.concatenate(parts), self._stream.position)
                keys, parts, done = [], [], 0
        if keys:
            yield Batch(self._valid(keys), np.concatenate(parts), self._stream.position)
        if self.declared not in (None, rows):
            raise FormatError(
                f"{self.path}: line {self._header_lines}: the header declares {self.declared:,} "
                f"rows of {self.dim:,} numbers, but {rows:,} rows follow; is the file whole?"
            )

    def _lines(self, stream: Stream) -> Iterator[tuple[int, int, bytes]]:
        """Yield (number of the first line, number of lines, text), of many whole lines at once."""
        line, rest = self._header_lines + 1, b""
        while piece := stream.read(PART):
            end = piece.rfind(b"\n") + 1
            if end:
                text = b"".join((rest, memoryview(piece)[:end]))
                lines = int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord("\n")))
                yield line, lines, text
                line += lines
                rest = piece[end:]
            else:
                rest += piece
            if len(rest) > LONGEST_LINE:
                raise self._too_long(line)
        if rest:
            yield line, 1, rest + b"\n"

    def _parse(self, line: int, text: bytes) -> tuple[list[bytes], Doubles]:
        """Parse rows; `line` is the number of the first line, for error messages."""
        text = b"".join((bytes(MARGIN), text, bytes(MARGIN)))
        ends, sizes, breaks = _split(np.frombuffer(text, np.uint8))
        lasts = np.searchsorted(ends, breaks, "right")
        counts = np.diff(lasts, prepend=0)
        filled = np.flatnonzero(counts)
        begins = np.append(MARGIN, breaks[:-1] + 1)[filled]
        lasts, counts, breaks = lasts[filled], counts[filled], breaks[filled]
        if not len(filled):
            return [], np.empty((0, self.dim))
        firsts = lasts - counts
        keyed = (counts > self.dim) | (ends[firsts] - sizes[firsts] > begins)
        short = np.flatnonzero((counts < self.dim) | ~keyed)
        if len(short):
            row = short[0]
            raise FormatError(
                f"{self.path}: line {line + filled[row]:,}: expected a key and {self.dim:,} "
                f"numbers, found {counts[row]:,} fields: {shown(text[begins[row] : breaks[row]])}"
            )
        fields = (lasts - self.dim)[:, None] + np.arange(self.dim)
        ends, sizes = ends[fields].reshape(-1), sizes[fields].reshape(-1)
        values, wrong = parse_decimals(text, ends, sizes)
        if wrong >= 0:
            row, place = divmod(wrong, self.dim)
            raise FormatError(
                f"{self.path}: line {line + filled[row]:,}: expected a number as number "
                f"{place + 1:,} of {self.dim:,}, found "
                f"{shown(text[ends[wrong] - sizes[wrong] : ends[wrong]])}"
            )
        behind = (ends - sizes)[:: self.dim] - 1
        bounds = zip(begins.tolist(), behind.tolist(), strict=True)
        return [text[start:end] for start, end in bounds], values.reshape(-1, self.dim)

    def _too_long(self, line: int) -> FormatError:
        return FormatError(
            f"{self.path}: line {line:,}: longer than {LONGEST_LINE >> 20} MiB; is this a text "
            "file of vectors?"
        )


def count_fields(line: bytes) -> int:
    """Count the fields of a line; an empty key before a separator is a field too."""
    return sum(1 for _ in FIELD.finditer(line)) + line.startswith((b" ", b"\t"))


def _split(data: Bytes) -> tuple[Ints, Ints, Ints]:
    """Find all fields and lines.

    Returns
    -------
    ends, sizes, breaks
        Offset behind each field, its length, and the offset of each newline, int64.
    """
    newlines = data == ord("\n")
    breaks = np.flatnonzero(newlines)
    separators = newlines
    separators |= data == ord(" ")
    separators |= data == ord("\t")
    ends = np.flatnonzero(separators)
    sizes = np.diff(ends, prepend=MARGIN - 1)
    sizes -= 1
    filled = sizes > 0
    return (ends, sizes, breaks) if filled.all() else (ends[filled], sizes[filled], breaks)
