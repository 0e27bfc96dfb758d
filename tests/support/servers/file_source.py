"""A source that is no web server: the ranges of a file on this machine."""

import os
from pathlib import Path

from vfs.errors import FileChangedError, NotFoundError
from vfs.identity import Identity
from vfs.options import Options
from vfs.transport.base import Source


class FileSource(Source):
    """Ranges of a local file, whose version is its time of change."""

    connections = 3

    def __init__(self, path: Path, options: Options) -> None:
        super().__init__(str(path), options)
        self._path = path
        self._options = options
        self.opened_ahead = 0
        self.closed = False

    @property
    def cache_name(self):
        return f"file\0{self._path}"

    def open_ahead(self):
        self.opened_ahead += 1

    def fetch(self, ranges, version):
        self.budget.check(self.name, ranges)
        self.budget.stats.add(waves=1)
        try:
            facts = self._path.stat()
        except FileNotFoundError:
            raise NotFoundError(f"{self.name}: no such file", 404) from None
        found = Identity(facts.st_size, f'"{facts.st_mtime_ns}"')
        if version is not None and version.contradicts(found):
            raise FileChangedError(f"{self.name}: {version} was expected, {found} is there")
        bodies = []
        with self._path.open("rb") as file:
            for start, end in ranges:
                self.budget.spend_request(self.name)
                bodies.append(os.pread(file.fileno(), end - start, start))
        self.budget.stats.add(bytes=sum(map(len, bodies)))
        return bodies, [found] * len(bodies)

    def close(self):
        self.closed = True

    def __reduce__(self):
        return FileSource, (self._path, self._options)
