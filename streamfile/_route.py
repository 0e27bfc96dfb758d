"""Sidecars: what a layout for streaming has at its front, for files that do not have it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from streamfile._nodes import pack_blocks, unpack_blocks
from streamfile._reader import Contents, Reader
from streamfile._unfinished import unfinished
from streamfile.errors import FormatError, PathError
from vfs import Counters, Identity, NotFoundError, Pages, RemoteFile, Stats, pack, run, survey

MAGIC = b"streamfile route 1\n"
SUFFIX = ".route"
FACTS, PAGES, ROUTER, NODES = range(1, 5)
HEAD = 64 << 10  # bytes that are compared by their digest
MOST_SIZE = 64 << 20


@dataclass(frozen=True)
class Route:
    """What a sidecar holds.

    Attributes
    ----------
    size, etag, digest
        Of the file that it belongs to: bytes, strong ETag if it had one, SHA-256 of the first
        64 KiB. SQLite counts all changes of a file in there.
    pages
        That are read to open the file, by number.
    router
        See `vfs.pack`.
    nodes
        Interior nodes of the full-text index, by block.
    """

    size: int
    etag: str | None
    digest: str
    pages: dict[int, bytes]
    router: bytes
    nodes: dict[int, bytes]

    @classmethod
    def parse(cls, name: str, data: bytes) -> Route:
        """Read a sidecar.

        Raises
        ------
        FormatError
            It is none, or damaged.
        """
        parts = unpack_blocks(data[len(MAGIC) :]) if data.startswith(MAGIC) else {}
        try:
            facts = json.loads(parts[FACTS])
            size, etag, digest = int(facts["size"]), facts["etag"], str(facts["digest"])
            pages, nodes = unpack_blocks(parts[PAGES]), unpack_blocks(parts[NODES])
            return cls(size, etag, digest, pages, parts[ROUTER], nodes)
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
            raise FormatError(
                f"{name}: no sidecar of a .magnitude file, or a damaged one; streamfile route "
                "makes it anew"
            ) from None

    def pack(self) -> bytes:
        """Give the sidecar's bytes."""
        facts = {"size": self.size, "etag": self.etag, "digest": self.digest}
        return MAGIC + pack_blocks(
            {
                FACTS: json.dumps(facts).encode(),
                PAGES: pack_blocks(self.pages),
                ROUTER: self.router,
                NODES: pack_blocks(self.nodes),
            }
        )

    def belongs_to(self, identity: Identity, file: RemoteFile) -> bool:
        """Tell whether it was made of this very file."""
        if self.size != identity.size:
            return False
        if self.etag is not None and identity.etag is not None:
            return self.etag == identity.etag
        return self.digest == digest(file.cached(0, HEAD) or file.read(0, HEAD))


def route(
    source: str | os.PathLike[str], output: str | os.PathLike[str], *, force: bool = False
) -> int:
    """Make the sidecar of a file that cannot be laid out anew, such as somebody else's on the web.

    Parameters
    ----------
    source : str or os.PathLike
        URL or path of a ``.magnitude`` file. Of a remote file only interior pages are read.
    output : str or os.PathLike
        What to write, to be given as `Magnitude`'s ``route``; its usual name is the file's and
        ``.route``.
    force : bool
        Whether to replace an output that exists.

    Returns
    -------
    int
        Its size in bytes.

    Raises
    ------
    FormatError, vfs.VFSError
        The source is no ``.magnitude`` file, is damaged, or cannot be reached.
    PathError, ExistsError
        There is no such source; the output exists.
    OSError
        The output cannot be written.
    """
    from streamfile._local import LocalReader
    from streamfile._remote import RemoteReader

    name = os.fspath(source)
    remote = name.lower().startswith(("http://", "https://"))
    if not remote and not Path(name).is_file():
        raise PathError(f"{name}: no such file; expected a .magnitude file or the URL of one")
    with unfinished(Path(output), force=force) as path:
        reader = RemoteReader(name) if remote else LocalReader(name)
        with closing(reader):
            if isinstance(reader, RemoteReader):
                identity, head = reader.file.identity, reader.file.read(0, HEAD)
                made = _of(reader, identity.size, identity.etag, head)
            else:
                with Path(name).open("rb") as file:
                    made = _of(reader, os.fstat(file.fileno()).st_size, None, file.read(HEAD))
        return path.write_bytes(made.pack())


