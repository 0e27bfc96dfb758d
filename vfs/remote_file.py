"""Random access to one version of a remote file, for reading only."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

from vfs.cache.blocks import BlockCache
from vfs.cache.disk import BLOCK
from vfs.cache.kept_files import KeptFiles
from vfs.deadline import call
from vfs.errors import ClosedError, FileChangedError, VFSError
from vfs.forks import ForkLock, native
from vfs.identity import Identity, digest
from vfs.options import Options
from vfs.transport.base import Source
from vfs.transport.http import HttpSource
from vfs.transport.plan import Range, plan_wave

log = logging.getLogger(__name__)

HEAD = 128 << 10
COMPARED = 16  # blocks
DAY = 24 * 3600  # seconds, after which it is seen anew what a server bears


def open_file(url: str, **options: Any) -> RemoteFile:
    """Open a file on a web server for reading by range.

    One request opens the file. No request is needed if the cache remembers the file; the first read
    then checks that the server still has the remembered version.

    Parameters
    ----------
    url
        An http or https URL on a server that supports range requests.
    **options
        Attributes of `vfs.Options`: ``cache_dir``, ``cache_size`` and ``memory_size`` (bytes, or a
        text such as ``"2GiB"``), ``cache_key``, ``connections``, ``timeout`` (seconds),
        ``retries``, ``deadline`` (seconds), ``headers``, ``session``, ``max_requests``,
        ``max_bytes``.

    Returns
    -------
    RemoteFile
        The open file, with ``read``, ``read_many``, ``size``, ``identity``, ``stats``.

    Raises
    ------
    VFSError
        See `vfs.errors`.
    """
    parsed = Options.parse(options)
    return RemoteFile(HttpSource(url, parsed), parsed)


class _Version:
    """One version of the file, which a call uses from beginning to end.

    Attributes
    ----------
    identity
        The version as the first answer, or the cache, told it.
    known
        The same with what later answers have added.
    """

    def __init__(
        self, file: str, identity: Identity, *, answered: bool, name: str | None = None
    ) -> None:
        self.identity = self.known = identity
        self.durable = identity.durable
        self.name = name or "\0".join(
            [file, str(identity.size), identity.etag or "", identity.last_modified or ""]
        )
        self.blocks = digest("blocks", self.name)
        self.answered = answered  # whether the server has confirmed this version
        self.compared: set[Identity] = set()  # answers that did not prove it, but had its bytes

    def to_record(self) -> bytes:
        """Serialise the version as a record for later processes."""
        known = self.known
        told = known.size, known.etag, known.last_modified, known.recent
        return json.dumps([*told, self.name]).encode()

    @classmethod
    def from_record(cls, file: str, record: bytes) -> _Version:
        """Restore a version from the record of an earlier process."""
        *told, name = json.loads(record)
        return cls(file, Identity(*told), answered=False, name=name)


class RemoteFile:
    """A remote file that is read by range, made by `vfs.open`.

    Threads may share the object, and forked processes may use it. A pickled object contains the
    source and the options. All results belong to one version of the file.

    Parameters
    ----------
    source
        Source of the file.
    options
        Options of the file.
    """

    __module__ = "vfs"

    def __init__(self, source: Source, options: Options) -> None:
        self._source = source
        self._options = options
        self.url = source.url
        self.name = source.name
        self.budget = source.budget
        self.stats = source.budget.stats
        self._closed = False
        self._cache = BlockCache(options)
        key = options.cache_key
        self._name = source.cache_name if key is None else f"key\0{key}"
        self._record_name = digest("version", self._name)
        self._lock = ForkLock()
        try:
            self._version = self._first()
        except BaseException:
            self.close()  # an error may live long, and the file with it
            raise

    @property
    def deadline(self) -> float | None:
        """The option of this name: seconds that a call may take."""
        return self._options.deadline

    @property
    def identity(self) -> Identity:
        """Version of the file (size, strong ETag, Last-Modified), checked by `validate`."""
        return self.validate()

    @property
    def assumed(self) -> Identity:
        """Version of the file, not checked: `validate` may replace a version from the cache."""
        return self._version.identity

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return self.identity.size

    @property
    def connections(self) -> int:
        """Number of requests that one wave sends in parallel."""
        return self._source.connections

    def read(self, offset: int, length: int) -> bytes:
        """Read one range.

        Parameters
        ----------
        offset, length
            Begin and length of the range in bytes. Bytes beyond the end of the file are left out.

        Raises
        ------
        VFSError
            See `vfs.errors`.
        """
        return self.read_many([(offset, length)])[0]

    @call
    def read_many(
        self,
        ranges: Iterable[tuple[int, int]],
        *,
        spare: Sequence[tuple[int, int]] = (),
        keep: bool = False,
    ) -> list[bytes]:
        """Read ranges; one parallel wave fetches all bytes that are not cached.

        Parameters
        ----------
        ranges
            (offset, length) pairs in bytes, in any order.
        spare
            Further ranges to fetch into the cache, on connections that a necessary wave does not
            use.
        keep
            Whether the cache keeps the fetched blocks longer than others.

        Returns
        -------
        list of bytes
            Bytes of each range of `ranges`, fewer only at the end of the file.

        Raises
        ------
        ValueError
            An offset or a length is negative.
        VFSError
            See `vfs.errors`.
        """
        wanted = [(offset, offset + length) for offset, length in ranges]
        if any(start < 0 or end < start for start, end in wanted):
            raise ValueError("offsets and lengths cannot be negative")
        version = self._current()
        try:
            return self._read(version, wanted, spare, keep=keep)
        except FileChangedError:
            newer = self._newer(version)
            if newer is version:
                raise
            return self._read(newer, wanted, spare, keep=keep)

    @call
    def read_past_cache(self, ranges: Sequence[Range]) -> list[bytes]:
        """Read ranges in one parallel wave, one request each, without reading or filling the cache.

        This is for scans, which would displace more useful blocks from the cache.

        Parameters
        ----------
        ranges
            (start, end) pairs in bytes, end exclusive, none of them empty.

        Raises
        ------
        FileChangedError
            The server has another version, even if the present one is only from the cache.
        VFSError
            See `vfs.errors`.
        """
        version = self._current()
        return self._request(ranges, version)

    def cached(self, offset: int, length: int) -> bytes | None:
        """Return a range from the cache, None if the cache lacks a part of it."""
        return self._get(self._current(), offset, length)

    @call
    def validate(self) -> Identity:
        """Check that the server still has the version that the cache remembers.

        No request is sent once a response of the server has confirmed the version. If the server
        has another version, that version replaces the remembered one from here on.

        Returns
        -------
        Identity
            The version that is read from here on.
        """
        version = self._current()
        if not version.answered:
            try:
                self._check(version)
            except FileChangedError:
                version = self._newer(version)
        return version.identity

    def recall(self, name: str) -> bytes | None:
        """Return the record that `remember` stored for this version of the file, else None."""
        version = self._current()
        if not version.durable:
            return None
        return self._cache.get_record(digest("record", name, version.name))

    def remember(self, name: str, record: bytes) -> None:
        """Store a record about this version on disk, if a validator distinguishes the version."""
        version = self._current()
        if version.durable:
            self._cache.put_record(digest("record", name, version.name), record)

    @property
    def kept_files(self) -> KeptFiles | None:
        """The kept files in the cache directory, None without a disk cache."""
        return self._cache.kept

    def kept_name(self, what: str) -> bytes | None:
        """Return the name of a kept file derived from this version, None without a validator."""
        version = self._current()
        return digest("kept", what, version.name) if version.durable else None

    def close(self) -> None:
        """Close the connections and the cache; the object answers no more.

        A call in another thread completes, or raises a ClosedError.
        """
        self._closed = True
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

    def _current(self) -> _Version:
        if self._closed:
            raise ClosedError.of(self.name)
        return self._version

    @call
    def _first(self) -> _Version:
        """Return the version that the cache remembers, else the one that the server has."""
        server = digest("server", f"{self._source.server} {time.time() // DAY:.0f}")
        self._habits = server, self._cache.get_record(server) or b""
        self._source.habits = self._habits[1]
        recalled = self._cache.get_record(self._record_name)
        if recalled is None:
            return self._fetch_head()
        self._source.open_ahead()
        return _Version.from_record(self._name, recalled)

    def _fetch_head(self) -> _Version:
        """Fetch the first bytes of whichever version the server has, and return that version."""
        self._source.open_ahead()
        (head,), (identity,) = self._fetched([(0, HEAD)], None)
        if not identity.durable and self._options.validators == "strict":
            log.warning(
                "%s: the server tells neither a strong ETag nor a date of change older than a "
                "second; a change of the file is noticed by its size alone, and nothing is kept on "
                "disk. Web servers send both for plain files; lighttpd only for names whose suffix "
                "has a type in mimetype.assign",
                self.name,
            )
        self._source.open_ahead()  # a redirect may have led to another host
        version = _Version(self._name, identity, answered=True)
        self._keep(version, 0, head, keep=True)
        if version.durable:
            self._cache.put_record(self._record_name, version.to_record())
        return version

    def _newer(self, version: _Version) -> _Version:
        """Replace a version that only the cache has told, and return the version that is valid."""
        with self._lock:
            if self._version is version and not version.answered:
                self._version = self._fetch_head()
            return self._version

    def _check(self, version: _Version) -> None:
        """Have the server confirm the version by the first block, or by a whole small file."""
        size = version.identity.size
        end = size if size <= HEAD else BLOCK
        (body,) = self._request([(0, max(1, end))], version)
        held = self._get(version, 0, end)
        if held is None:
            self._keep(version, 0, body, keep=True)
        elif held != body:
            raise FileChangedError.of(self.name, version.known, "other bytes")

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
        if size <= HEAD:
            runs, extra = [(0, size)], []  # a server may have no ranges, and answer with the whole
        needed, all_runs = (
            [(start, min(end, size)) for start, end in _merge(ranges)]
            for ranges in (runs, runs + extra)
        )
        # If a budget is nearly used up, spare ranges or gaps are not requested.
        plans = [self._plan(all_runs), self._plan(needed), needed]
        plan = next(filter(self.budget.allows, plans), needed)
        bodies = self._request(plan, version)
        blocks: dict[int, bytes] = {}
        for (start, _), body in zip(plan, bodies, strict=True):
            blocks |= self._keep(version, start, body, keep=keep)
        return blocks

    def _request(self, ranges: Sequence[Range], version: _Version) -> list[bytes]:
        """Fetch ranges of a version, and record what the answers tell of it."""
        bodies, told = self._fetched(ranges, version.known)
        answers = set(told)
        for found in answers:
            unproven = version.durable and not version.known.proven_by(found)
            if unproven and found not in version.compared:
                self._compare(version, found)
        with self._lock:
            if self._version is not version and not version.answered:
                raise FileChangedError(f"{self.name}: the file changed while it was being opened")
            for found in answers:
                if version.known.contradicts(found):
                    raise FileChangedError.of(self.name, version.known, found)
                version.known = version.known.merged(found)
            version.answered = True
        return bodies

    def _compare(self, version: _Version, found: Identity) -> None:
        """Read some bytes again that the cache has, because an answer does not prove the version.

        Object stores keep the ETag, but not the date, if the same bytes are uploaded again. There
        are servers that do so even if the bytes are others.
        """
        numbers = self._cache.sample(version.blocks, COMPARED, on_disk=version.durable)
        held = self._cached(version, numbers)
        ranges = [(n * BLOCK, n * BLOCK + len(data)) for n, data in sorted(held.items())]
        if not ranges:
            raise FileChangedError.of(self.name, version.known, found)
        bodies, told = self._fetched(ranges, found)
        same = bodies == [held[start // BLOCK] for start, _ in ranges]
        if not same or any(found.contradicts(other) for other in told):
            came = f"{found}, and other bytes"
            raise FileChangedError.of(self.name, version.known, came)
        log.info("%s: (%s) has the same bytes as before", self.name, found)
        with self._lock:
            version.compared |= {found, version.known}
            version.known = found.merged(version.known)
        if version.durable and self._version is version:
            self._cache.put_record(self._record_name, version.to_record())

    def _fetched(
        self, ranges: Sequence[Range], version: Identity | None
    ) -> tuple[list[bytes], list[Identity]]:
        """Fetch ranges; a fork does not wait for that, even if SQLite reads the file.

        During a read, SQLite holds only locks of the connection, which a child process never uses.
        """
        try:
            with native.outside():
                bodies, told = self._source.fetch(ranges, version)
        except VFSError as failure:
            if self._closed:
                raise ClosedError.of(self.name) from failure
            raise
        name, known = self._habits
        habits = self._source.habits
        if told[0].durable and habits != known:
            self._habits = name, habits
            self._cache.put_record(name, habits)
        return bodies, told

    def _plan(self, runs: list[Range]) -> list[Range]:
        pace = self._source.pace
        return plan_wave(runs, self.connections, pace.latency, pace.bandwidth)

    def _keep(self, version: _Version, start: int, body: bytes, *, keep: bool) -> dict[int, bytes]:
        blocks = {(start + at) // BLOCK: body[at : at + BLOCK] for at in range(0, len(body), BLOCK)}
        self._cache.put(version.blocks, blocks, on_disk=version.durable, keep=keep)
        return blocks

    def _cached(self, version: _Version, numbers: Iterable[int]) -> dict[int, bytes]:
        return self._cache.get(version.blocks, numbers, on_disk=version.durable)

    def _get(self, version: _Version, offset: int, length: int) -> bytes | None:
        end = min(offset + length, version.identity.size)
        numbers = _numbers(offset, end)
        blocks = self._cached(version, numbers)
        return _cut(blocks, offset, end) if len(blocks) == len(numbers) else None


def _numbers(start: int, end: int) -> range:
    """Compute the numbers of the blocks that a byte range touches."""
    return range(start // BLOCK, -(-end // BLOCK) if start < end else start // BLOCK)


def _runs(numbers: Sequence[int]) -> list[Range]:
    """Convert rising block numbers to byte ranges, one for each run of adjacent blocks."""
    runs: list[Range] = []
    for number in numbers:
        if runs and runs[-1][1] == number * BLOCK:
            runs[-1] = (runs[-1][0], (number + 1) * BLOCK)
        else:
            runs.append((number * BLOCK, (number + 1) * BLOCK))
    return runs


def _merge(runs: list[Range]) -> list[Range]:
    """Sort ranges, and join ranges that touch or overlap."""
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
