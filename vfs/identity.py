"""Which version of a file an answer belongs to (RFC 9110, sections 8.8 and 13.1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit


@dataclass(frozen=True)
class Identity:
    """The version of a remote file.

    Attributes
    ----------
    size
        Length in bytes.
    etag
        The strong ETag, quotes included, or None.
    last_modified
        The Last-Modified header as it came, or None.
    """

    __module__ = "vfs"

    size: int
    etag: str | None = None
    last_modified: str | None = None

    @classmethod
    def from_headers(cls, size: int, headers: Mapping[str, str]) -> Identity:
        """Take the validators from an answer's headers; weak ETags (``W/"…"``) do not count."""
        etag = headers.get("ETag")
        if etag is not None and not etag.startswith('"'):
            etag = None
        return cls(size, etag, headers.get("Last-Modified"))

    @classmethod
    def from_json(cls, data: bytes) -> Identity:
        """Undo `to_json`."""
        return cls(**json.loads(data))

    def to_json(self) -> bytes:
        """Serialise."""
        return json.dumps(asdict(self)).encode()

    @property
    def durable(self) -> bool:
        """Whether a validator tells this version from others of the same size."""
        return self.etag is not None or self.last_modified is not None

    def conditions(self) -> dict[str, str]:
        """Give the request headers that make a server refuse another version with 412."""
        if self.etag is not None:
            return {"If-Match": self.etag}
        if self.last_modified is not None:
            return {"If-Unmodified-Since": self.last_modified}
        return {}

    def same_version(self, other: Identity) -> bool:
        """Compare by strong ETag, else by Last-Modified, and always by size."""
        if self.size != other.size:
            return False
        if self.etag is not None or other.etag is not None:
            return self.etag == other.etag
        return self.last_modified == other.last_modified

    def __str__(self) -> str:
        """Describe for messages."""
        validator = self.etag or self.last_modified or "no validator"
        return f"{validator}, {self.size:,} bytes"


def is_url(name: str) -> bool:
    """Tell whether a name is the URL of something on a web server, and not a path."""
    return name.lower().startswith(("http://", "https://"))


def url_name(url: str) -> str:
    """Name a file for the cache by its URL: scheme, host and path, without the query.

    Parameters
    ----------
    url
        The address as it was given.
    """
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"url\0{parts.scheme}\0{parts.hostname}\0{port}\0{parts.path}"


def digest(*names: str) -> bytes:
    """Hash names to the 16 bytes under which the cache files something."""
    return hashlib.blake2b("\0\0".join(names).encode(), digest_size=16).digest()


def local_name(path: str, what: str) -> bytes:
    """Name a kept file made of a local file as it is now.

    Parameters
    ----------
    path
        The local file, named by its real path, size, time of change and inode.
    what
        What is made of it.

    Raises
    ------
    OSError
        There is no such file.
    """
    real = Path(path).resolve(strict=True)
    facts = real.stat()
    version = (facts.st_size, facts.st_mtime_ns, facts.st_ino)
    return digest("kept", what, "local", str(real), *map(str, version))


def shown(url: str) -> str:
    """Give a URL for messages and logs: without password, query and fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "…" if parts.query else "", ""))