def find_routes(
    given: str | os.PathLike[str] | bool, url: str, options: Mapping[str, Any], stats: Stats
) -> Generator[Route, None, None]:
    """Read the sidecar of a file on the web: the one in the cache, then a newer one.

    Parameters
    ----------
    given
        Path or URL of the sidecar; True to look for it beside the file.
    url, options
        Of the file, see `vfs.open`.
    stats
        Of the file, which what it takes is added to.

    Raises
    ------
    FormatError
        It is no sidecar, or damaged.
    PathError
        There is no such file.
    vfs.VFSError
        It cannot be reached.
    """
    beside = urlsplit(url)._replace(path=f"{urlsplit(url).path}{SUFFIX}").geturl()
    name = beside if isinstance(given, bool) else os.fspath(given)
    if not name.lower().startswith(("http://", "https://")):
        if not Path(name).is_file():
            raise PathError(f"{name}: no such file; expected the path or URL of a sidecar")
        _check_size(name, Path(name).stat().st_size)
        yield Route.parse(name, Path(name).read_bytes())
        return
    file = None
    try:
        with closing(RemoteFile(name, **options)) as file:
            yield from _cached_and_newer(file, stats)
    except NotFoundError:
        if file is None:
            stats.add(requests=1, waves=1)
        if given is not True:
            raise


def _cached_and_newer(file: RemoteFile, stats: Stats) -> Iterator[Route]:
    try:
        assumed = file.assumed
        try:
            yield _parse(file, assumed.size)
        except FormatError:
            if file.identity == assumed:
                raise
        if file.identity != assumed:
            yield _parse(file, file.identity.size)
    finally:
        stats.add(**{each.name: getattr(file.stats, each.name) for each in fields(Counters)})


def _parse(file: RemoteFile, size: int) -> Route:
    _check_size(file.name, size)
    return Route.parse(file.name, bytes(file.cached(0, size) or file.read(0, size)))


def _check_size(name: str, size: int) -> None:
    if size > MOST_SIZE:
        raise FormatError(f"{name}: a sidecar of {size:,} bytes is none")


def digest(head: bytes) -> str:
    """Digest a file's first bytes."""
    return hashlib.sha256(head).hexdigest()


def _of(reader: Reader, size: int, etag: str | None, head: bytes) -> Route:
    pages = _Recorder(reader.contents.pages)
    contents = Contents.of(cast("Any", pages), reader.contents.version)
    nodes: dict[int, bytes] = {}
    if contents.fulltext is not None:
        run(pages, contents.fulltext.load())
    for tree in contents.trees:
        survey(reader.contents.pages, tree)
    if contents.fulltext is not None:
        nodes = run(reader.contents.pages, contents.fulltext.interior_blocks())
    return Route(size, etag, digest(head), pages.seen, pack(contents.trees), nodes)


class _Recorder:
    """Pages that remembers what was read."""

    def __init__(self, pages: Pages) -> None:
        self.name, self.layout = pages.name, pages.layout
        self._pages = pages
        self.seen: dict[int, bytes] = {}

    def read(
        self, numbers: Iterable[int], *, spare: Sequence[int] = (), opening: bool = False
    ) -> dict[int, Any]:
        """Read pages, as `vfs.Pages.read`."""
        found = self._pages.read(numbers, spare=spare, opening=opening)
        self.seen |= {number: bytes(page) for number, page in found.items()}
        return found

    def cached(self, number: int) -> Any:
        """Give a page, as `vfs.Pages.cached`."""
        return self._pages.cached(number)

    def block(self, numbers: Any) -> Any:
        """Read pages, as `vfs.Pages.block`."""
        return self._pages.block(numbers)
