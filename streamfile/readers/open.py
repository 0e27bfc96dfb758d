"""A path or a URL to the reader of what is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from streamfile.errors import PathError
from streamfile.readers.base import Reader
from streamfile.readers.local import LocalReader
from streamfile.readers.remote import RemoteReader
from vfs.identity import is_url


def open_reader(source: str | os.PathLike[str], **options: Any) -> Reader:
    """Open a ``.magnitude`` file, on this machine or on a web server.

    Parameters
    ----------
    source
        A path or a URL.
    **options
        For a URL: ``route``, see `RemoteReader`, and those of `vfs.open`.

    Raises
    ------
    PathError
        There is no such file.
    FormatError, vfs.VFSError
        It is no ``.magnitude`` file, is damaged, or cannot be reached.
    """
    name = os.fspath(source)
    if is_url(name):
        return RemoteReader(name, **options)
    if not Path(name).is_file():
        raise PathError(f"{name}: no such file; expected a .magnitude file or the URL of one")
    return LocalReader(name)
