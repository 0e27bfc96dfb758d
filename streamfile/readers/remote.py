"""Reader of a file on a web server, by walks over its b-trees."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from typing import Any, TypeVar

from streamfile.errors import FormatError
from streamfile.format.packed_blocks import unpack_blocks
from streamfile.readers.base import Reader
from streamfile.readers.contents import Contents
from streamfile.readers.sidecar import Route, find_routes
from streamfile.readers.sql import SqlConnection
from vfs.btree.pages import RemotePages
from vfs.btree.table import Table
from vfs.btree.walk import Walk, run, together
from vfs.cache.kept_files import KeptFiles
from vfs.deadline import call, within
from vfs.errors import ClosedError, DatabaseError, FileChangedError
from vfs.forks import ForkLock
from vfs.identity import Identity
from vfs.options import Options
from vfs.remote_file import open_file
from vfs.router.router import pack, unpack
from vfs.sqlite_vfs import connect_to

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_PAGES = 16  # of the table ``magnitude_router``, without overflow pages
ROUTER = "router.v2"


class RemoteReader(Reader):
    """Reader of a file on a web server, whose walks look up all keys of a call together.

    The cache keeps the interior pages of the b-trees, so that a later process needs no requests
    for them.

    Parameters
    ----------
    url
        An http or https URL.
    route
        Path or URL of the file's sidecar, True to look for it at the URL and ``.route``, False
        for none.
    **options
        See `vfs.open`.

    Raises
    ------
    streamfile.errors.FormatError
        The file is no ``.magnitude`` file.
    vfs.VFSError
        The file cannot be reached, or is no SQLite database.
    """

    def __init__(
        self, url: str, *, route: str | os.PathLike[str] | bool = False, **options: Any
    ) -> None:
        with within(Options.parse(options).deadline):
            self.file = open_file(url, **options)
            sql = SqlConnection(self.file.name, partial(connect_to, self.file))
            super().__init__(self.file.name, self.file.budget, sql)
            self._given = route, options
            self._lock = ForkLock()
            try:
                self._open()
            except BaseException:
                self.file.close()
                raise

    @property
    def deadline(self) -> float | None:
        """The option of this name, see `Reader.deadline`."""
        return self.file.deadline

    @call
    def current(self) -> Contents:
        """Return the contents of the version that the server has, see `Reader.current`."""
        if self.file.validate() != self.contents.version:
            self._open()
        return self.contents

    @call
    def run(self, walk: Callable[[Contents], Walk[T]]) -> T:
        """Run a walk over the pages of the file, see `Reader.run`."""
        contents = self.contents
        try:
            result = run(contents.pages, walk(contents), trees=contents.trees)
        except FileChangedError:
            if self.file.assumed == contents.version:
                raise
            self._open()
            contents = self.contents
            result = run(contents.pages, walk(contents), trees=contents.trees)
        if contents is self._contents and _known(contents) > 1.2 * self._saved:
            self._save(contents)
        return result

    def kept(self, what: str) -> tuple[KeptFiles | None, bytes | None]:
        """Return the kept files and the name of a derived file, see `Reader.kept`."""
        return self.file.kept_files, self.file.kept_name(what)

    def close(self) -> None:
        """Save the interior pages in the cache, and close the file, see `Reader.close`."""
        contents = self._contents
        if contents is not None:
            with suppress(ClosedError):  # another thread closes it too
                self._save(contents)
        self.file.close()  # first, so that a statement that waits for the server ends
        super().close()

    def _open(self) -> None:
        """Load the contents of the assumed version, or if that fails, of the server's version."""
        with self._lock:
            assumed = self.file.assumed
            try:
                self._load(assumed)
            except (FileChangedError, DatabaseError, FormatError):
                # The error may concern only the version that the cache remembers.
                version = self.file.identity
                if version == assumed:
                    raise
                self._load(version)

    def _load(self, version: Identity) -> None:
        route = self._route(version)
        pages = RemotePages(self.file, known=route.pages if route else {})
        contents = Contents.of(pages, version)
        shipped = self._shipped(contents)
        if route is not None and shipped is None:
            shipped = route.router
            if contents.fulltext is not None:
                contents.fulltext.know(route.nodes)
        record = shipped or self.file.recall(ROUTER)
        if record is None or not unpack(record, contents.trees):
            roots = together([tree.touch() for tree in contents.trees])
            run(contents.pages, roots, opening=True)
            record = None
        self._contents = contents
        self._saved = 0 if record is None else _known(contents)

    def _route(self, version: Identity) -> Route | None:
        """Read the sidecar, and return it if it belongs to this version of the file."""
        given, options = self._given
        if not given:
            return None
        with closing(find_routes(given, self.file.url, options, self.stats)) as routes:
            route = None
            for route in routes:
                if route.belongs_to(version, self.file):
                    return route
        if route is not None:
            log.warning(
                "%s: its sidecar is of another file or version, and is not used; make it anew "
                "with streamfile route",
                self.file.name,
            )
        return None

    def _shipped(self, contents: Contents) -> bytes | None:
        """Read the router, and the full-text nodes, of a file that is laid out for streaming."""
        if not contents.format.router_root:
            return None
        table = Table(contents.pages, contents.format.router_root)
        rows = run(contents.pages, table.scan(most_pages=MOST_PAGES), opening=True)
        match [values for _, values in rows]:
            case [[bytes(router), nodes]]:
                if isinstance(nodes, bytes) and contents.fulltext is not None:
                    contents.fulltext.know(unpack_blocks(nodes))
                return router
        return None

    def _save(self, contents: Contents) -> None:
        known = _known(contents)
        if known > self._saved:
            self.file.remember(ROUTER, pack(contents.trees))
            self._saved = known


def _known(contents: Contents) -> int:
    return sum(len(tree.interior) for tree in contents.trees)
