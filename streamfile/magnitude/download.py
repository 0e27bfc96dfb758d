"""Download of whole files from web servers, resumed after an interruption."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from streamfile._progress import Progress
from streamfile.errors import FormatError
from vfs.errors import FileChangedError
from vfs.identity import Identity, lasting_query
from vfs.remote_file import RemoteFile, open_file

log = logging.getLogger(__name__)

PIECE = 8 << 20
MOST_VERSIONS = 3
SQLITE = b"SQLite format 3\0"


def download(url: str, target: Path, *, progress: bool = False) -> None:
    """Copy a ``.magnitude`` file from a web server; an incomplete copy has another name.

    An interrupted download leaves a partial file beside the target, whose name contains a digest of
    the version. The next call resumes the download, unless the file has changed. If the server
    sends no validator, every call begins anew. Several processes may download the same file.

    Parameters
    ----------
    url
        An http or https URL on a server that supports range requests.
    target
        Path of the new file. Its directory is created if it does not exist.
    progress
        Whether to show a progress bar if standard error is a terminal.

    Raises
    ------
    FormatError
        The file is no ``.magnitude`` file.
    vfs.VFSError
        See `vfs.errors`.
    OSError
        The directory cannot be written, or the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for version in range(1, MOST_VERSIONS + 1):
        with open_file(url, cache_size=0) as file:
            try:
                _fetch(file, target, progress=progress)
                return
            except FileChangedError as failure:
                if version == MOST_VERSIONS:
                    raise
                log.warning("%s; the download begins anew", failure)


def _fetch(file: RemoteFile, target: Path, *, progress: bool) -> None:
    """Copy one version of the file."""
    if file.read(0, len(SQLITE)) != SQLITE:
        raise FormatError(f"{file.name}: no .magnitude file, which is an SQLite database")
    if not file.identity.durable:
        partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
        try:
            _complete(file, partial, target, progress=progress)
        finally:
            partial.unlink(missing_ok=True)
        return
    partial = target.with_name(f"{target.name}.{_digest(file.url, file.identity)}.part")
    for old in target.parent.glob(f"{glob.escape(target.name)}.{'[0-9a-f]' * 16}.part"):
        if old != partial:
            old.unlink(missing_ok=True)
    _complete(file, partial, target, progress=progress)


def _complete(file: RemoteFile, partial: Path, target: Path, *, progress: bool) -> None:
    """Fetch the missing end of a partial file, and rename the file to the target.

    Other processes may write the same partial file. All processes write the same bytes, and each
    begins at the present end of the file. The partial file is therefore always a prefix of the
    whole file.
    """
    size = file.size
    handle = os.open(partial, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    with os.fdopen(handle, "r+b", buffering=0) as out:
        start = out.seek(0, os.SEEK_END)
        with Progress(target.name, size, initial=start, log=progress) as bar:
            for offset in range(start, size, PIECE):
                data = memoryview(file.read(offset, PIECE))
                bar.update(len(data))
                while data:
                    data = data[out.write(data) :]
        length = out.seek(0, os.SEEK_END)
        os.fsync(out.fileno())
    if length != size:
        partial.unlink(missing_ok=True)
        raise OSError(f"{partial}: {length:,} bytes instead of {size:,}: was it written by others?")
    try:
        partial.replace(target)
    except FileNotFoundError:  # another process has renamed it
        if not target.exists():
            raise


def _digest(url: str, version: Identity) -> str:
    """Hash the URL without a signature, and the version of the file, to 16 digits."""
    place = urlsplit(url)._replace(query=lasting_query(url), fragment="").geturl()
    name = place.encode() + b"\0" + repr(version).encode()
    return hashlib.blake2b(name, digest_size=8).hexdigest()
