"""Writer of sidecars."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from streamfile.readers.contents import Contents
from streamfile.readers.open import open_reader
from streamfile.readers.remote import RemoteReader
from streamfile.readers.sidecar import HEAD, Route, digest
from streamfile.write.output import unfinished
from vfs.btree.pages import Pages
from vfs.btree.walk import run
from vfs.btree.whole_trees import survey
from vfs.options import expanded
from vfs.router.router import pack


def route(
    source: str | os.PathLike[str], output: str | os.PathLike[str], *, force: bool = False
) -> int:
    """Write the sidecar of a ``.magnitude`` file that cannot be replaced by a repacked one.

    Parameters
    ----------
    source : str or os.PathLike
        URL or path of the file. Of a remote file, only interior pages and small tables are read.
    output : str or os.PathLike
        Path of the sidecar, for the argument ``route`` of `Magnitude`. Its usual name is the name
        of the file and ``.route``.
    force : bool
        Whether to replace an existing output.

    Returns
    -------
    int
        Length of the sidecar in bytes.

    Raises
    ------
    FormatError, vfs.VFSError
        The source is no ``.magnitude`` file, is damaged, or cannot be reached.
    PathError, ExistsError
        The source does not exist; the output exists.
    OSError
        The output cannot be written.
    """
    target = Path(expanded(output))
    with closing(open_reader(source)) as reader, unfinished(target, force=force) as path:
        current = reader.current()
        if isinstance(reader, RemoteReader):
            identity, head = reader.file.identity, reader.file.read(0, HEAD)
            made = _of(current, identity.size, identity.etag, head)
        else:
            with Path(reader.name).open("rb") as file:
                made = _of(current, os.fstat(file.fileno()).st_size, None, file.read(HEAD))
        return path.write_bytes(made.pack())


def _of(current: Contents, size: int, etag: str | None, head: bytes) -> Route:
    pages = _Recorder(current.pages)
    contents = Contents.of(cast("Any", pages), current.version)
    nodes: dict[int, bytes] = {}
    if contents.fulltext is not None:
        run(pages, contents.fulltext.load())
    for tree in contents.trees:
        survey(current.pages, tree)
    if contents.fulltext is not None:
        nodes = run(current.pages, contents.fulltext.interior_blocks())
    return Route(size, etag, digest(head), pages.seen, pack(contents.trees), nodes)


class _Recorder:
    """A `Pages` that keeps the pages it has read."""

    def __init__(self, pages: Pages) -> None:
        self.name, self.layout = pages.name, pages.layout
        self._pages = pages
        self.seen: dict[int, bytes] = {}

    def read(
        self, numbers: Iterable[int], *, spare: Sequence[int] = (), opening: bool = False
    ) -> dict[int, Any]:
        """Read pages and keep them, see `Pages.read`."""
        found = self._pages.read(numbers, spare=spare, opening=opening)
        self.seen |= {number: bytes(page) for number, page in found.items()}
        return found

    def cached(self, number: int) -> Any:
        """Return a page if it needs no wave, see `Pages.cached`."""
        return self._pages.cached(number)

    def block(self, numbers: Any) -> Any:
        """Read pages for vectorised decoding, see `Pages.block`."""
        return self._pages.block(numbers)
