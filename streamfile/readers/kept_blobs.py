"""Files that a ``.magnitude`` file stores as blobs, decompressed once into kept files."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import accumulate

from streamfile._progress import SHOW_AFTER, Progress
from streamfile.errors import FormatError
from streamfile.format.tables import BLOBS
from streamfile.readers.base import Reader
from streamfile.readers.contents import Contents
from streamfile.readers.lz4_frame import HISTORY, LONGEST_HEADER, FrameDecoder
from vfs.btree.blobs import BEGINNING, Blob, BlobPiece, BlobTable, Place, blob_ranges, read_blobs
from vfs.btree.pages import RemotePages
from vfs.btree.walk import run
from vfs.cache.kept_file import KeptFile
from vfs.cache.unfinished_file import Part
from vfs.deadline import current
from vfs.errors import CacheSpaceError, DatabaseError

STATE = 1  # version of the saved states
SAVE_AFTER = 64 << 20  # bytes of content between two saved states
GROW = 16 << 20
PIECE = 1 << 20  # bytes of one write of content, and of one read


def keep_blob(reader: Reader, what: str, *, unchecked: bool = False) -> KeptFile:
    """Return a kept file with the content of the LZ4 frame that a table's blobs contain.

    One process decompresses the frame into the file, and other processes wait for it. After
    an interruption, the next call goes on from the last saved state. A long copy shows its progress
    if standard error is a terminal.

    Parameters
    ----------
    reader
        Reader of the ``.magnitude`` file.
    what
        Name of the table: ``magnitude_approx``, ``magnitude_meta_1`` or ``magnitude_meta_2``.
    unchecked
        See `KeptFiles.get`.

    Raises
    ------
    FormatError
        The table does not exist, or contains no sound LZ4 frame.
    vfs.BudgetError
        Reading the frame would exceed a budget. None of its overflow pages was requested.
    vfs.CacheSpaceError
        There is no disk cache, the server sends no validator, or the file does not fit.
    vfs.DeadlineError
        Another process held the file's lock for longer than the call may take.
    vfs.VFSError
        See `vfs.errors`.
    """
    contents = reader.current()
    files, name = reader.kept(what)
    if files is not None and name is not None:
        kept = files.get(name, unchecked=unchecked)
        if kept is not None:
            return kept
    blobs = _find(reader.name, contents, what)
    size = _least_size(reader, what, blobs)
    if files is None or name is None:
        reason = "there is no disk cache" if files is None else "the server tells no version of it"
        raise CacheSpaceError(
            f"{reader.name}: {size:,} bytes of {what} have to be kept on disk, but {reason}; see "
            "the options cache_dir and cache_size, or download the file"
        )
    return files.make(
        name, size, lambda part: _Copy(reader, what, blobs, part).run(), unchecked=unchecked
    )


def blob_size(reader: Reader, what: str) -> int:
    """Return the size of a file of `keep_blob`, as far as the header of its frame tells it.

    Parameters
    ----------
    reader, what
        See `keep_blob`.

    Returns
    -------
    int
        Length of the content in bytes; if the header does not tell it, length of the frame.

    Raises
    ------
    FormatError, vfs.VFSError
        See `keep_blob`.
    """
    return _least_size(reader, what, _find(reader.name, reader.current(), what))


def _find(name: str, contents: Contents, what: str) -> list[Blob]:
    """Locate the blobs of a table, without reading overflow pages."""
    if what not in contents.format.blob_roots:
        raise FormatError(
            f"{name}: has no table {what}: it was converted without; get another file, or convert "
            "it again"
        )
    table = BlobTable(contents.pages, contents.format.blob_roots[what])
    blobs = run(contents.pages, table.blobs(BLOBS[what]))
    blob_ranges(contents.pages, blobs)  # raises an error if they exceed the file
    return blobs


def _least_size(reader: Reader, what: str, blobs: Sequence[Blob]) -> int:
    """Return the content size in the header of a frame, else the length of the frame."""
    stored = sum(blob.size for blob in blobs)
    frame = FrameDecoder(f"{reader.name}: {what}", stored)
    deque(frame.decode(blobs[0].local[:LONGEST_HEADER] if blobs else b""), maxlen=0)
    known = frame.header is not None and frame.header.content_size is not None
    return frame.most if known else stored


class _Copy:
    """One attempt to decompress blobs into an unfinished file.

    Parameters
    ----------
    reader
        Reader of the file.
    what
        Name of the blobs' table.
    blobs
        Blobs of that table.
    part
        The unfinished file.
    """

    def __init__(self, reader: Reader, what: str, blobs: Sequence[Blob], part: Part) -> None:
        self._reader, self._what, self._blobs, self._part = reader, what, blobs, part
        self._pages = reader.contents.pages
        self._begins = [0, *accumulate(blob.size for blob in blobs)]
        self._frame = FrameDecoder(f"{reader.name}: {what}", self._begins[-1])
        self._places = deque([BEGINNING])  # of pieces that are not completely decoded
        self._written = self._saved = 0, 0  # bytes of the frame, bytes of content

    def run(self) -> None:
        """Write the whole content to the file.

        Raises
        ------
        FormatError, vfs.VFSError
            See `keep_blob`.
        """
        try:
            self._resume()
            start = self._places[0]
            if isinstance(self._pages, RemotePages):
                ranges = blob_ranges(self._pages, self._blobs, start)
                self._reader.budget.check(self._reader.name, ranges)
            with closing(read_blobs(self._pages, self._blobs, start)) as pieces:
                self._decode(pieces)
            self._frame.finish()
            self._part.reserve(self._frame.produced)
        except (FormatError, DatabaseError, CacheSpaceError):
            self._part.reserve(0)  # another attempt would fail in the same way
            raise
        except BaseException:
            self._save()
            raise

    def _resume(self) -> None:
        """Restore the state that an interrupted attempt saved last."""
        if not self._part.state:
            return
        version, *state = json.loads(self._part.state)
        if version != STATE:
            self._part.reserve(0)
            return
        place, consumed, produced, header = state
        deque(self._frame.decode(bytes.fromhex(header)), maxlen=0)
        self._frame.restore(consumed, produced, self._content(produced))
        self._places = deque([Place(*place)])
        self._written = self._saved = consumed, produced

    def _content(self, length: int) -> Iterator[bytes]:
        """Yield the part of the first `length` bytes of content that the decoder must get again."""
        header = self._frame.header
        at = 0 if header and header.content_checksum else max(0, length - HISTORY)
        while at < length:
            data = os.pread(self._part.file, min(PIECE, length - at), at)
            yield data
            at += len(data)

    def _decode(self, pieces: Iterable[BlobPiece]) -> None:
        frame, start = self._frame, self._places[0]
        end = self._offset(start)
        with Progress(
            self._what, self._begins[-1], initial=frame.consumed, delay=SHOW_AFTER
        ) as bar:
            for data, place in pieces:
                if place != start:
                    self._places.append(place)
                fresh = data[max(0, frame.consumed - end) :]  # an earlier attempt decoded the rest
                end += len(data)
                self._write(frame.decode(fresh))
                if frame.produced - self._saved[1] >= SAVE_AFTER:
                    self._save()
                current().progress()
                bar.update(len(fresh))

    def _write(self, blocks: Iterable[bytes]) -> None:
        """Write blocks of content, joined to pieces of 1 MiB or more."""
        at, length = self._frame.produced, 0
        waiting: list[bytes] = []
        for block in blocks:
            waiting.append(block)
            length += len(block)
            if length >= PIECE:
                at, length = self._put(b"".join(waiting), at), 0
                waiting.clear()
        self._put(b"".join(waiting), at)
        self._written = self._frame.consumed, self._frame.produced

    def _put(self, data: bytes, at: int) -> int:
        """Write data at an offset, and return the offset behind the data."""
        end = at + len(data)
        if end > self._part.size:
            self._part.reserve(max(end, min(at + GROW, self._frame.most)))
        self._part.write(data, at)
        return end

    def _save(self) -> None:
        """Save the state from which another attempt can go on behind the last written block."""
        if self._written == self._saved:
            return
        header, (consumed, produced) = self._frame.header, self._written
        assert header is not None
        while len(self._places) > 1 and self._offset(self._places[1]) <= consumed:
            self._places.popleft()
        state = [STATE, self._places[0], consumed, produced, header.data.hex()]
        self._part.save(json.dumps(state).encode(), produced)
        self._saved = self._written

    def _offset(self, place: Place) -> int:
        return self._begins[place.row] + place.at
