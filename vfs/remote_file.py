"""A random-access, read-only view of one version of one remote file."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from vfs.cache.blocks import BlockCache
from vfs.cache.disk import BLOCK
from vfs.cache.kept_files import KeptFiles
from vfs.errors import FileChangedError
from vfs.forks import ForkLock, native
from vfs.identity import Identity, digest
from vfs.options import Options
from vfs.transport.base import Source
from vfs.transport.http import HttpSource
from vfs.transport.plan import Range, plan_wave

log = logging.getLogger(__name__)

HEAD = 128 << 10
CHECK: Range = (0, 1)


def open_file(url: str, **options: Any) -> RemoteFile:
    """Open a file on a web server for reading by range.

    One request opens it, none where the cache remembers the file; the first data request then
    makes sure that the server still has that version.

    Parameters
    ----------
    url
        An http or https address of a server that answers Range requests.
    **options
        The attributes of `vfs.Options`: ``cache_dir``, ``cache_size`` (bytes), ``memory_size``
        (bytes), ``cache_key``, ``connections``, ``timeout`` (seconds), ``retries``,
        ``deadline`` (seconds), ``headers``, ``session``, ``max_requests``, ``max_bytes``.

    Returns
    -------
    RemoteFile
        With ``read``, ``read_many``, ``size``, ``identity``, ``stats``.

    Raises
    ------
    VFSError
        See `vfs.errors` for the tree.
    """
    parsed = Options.parse(options)
    return RemoteFile(HttpSource(url, parsed), parsed)


class _Version:
    """One version of the file, as a call sees it from beginning to end."""

    def __init__(self, file: str, identity: Identity, *, answered: bool) -> None:
        self.identity = identity
        self.name = f"{file}\0{identity}"
        self.blocks = digest("blocks", self.name)
        self.answered = answered  # by the server, not just by the cache


class RemoteFile:
    """Bytes of a remote file, by range.

    Made by `vfs.open`. Safe to share between threads, usable after a fork, and picklable (the
    source and the options travel). All answers belong to one version of the file.

    Parameters
    ----------
    source
        Where the file is.
    options
        How it is read.
    """

    __module__ = "vfs"

    def __init__(self, source: Source, options: Options) -> None:
        self._source = source
        self._options = options
        self.url = source.url
        self.name = source.name
        self.budget = source.budget
        self.stats = source.budget.stats
        self._cache = BlockCache(options)
        key = options.cache_key
        self._name = source.cache_name if key is None else f"key\0{key}"
        self._lock = ForkLock()
        recalled = self._cache.get_record(digest("identity", self._name))
        if recalled is not None:
            self._version = _Version(self._name, Identity.from_json(recalled), answered=False)
            self._source.open_ahead()
        else:
            self._version = self._fetch_head()

    @property
    def identity(self) -> Identity:
        """The version that is read: size, strong ETag, Last-Modified; see `validate`."""
        return self.validate()

    @property
    def assumed(self) -> Identity:
        """The version that the cache remembers, which `validate` may still replace."""
        return self._version.identity

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return self.identity.size

    @property
    def connections(self) -> int:
        """Requests that one wave sends at once."""
        return self._source.connections

    def read(self, offset: int, length: int) -> bytes:
        """Read one range.

        Parameters
        ----------
        offset, length
            In bytes. What lies beyond the end of the file is left out.

        Raises
        ------
        VFSError
            See `vfs.errors`.
        """
        return self.read_many([(offset, length)])[0]

    def read_many(
        self,
        ranges: Iterable[tuple[int, int]],
        *,
        spare: Sequence[tuple[int, int]] = (),
        keep: bool = False,
    ) -> list[bytes]:
        """Read ranges; all bytes that are not cached come in one parallel wave.

        Parameters
        ----------
        ranges
            (offset, length) pairs in bytes, in any order.
        spare
            Ranges to fetch into the cache too, as far as a wave that is needed anyway has
            connections left for them.
        keep
            Whether to keep these ranges in the cache longer than others.

        Returns
        -------
        list of bytes
            One an asked range, shorter only at the end of the file.

        Raises
        ------
        ValueError
            A negative offset or length.
        VFSError
            See `vfs.errors`.
        """
        wanted = [(offset, offset + length) for offset, length in ranges]
        if any(start < 0 or end < start for start, end in wanted):
            raise ValueError("offsets and lengths cannot be negative")
        version = self._version
        try:
            return self._read(version, wanted, spare, keep=keep)
        except FileChangedError:
            newer = self._newer(version)
            if newer is version:
                raise
            return self._read(newer, wanted, spare, keep=keep)

    def read_past_cache(self, ranges: Sequence[Range]) -> list[bytes]:
        """Read ranges with one request each, in one parallel wave, and keep nothing of them.

        For scans, whose bytes would displace all that is worth keeping.

        Parameters
        ----------
        ranges
            (start, end) pairs in bytes, end exclusive, none of them empty.

        Raises
        ------
        FileChangedError
            The server has another version, even where only the cache had answered before.
        VFSError
            See `vfs.errors`.
        """
        version = self._version
        bodies, _ = self._request(ranges, version.identity)
        self._answered(version)
        return bodies

    def cached(self, offset: int, length: int) -> bytes | None:
        """Read a range if it is all in the cache, without the network; else None."""
        return self._get(self._version, offset, length)

    def validate(self) -> Identity:
        """Make sure that the server still has the version that the cache remembers.

        Sends at most one request in the life of the object, none where an answer of the server
        has shown it already. Where the server has another version, and nothing was answered yet,
        that version is read from here on.

        Returns
        -------
        Identity
            Of the version that is read.
        """
        version = self._version
        if not version.answered:
            try:
                self._check(version)
            except FileChangedError:
                version = self._newer(version)
        return version.identity

    def recall(self, name: str) -> bytes | None:
        """Get a record that `remember` kept with this version of the file, or None."""
        version = self._version
        if not version.identity.durable:
            return None
        return self._cache.get_record(digest("record", name, version.name))

    def remember(self, name: str, record: bytes) -> None:
        """Keep a small record about this version of the file on disk, for later processes."""
        version = self._version
        if version.identity.durable:
            self._cache.put_record(digest("record", name, version.name), record)

    @property
    def kept_files(self) -> KeptFiles | None:
        """Whole files in the cache directory, None where there is no disk cache."""
        return self._cache.kept

    def kept_name(self, what: str) -> bytes | None:
        """Name a kept file made of this version of the file; None where that cannot be known."""
        version = self._version
        return digest("kept", what, version.name) if version.identity.durable else None

    def close(self) -> None:
        """Close connections and cache."""
        self._source.close()
        self._cache.close()

    def __enter__(self) -> RemoteFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFile, (self._source, self._options)

    def __repr__(self) -> str:
        return f"<RemoteFile {self.name} ({self._version.identity})>"

    def _fetch_head(self) -> _Version:
        """Open the file with its first bytes, whichever version the server has."""
        self._source.open_ahead()
        (head,), identity = self._request([(0, HEAD)], None)
        if not identity.durable:
            log.warning(
                "%s: the server sends neither a strong ETag nor Last-Modified; a change of the "
                "file is noticed by its size alone, and nothing is kept on disk",
                self.name,
            )
        self._source.open_ahead()  # a redirect may have led to another host
        version = _Version(self._name, identity, answered=True)
        self._keep(version, 0, head, keep=True)
        if identity.durable:
            self._cache.put_record(digest("identity", self._name), identity.to_json())
        return version

    def _newer(self, version: _Version) -> _Version:
        """Take the server's version instead of one that only the cache knew."""
        with self._lock:
            if self._version is version and not version.answered:
                self._version = self._fetch_head()
            return self._version

    def _answered(self, version: _Version) -> None:
        """Take note that the server has this version, unless another thread met a newer one."""
        if version.answered:
            return
        with self._lock:
            if self._version is not version:
                raise FileChangedError(f"{self.name}: the file changed while it was being opened")
            version.answered = True

    def _check(self, version: _Version) -> None:
        self._request([CHECK], version.identity)
        self._answered(version)

    def _read(
        self,
        version: _Version,
        wanted: list[Range],
        spare: Sequence[tuple[int, int]],
        *,
        keep: bool,
    ) -> list[bytes]:
        size = version.identity.size
        wanted = [(min(start, size), min(end, size)) for start, end in wanted]
        numbers = sorted({n for start, end in wanted for n in _numbers(start, end)})
        blocks = self._cached(version, numbers)
        self.stats.add(cache_hits=len(blocks))
        missing = [number for number in numbers if number not in blocks]
        if missing:
            runs = _runs(missing)
            extra: list[Range] = []
            for offset, length in spare:
                if len(runs) + len(extra) >= self.connections:
                    break
                if self._get(version, offset, length) is None:
                    extra.append((offset // BLOCK * BLOCK, -(-(offset + length) // BLOCK) * BLOCK))
            blocks |= self._fetch(version, runs, extra, keep=keep)
        elif not version.answered:
            self._check(version)
        return [_cut(blocks, start, end) for start, end in wanted]

    def _fetch(
        self, version: _Version, runs: list[Range], extra: list[Range], *, keep: bool
    ) -> dict[int, bytes]:
        size = version.identity.size
        needed, all_runs = (
            [(start, min(end, size)) for start, end in _merge(ranges)]
            for ranges in (runs, runs + extra)
        )
        # A budget that is nearly used up still serves what is needed, without what is convenient.
        plans = [self._plan(all_runs), self._plan(needed), needed]
        plan = next(filter(self.budget.allows, plans), needed)
        bodies, _ = self._request(plan, version.identity)
        self._answered(version)
        blocks: dict[int, bytes] = {}
        for (start, _), body in zip(plan, bodies, strict=True):
            blocks |= self._keep(version, start, body, keep=keep)
        return blocks

    def _request(
        self, ranges: Sequence[Range], version: Identity | None
    ) -> tuple[list[bytes], Identity]:
        """Fetch ranges; no fork waits for that, though SQLite may be what reads them.

        SQLite reads a file under locks of the connection alone, which a child never uses.
        """
        with native.outside():
            return self._source.fetch(ranges, version)

    def _plan(self, runs: list[Range]) -> list[Range]:
        pace = self._source.pace
        return plan_wave(runs, self.connections, pace.latency, pace.bandwidth)

    def _keep(self, version: _Version, start: int, body: bytes, *, keep: bool) -> dict[int, bytes]:
        blocks = {(start + at) // BLOCK: body[at : at + BLOCK] for at in range(0, len(body), BLOCK)}
        self._cache.put(version.blocks, blocks, on_disk=version.identity.durable, keep=keep)
        return blocks

    def _cached(self, version: _Version, numbers: Iterable[int]) -> dict[int, bytes]:
        return self._cache.get(version.blocks, numbers, on_disk=version.identity.durable)

    def _get(self, version: _Version, offset: int, length: int) -> bytes | None:
        end = min(offset + length, version.identity.size)
        numbers = _numbers(offset, end)
        blocks = self._cached(version, numbers)
        return _cut(blocks, offset, end) if len(blocks) == len(numbers) else None


def _numbers(start: int, end: int) -> range:
    """Compute the numbers of the blocks that a byte range touches."""
    return range(start // BLOCK, -(-end // BLOCK) if start < end else start // BLOCK)


def _runs(numbers: Sequence[int]) -> list[Range]:
    """Turn rising block numbers into byte ranges of neighbours."""
    runs: list[Range] = []
    for number in numbers:
        if runs and runs[-1][1] == number * BLOCK:
            runs[-1] = (runs[-1][0], (number + 1) * BLOCK)
        else:
            runs.append((number * BLOCK, (number + 1) * BLOCK))
    return runs


def _merge(runs: list[Range]) -> list[Range]:
    """Sort ranges, and join those that touch or overlap."""
    merged: list[Range] = []
    for start, end in sorted(runs):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _cut(blocks: dict[int, bytes], start: int, end: int) -> bytes:
    numbers = _numbers(start, end)
    first = numbers.start * BLOCK
    data = blocks[numbers[0]] if len(numbers) == 1 else b"".join(blocks[n] for n in numbers)
    return data[start - first : end - first]
