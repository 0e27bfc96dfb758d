"""Files that are stored in a ``.magnitude`` file: fetched once, decompressed, and kept."""

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
from vfs.cache.unfinished_file import KeptFile, Part
from vfs.errors import CacheSpaceError, DatabaseError

STATE = 1  # version of what is saved
SAVE_AFTER = 64 << 20  # bytes of content
GROW = 16 << 20
PIECE = 1 << 20  # bytes that are written, or read again, at once


def keep_blob(reader: Reader, what: str) -> KeptFile:
    """Return a file that is stored in the rows of a table, as one LZ4 frame.

    One process reads and decompresses the file once, into the kept files; others wait for that
    process. An interrupted copy goes on, at the next call, near where it ended. A long copy shows
    its progress where standard error is a terminal.

    Parameters
    ----------
    reader
        Reader of the ``.magnitude`` file that holds it.
    what
        Name of the table: ``magnitude_approx``, ``magnitude_meta_1`` or ``magnitude_meta_2``.

    Raises
    ------
    FormatError
        There is no such table, or no sound LZ4 frame in it.
    vfs.BudgetError
        The rest of the table would pass a budget; nothing of that was asked for.
    vfs.CacheSpaceError
        There is no place to keep it.
    vfs.VFSError
        See `vfs.errors`.
    """
    contents = reader.current()
    files, name = reader.kept(what)
    if files is not None and name is not None and (kept := files.get(name)) is not None:
        return kept
    blobs = _find(reader.name, contents, what)
    size = _least_size(reader, what, blobs)
    if files is None or name is None:
        reason = "there is no disk cache" if files is None else "the server tells no version of it"
        raise CacheSpaceError(
            f"{reader.name}: {size:,} bytes of {what} have to be kept on disk, but {reason}; see "
            "the options cache_dir and cache_size, or download the file"
        )
    return files.make(name, size, lambda part: _Copy(reader, what, blobs, part).run())


def blob_size(reader: Reader, what: str) -> int:
    """Tell how long a file of `keep_blob` is, as far as the header of its frame does.

    Parameters
    ----------
    reader, what
        See `keep_blob`.

    Returns
    -------
    int
        Bytes; where the header does not tell, those of the frame, of which it takes no less.

    Raises
    ------
    FormatError, vfs.VFSError
        See `keep_blob`.
    """
    return _least_size(reader, what, _find(reader.name, reader.current(), what))


def _find(name: str, contents: Contents, what: str) -> list[Blob]:
    """Find the blobs of a table, without reading them."""
    if what not in contents.format.blob_roots:
        raise FormatError(
            f"{name}: has no table {what}: it was converted without; get another file, or convert "
            "it again"
        )
    table = BlobTable(contents.pages, contents.format.blob_roots[what])
    blobs = run(contents.pages, table.blobs(BLOBS[what]))
    blob_ranges(contents.pages, blobs)  # before room is made for what the file cannot hold
    return blobs


def _least_size(reader: Reader, what: str, blobs: Sequence[Blob]) -> int:
    """Tell how much a frame expands to, or at least how long it is itself."""
    stored = sum(blob.size for blob in blobs)
    frame = FrameDecoder(f"{reader.name}: {what}", stored)
    deque(frame.decode(blobs[0].local[:LONGEST_HEADER] if blobs else b""), maxlen=0)
    known = frame.header is not None and frame.header.content_size is not None
    return frame.most if known else stored


class _Copy:
    """One attempt at decompressing blobs into an unfinished file.

    Parameters
    ----------
    reader
        Of the file.
    what
        Name of the blobs' table.
    blobs
        Found there.
    part
        Written to.
    """

    def __init__(self, reader: Reader, what: str, blobs: Sequence[Blob], part: Part) -> None:
        self._reader, self._what, self._blobs, self._part = reader, what, blobs, part
        self._pages = reader.contents.pages
        self._begins = [0, *accumulate(blob.size for blob in blobs)]
        self._frame = FrameDecoder(f"{reader.name}: {what}", self._begins[-1])
        self._places = deque([BEGINNING])  # of what is not decoded yet
        self._written = self._saved = 0, 0  # bytes decoded, bytes of content

    def run(self) -> None:
        """Fill the file.

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
            self._part.reserve(0)  # another attempt would come to the same
            raise
        except BaseException:
            self._save()
            raise

    def _resume(self) -> None:
        """Go on where an interrupted attempt had to end."""
        if not self._part.state:
            return
        version, *state = json.loads(self._part.state)
        if version != STATE:
            return
        place, consumed, produced, header = state
        deque(self._frame.decode(bytes.fromhex(header)), maxlen=0)
        self._frame.restore(consumed, produced, self._content(produced))
        self._places = deque([Place(*place)])
        self._written = self._saved = consumed, produced

    def _content(self, length: int) -> Iterator[bytes]:
        """Read what the frame's decoder has to see again of so many bytes of content."""
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
                fresh = data[max(0, frame.consumed - end) :]  # an earlier attempt had the rest
                end += len(data)
                self._write(frame.decode(fresh))
                if frame.produced - self._saved[1] >= SAVE_AFTER:
                    self._save()
                bar.update(len(fresh))

    def _write(self, blocks: Iterable[bytes]) -> None:
        """Write blocks of content, in pieces of a sensible length."""
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
        """Write at a place, and say where that ended."""
        end = at + len(data)
        if end > self._part.size:
            self._part.reserve(max(end, min(at + GROW, self._frame.most)))
        view = memoryview(data)
        while view:
            written = os.pwrite(self._part.file, view, at)
            view, at = view[written:], at + written
        return end

    def _save(self) -> None:
        """Remember what another attempt needs to go on behind the last block written."""
        if self._written == self._saved:
            return
        header, (consumed, produced) = self._frame.header, self._written
        assert header is not None
        while len(self._places) > 1 and self._offset(self._places[1]) <= consumed:
            self._places.popleft()
        state = [STATE, self._places[0], consumed, produced, header.data.hex()]
        self._part.save(json.dumps(state).encode())
        self._saved = self._written

    def _offset(self, place: Place) -> int:
        return self._begins[place.row] + place.at
