"""Options that `vfs.open`, `vfs.connect` and the readers in `streamfile` share."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from vfs.errors import OptionError

MIB = 1 << 20
LONGEST = 365 * 24 * 3600  # seconds; operating systems reject much longer timeouts
LARGEST = 2**63 - 1  # bytes of a file, for operating systems
SIZE = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?) *([kmgt]?)(i?)(b?)", re.IGNORECASE)
FORMS = '"536870912", "512MB", "1.5 GB" or "2GiB"'
SIZES = ("cache_size", "memory_size", "max_bytes")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a remote file.

    Attributes
    ----------
    cache_dir
        Directory of the disk cache, which belongs to this user, and which nobody else may write.
        ``~`` is the home directory. Default: ``STREAMFILE_CACHE_DIR``, else the platform's user
        cache directory, else a directory in the temporary one, else none.
    cache_size
        Cap of the cache directory, in bytes or as a text such as ``"2GiB"`` (see `size_of`), 0 for
        no disk cache. Default: ``STREAMFILE_CACHE_SIZE``, else the smaller of 512 MiB and half the
        free space.
    memory_size
        Cap of the memory cache, in bytes or as a text.
    cache_key
        Name of the file in the cache. Default: its scheme, host, port, path and query, without a
        signature in the query.
    connections
        Greatest number of parallel connections.
    timeout
        Seconds to wait for a connection, and for each piece of a response.
    retries
        Greatest number of further attempts at one request after a temporary failure.
    deadline
        Greatest duration of one call in seconds, all waits and retries included. Default: 120,
        and for scans and copies of whole files, 120 without progress.
    headers
        Headers sent to the host of the URL, but not to another host after a redirect.
    session
        A `requests.Session` or a compatible object, with authentication, proxies, certificates.
    validators
        ``"strict"`` compares everything that answers tell of the version of the file. ``"size"``
        compares nothing but the size, for servers that tell different validators of one file by
        turns; nothing is kept on disk then.
    max_requests, max_bytes
        Greatest numbers of requests and of body bytes (or a text as for ``cache_size``) until the
        file is closed.
    """

    __module__ = "vfs"

    cache_dir: str | os.PathLike[str] | None = None
    cache_size: int | None = None
    memory_size: int = 32 * MIB
    cache_key: str | None = None
    connections: int = 32
    timeout: float = 30.0
    retries: int = 5
    deadline: float | None = None
    headers: Mapping[str, str] | None = None
    session: Any = None
    validators: str = "strict"
    max_requests: int | None = None
    max_bytes: int | None = None

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Options:
        """Make options from a mapping, and check names and values.

        Raises
        ------
        OptionError
            An option does not exist (the message lists the options), or has an impossible value.
        """
        known = [field.name for field in fields(cls)]
        unknown = [name for name in options if name not in known]
        if unknown:
            names = ", ".join(map(repr, unknown))
            raise OptionError(f"unknown option {names}; the options are {', '.join(known)}")
        sizes = {
            name: size_of(f"option {name}", options[name])
            for name in SIZES
            if isinstance(options.get(name), str)
        }
        parsed = cls(**{**options, **sizes})
        for name, least, kinds in (
            ("cache_size", 0, int),
            ("memory_size", 0, int),
            ("connections", 1, int),
            ("retries", 0, int),
            ("max_requests", 0, int),
            ("max_bytes", 0, int),
            ("timeout", 0, (int, float)),
            ("deadline", 0, (int, float)),
        ):
            value = getattr(parsed, name)
            if value is None and name in ("cache_size", "max_requests", "max_bytes", "deadline"):
                continue
            if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least:
                texts = f", or a text: {FORMS}" if name in SIZES else ""
                raise OptionError(
                    f"option {name}={value!r}: expected a number of at least {least}{texts}"
                )
            if name in SIZES and value > LARGEST:
                raise OptionError(f"option {name}={value!r}: expected at most {LARGEST:,} bytes")
            if name in ("timeout", "deadline") and value > LONGEST:
                raise OptionError(f"option {name}={value!r}: expected at most {LONGEST:,} seconds")
        if not isinstance(parsed.cache_dir, str | os.PathLike | None):
            raise OptionError(f"option cache_dir={parsed.cache_dir!r}: expected a path")
        if not isinstance(parsed.headers, Mapping | None):
            raise OptionError(f"option headers={parsed.headers!r}: expected a mapping of strings")
        if not isinstance(parsed.cache_key, str | None):
            raise OptionError(f"option cache_key={parsed.cache_key!r}: expected a string")
        if parsed.validators not in ("strict", "size"):
            raise OptionError(
                f'option validators={parsed.validators!r}: expected "strict" or "size"'
            )
        if parsed.session is not None and not hasattr(parsed.session, "get"):
            raise OptionError(f"option session={parsed.session!r}: expected a requests.Session")
        return parsed


def size_of(name: str, text: str) -> int:
    """Read a number of bytes, with or without a unit.

    Parameters
    ----------
    name
        Name of the option, for the message.
    text
        Digits, with a unit if there are decimal places. kB, MB, GB and TB are powers of 1,000, and
        KiB, MiB, GiB and TiB powers of 1,024. Case does not count.

    Raises
    ------
    OptionError
        The text is no size.
    """
    match = SIZE.fullmatch(text.strip())
    number, prefix, binary, unit = match.groups() if match else ("", "", "", "")
    whole = "." not in number
    if match is None or (prefix and not unit) or (not prefix and (binary or not whole)):
        raise OptionError(f"{name}={text!r}: expected a number of bytes, such as {FORMS}")
    factor: int = (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " ")
    size = math.ceil(Decimal(number) * factor)
    if size > LARGEST:
        raise OptionError(f"{name}={text!r}: expected at most {LARGEST:,} bytes")
    return size


def expanded(path: str | os.PathLike[str]) -> str:
    """Return a local path with the home directory in place of ``~``, if there is such a home."""
    return os.path.expanduser(path)  # noqa: PTH111 - `Path.expanduser` changes other paths too
