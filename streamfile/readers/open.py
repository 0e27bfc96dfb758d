"""Opening of a file by path or URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from streamfile.errors import PathError
from streamfile.readers.base import Reader
from streamfile.readers.local import LocalReader
from streamfile.readers.remote import RemoteReader
from vfs.identity import is_url
from vfs.options import expanded


def open_reader(source: str | os.PathLike[str], **options: Any) -> Reader:
    """Open a ``.magnitude`` file, local or on a web server.

    Parameters
    ----------
    source
        Path or URL of the file.
    **options
        Options for a URL: ``route``, see `RemoteReader`, and the options of `vfs.open`.

    Raises
    ------
    PathError
        The local file does not exist.
    FormatError, vfs.VFSError
        The file is no ``.magnitude`` file, is damaged, or cannot be reached.
    """
    name = os.fspath(source)
    if is_url(name):
        return RemoteReader(name, **options)
    name = expanded(name)
    if not Path(name).is_file():
        raise PathError(f"{name}: no such file; expected a .magnitude file or the URL of one")
    return LocalReader(name)
