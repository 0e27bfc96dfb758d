"""Sidecars: first pages, router and full-text nodes for a file without a streaming layout."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from streamfile.errors import FormatError, PathError
from streamfile.format.packed_blocks import pack_blocks, unpack_blocks
from vfs.errors import NotFoundError
from vfs.identity import Identity, is_url
from vfs.options import expanded
from vfs.remote_file import RemoteFile, open_file
from vfs.stats import Counters, Stats

MAGIC = b"streamfile route 1\n"
SUFFIX = ".route"
FACTS, PAGES, ROUTER, NODES = range(1, 5)
HEAD = 64 << 10  # bytes of the beginning that the digest covers
MOST_SIZE = 64 << 20


@dataclass(frozen=True)
class Route:
    """Contents of a sidecar.

    Attributes
    ----------
    size, etag, digest
        Length of the described file in bytes, its strong ETag or None, and the SHA-256 digest of
        its first 64 KiB. These bytes include SQLite's file change counter (file format, section
        1.3.7).
    pages
        Pages that are read to open the file, by number.
    router
        Interior pages of the b-trees, see `vfs.router.router.pack`.
    nodes
        Interior nodes of the full-text index, by block number.
    """

    size: int
    etag: str | None
    digest: str
    pages: dict[int, bytes]
    router: bytes
    nodes: dict[int, bytes]

    @classmethod
    def parse(cls, name: str, data: bytes) -> Route:
        """Parse a sidecar.

        Raises
        ------
        FormatError
            The data is no sidecar, or a damaged one.
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
        """Return the sidecar as bytes."""
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
        """Tell whether the sidecar was made from this version of the file."""
        own = Identity(self.size, self.etag)
        if own.contradicts(identity):
            return False
        head = file.cached(0, HEAD)
        if head is None and not own.proven_by(identity):
            head = file.read(0, HEAD)
        return head is None or self.digest == digest(head)


def find_routes(
    given: str | os.PathLike[str] | bool, url: str, options: Mapping[str, Any], stats: Stats
) -> Generator[Route, None, None]:
    """Yield the sidecars of a remote file: the cached version, then a newer one if it exists.

    Parameters
    ----------
    given
        Path or URL of the sidecar, True for the URL of the file and ``.route``.
    url, options
        URL of the file, and options of `vfs.open`.
    stats
        Counters of the file, to which the counts of the sidecar are added.

    Raises
    ------
    FormatError
        The data is no sidecar, or a damaged one.
    PathError
        The sidecar's path does not exist.
    vfs.VFSError
        The sidecar cannot be reached. If `given` is True, a missing sidecar is no
        error.
    """
    beside = urlsplit(url)._replace(path=f"{urlsplit(url).path}{SUFFIX}").geturl()
    name = beside if isinstance(given, bool) else os.fspath(given)
    if not is_url(name):
        path = Path(expanded(name))
        if not path.is_file():
            raise PathError(f"{name}: no such file; expected the path or URL of a sidecar")
        _check_size(name, path.stat().st_size)
        yield Route.parse(name, path.read_bytes())
        return
    file = None
    try:
        with closing(open_file(name, **options)) as file:
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
    """Compute the SHA-256 digest of a file's first bytes, in hexadecimal."""
    return hashlib.sha256(head).hexdigest()
