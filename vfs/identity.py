"""Version of a file, as validators tell it (RFC 9110, sections 8.8 and 13.1), and cache names."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote_plus, urlsplit, urlunsplit

# Of each way to sign a URL: parameters that are always there, and all that belong to it, in lower
# case.
SIGNATURES = tuple(
    (frozenset(needed.split()), re.compile(every))
    for needed, every in (
        ("x-amz-signature", r"x-amz-.*"),  # Amazon S3, version 4
        ("awsaccesskeyid expires signature", r"awsaccesskeyid|expires|signature|x-amz-.*"),
        ("x-goog-signature", r"x-goog-.*"),  # Google Cloud Storage, version 4
        ("googleaccessid expires signature", r"googleaccessid|expires|signature"),
        # Amazon CloudFront, which the Hugging Face hub redirects to, too
        ("expires signature key-pair-id", r"expires|policy|signature|key-pair-id|hash-algorithm"),
        ("policy signature key-pair-id", r"expires|policy|signature|key-pair-id|hash-algorithm"),
        (  # Azure: a shared access signature
            "sig sv",
            r"sv|ss|srt|sr|sp|st|se|sip|spr|sig|si|sdd|ses|saoid|suoid|scid"
            r"|skoid|sktid|skt|ske|sks|skv",
        ),
    )
)


@dataclass(frozen=True)
class Identity:
    """The version of a remote file.

    Attributes
    ----------
    size
        Length of the file in bytes.
    etag
        The strong ETag, quotes included, or None.
    last_modified
        The value of the Last-Modified header, unchanged, or None.
    """

    __module__ = "vfs"

    size: int
    etag: str | None = None
    last_modified: str | None = None

    @classmethod
    def from_headers(cls, size: int, headers: Mapping[str, str]) -> Identity:
        """Read the validators from a response's headers; weak ETags (``W/"…"``) are ignored."""
        etag = headers.get("ETag")
        if etag is not None and not etag.startswith('"'):
            etag = None
        return cls(size, etag, headers.get("Last-Modified"))

    @classmethod
    def from_json(cls, data: bytes) -> Identity:
        """Read an identity from the JSON that `to_json` makes."""
        return cls(**json.loads(data))

    def to_json(self) -> bytes:
        """Serialise the identity as JSON."""
        return json.dumps(asdict(self)).encode()

    @property
    def durable(self) -> bool:
        """Whether a validator distinguishes this version from others of the same size."""
        return self.etag is not None or self.last_modified is not None

    def conditions(self) -> dict[str, str]:
        """Return request headers that make a server answer 412 if it has another version."""
        if self.etag is not None:
            return {"If-Match": self.etag}
        if self.last_modified is not None:
            return {"If-Unmodified-Since": self.last_modified}
        return {}

    def same_version(self, other: Identity) -> bool:
        """Compare sizes and strong ETags, or Last-Modified if neither version has an ETag."""
        if self.size != other.size:
            return False
        if self.etag is not None or other.etag is not None:
            return self.etag == other.etag
        return self.last_modified == other.last_modified

    def __str__(self) -> str:
        """Describe the version in error messages."""
        validator = self.etag or self.last_modified or "no validator"
        return f"{validator}, {self.size:,} bytes"


def is_url(name: str) -> bool:
    """Tell whether a name is an http or https URL, not a path."""
    return name.lower().startswith(("http://", "https://"))


def url_name(url: str) -> str:
    """Make the name of a file in the cache from its URL, without a signature in its query.

    Parameters
    ----------
    url
        URL of the file.

    Returns
    -------
    str
        Scheme, host, port, path and `lasting_query`, as they are written; case counts in all but
        scheme and host. The fragment, and user name and password, have no part in the name.
    """
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    query = lasting_query(url)
    asked = f"?{query}" if query else ""
    return f"url\0{parts.scheme}\0{parts.hostname}\0{port}\0{parts.path}{asked}"


def lasting_query(url: str) -> str:
    """Return the query of a URL without the parameters of a signature, which soon expires.

    Only a complete set of parameters, as the storage services write it, is a signature: a name
    such as ``Expires`` or ``sp`` alone may select another file. All other parameters stay, in
    their order.
    """
    parameters = [part for part in urlsplit(url).query.split("&") if part]
    names = [unquote_plus(part.partition("=")[0]).lower() for part in parameters]
    signed = [others for needed, others in SIGNATURES if needed.issubset(names)]
    return "&".join(
        part
        for part, name in zip(parameters, names, strict=True)
        if not any(others.fullmatch(name) for others in signed)
    )


def digest(*names: str) -> bytes:
    """Hash names to a 16-byte digest, the form of keys in the cache."""
    return hashlib.blake2b("\0\0".join(names).encode(), digest_size=16).digest()


def local_name(path: str, what: str) -> bytes:
    """Make the name of a kept file that is derived from the present version of a local file.

    Parameters
    ----------
    path
        Path of the local file. Its real path, size, modification time and inode are its version.
    what
        Name of the derived content.

    Raises
    ------
    OSError
        The local file does not exist.
    """
    real = Path(path).resolve(strict=True)
    facts = real.stat()
    version = (facts.st_size, facts.st_mtime_ns, facts.st_ino)
    return digest("kept", what, "local", str(real), *map(str, version))


def shown(url: str) -> str:
    """Return a URL for messages and logs, without user name, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "…" if parts.query else "", ""))
