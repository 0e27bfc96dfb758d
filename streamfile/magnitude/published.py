"""Opening of models by path, by URL, or by the short name of a published model."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from streamfile.errors import ArgumentError, PathError
from streamfile.magnitude.download import download
from streamfile.readers.base import Reader
from streamfile.readers.open import open_reader
from streamfile.readers.remote import RemoteReader
from vfs.errors import NotFoundError
from vfs.identity import is_url, lasting_query
from vfs.options import expanded

messages = logging.getLogger(__name__)

PUBLISHED = "http://magnitude.plasticity.ai/"
DOWNLOAD_DIR = "~/.magnitude/"
SUFFIX = ".magnitude"
CONVERTIBLE = (".txt", ".vec", ".bin", ".hdf5", ".gz")
SHORT_NAME = re.compile(r"[^/\\:~.][^/\\:]*(/[^/\\:.][^/\\:]*)+")


def open_model(
    path: str,
    *,
    stream: bool,
    stream_options: Mapping[str, Any] | None,
    remote_path: str | None,
    route: str | os.PathLike[str] | bool,
    log: bool,
) -> Reader:
    """Open a model by path, URL or short name; download or convert it if necessary.

    Parameters
    ----------
    path, stream, stream_options, remote_path, route, log
        See `streamfile.Magnitude`.

    Raises
    ------
    PathError
        The file does not exist.
    FormatError
        The file is no ``.magnitude`` file, or has a newer format version.
    ArgumentError
        `stream_options` or `route` without `stream`.
    vfs.VFSError
        See `vfs.errors`.
    """
    options = dict(stream_options or {})
    path = path if is_url(path) else expanded(path)
    named = not is_url(path) and not Path(path).exists() and SHORT_NAME.fullmatch(path) is not None
    if stream:
        url = model_url(path, remote_path) if named else path
        return RemoteReader(url, route=route, **options)
    if options or route:
        given = "stream_options are" if options else "route is"
        raise ArgumentError(f"{given} given without stream=True")
    if named or is_url(path):
        try:
            return open_reader(download_model(path, remote_path=remote_path, log=log))
        except NotFoundError as failure:
            raise PathError(f"{path}: no such file here, nor on the web: {failure}") from failure
    if not Path(path).is_file():
        raise PathError(
            f"{path}: no such file; for a file on a web server pass its URL (and stream=True to "
            "read it without downloading it), for a published model a name such as "
            "glove/light/glove.6B.50d"
        )
    if path.lower().endswith(CONVERTIBLE):
        return open_reader(_converted(Path(path), log=log))
    return open_reader(path)


def download_model(
    model: str,
    download_dir: str | os.PathLike[str] = DOWNLOAD_DIR,
    remote_path: str | None = None,
    log: bool = False,
) -> str:
    """Download a model, unless its file exists already.

    An interrupted download leaves no file under the model's name. The next call resumes the
    download, unless the file on the server has changed.

    Parameters
    ----------
    model
        Short name such as ``word2vec/heavy/GoogleNews-vectors-negative300``, with or without
        ``.magnitude``, or a URL.
    download_dir
        Directory of the file. The file's name is the short name, or host, port and path of the
        URL, with ``_`` in place of slashes and colons, and a digest of the query unless it is a
        signature.
    remote_path
        URL of the directory of published models. Default: the environment variable
        ``STREAMFILE_REMOTE``, else http://magnitude.plasticity.ai/.
    log
        Whether to show a progress bar if standard error is a terminal.

    Returns
    -------
    str
        Path of the file.

    Raises
    ------
    ArgumentError
        `model` is empty.
    FormatError
        The file on the server is no ``.magnitude`` file.
    vfs.VFSError
        See `vfs.errors`.
    OSError
        The directory cannot be written, or the disk is full.
    """
    url = model_url(model, remote_path)
    if is_url(model):
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        name = f"{parts.hostname}{port}{parts.path}"
        if query := lasting_query(url):  # it may select the file
            told = hashlib.sha256(query.encode(errors="surrogateescape")).hexdigest()[:16]
            name = f"{name.removesuffix(SUFFIX)}.{told}{SUFFIX}"
    else:
        name = model if model.endswith(SUFFIX) else model + SUFFIX
    target = Path(expanded(download_dir)) / re.sub(r"[/\\:]", "_", name)
    if not target.is_file():
        download(url, target, progress=log)
    return str(target)


def _converted(path: Path, *, log: bool) -> str:
    """Convert a file, unless its present version was converted before; return the new path."""
    from streamfile.tools.convert import convert  # only conversions need it

    about = path.stat()
    facts = f"{path.resolve()}\0{about.st_size}\0{about.st_mtime_ns}"
    digest = hashlib.sha256(facts.encode(errors="surrogateescape")).hexdigest()[:16]
    target = Path(expanded(DOWNLOAD_DIR)) / f"{path.name}.{digest}{SUFFIX}"
    if not target.is_file():
        messages.warning(
            "%s: not a .magnitude file; it is converted to %s, as streamfile convert does",
            path,
            target,
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        convert(path, target, log=log)
    return str(target)


def model_url(model: str, remote_path: str | None = None) -> str:
    """Return the URL of a model.

    Parameters
    ----------
    model, remote_path
        See `download_model`.
    """
    if not model:
        raise ArgumentError("'' is no model: expected a name or a URL")
    if is_url(model):
        return model
    base = remote_path or os.environ.get("STREAMFILE_REMOTE") or PUBLISHED
    path = model if model.endswith(SUFFIX) else model + SUFFIX
    return f"{base.rstrip('/')}/{quote(path.lstrip('/'))}"
