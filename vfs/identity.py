"""Version of a file, as validators tell it (RFC 9110, sections 8.8 and 13.1), and cache names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
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
    """The version of a remote file, as far as one answer or several tell it.

    Attributes
    ----------
    size
        Length of the file in bytes.
    etag
        The ETag as it was sent, quotes and ``W/`` included, or None.
    last_modified
        The value of the Last-Modified header, unchanged, or None.
    recent
        Whether the file was modified less than a second before the answer. Another change within
        that second may have the same Last-Modified, which therefore proves nothing.
    """

    __module__ = "vfs"

    size: int
    etag: str | None = None
    last_modified: str | None = None
    recent: bool = field(default=False, compare=False, repr=False)

    @classmethod
    def from_headers(cls, size: int, headers: Mapping[str, str]) -> Identity:
        """Read the validators from a response's headers."""
        modified, date = headers.get("Last-Modified"), headers.get("Date")
        etag = headers.get("ETag", "").strip() or None
        return cls(size, etag, modified, recent=_seconds_between(modified, date) < 1)

    @property
    def strong(self) -> bool:
        """Whether the ETag changes with every change of the bytes (RFC 9110, section 8.8.1)."""
        return self.etag is not None and self.etag.startswith('"')

    @property
    def durable(self) -> bool:
        """Whether a validator distinguishes this version from all others of the same size."""
        return self.strong or (self.last_modified is not None and not self.recent)

    def conditions(self) -> dict[str, str]:
        """Return request headers that make a server answer 412 if it has another version."""
        if self.strong:
            return {"If-Match": str(self.etag)}
        if self.etag is None and self.last_modified is not None:
            return {"If-Unmodified-Since": self.last_modified}
        return {}

    def contradicts(self, other: Identity) -> bool:
        """Tell whether two answers cannot belong to one version: sizes, ETags or dates differ.

        A new date beside an equal strong ETag is no contradiction: object stores keep the ETag if
        equal bytes are uploaded again. It is no proof either.
        """
        if self.size != other.size or self._tags_differ(other):
            return True
        return self._dates_differ(other) and not self._strongly_equal(other)

    def comparable(self, other: Identity) -> bool:
        """Tell whether two answers have a validator of the same kind."""
        tags, dates = (self.etag, other.etag), (self.last_modified, other.last_modified)
        return None not in tags or None not in dates

    def proven_by(self, other: Identity) -> bool:
        """Tell whether an answer that does not contradict has a validator that proves equality."""
        if self._strongly_equal(other):
            return not self._dates_differ(other)
        modified = self.last_modified
        recent = self.recent or other.recent
        return modified is not None and modified == other.last_modified and not recent

    def merged(self, other: Identity) -> Identity:
        """Add the validators that another answer about the same version told, and this one not."""
        if self.last_modified is None:
            date, recent = other.last_modified, other.recent
        else:
            date, recent = self.last_modified, self.recent
        return Identity(self.size, self.etag or other.etag, date, recent)

    def _tags_differ(self, other: Identity) -> bool:
        tags = self.etag, other.etag
        return None not in tags and _opaque(self.etag) != _opaque(other.etag)

    def _dates_differ(self, other: Identity) -> bool:
        dates = self.last_modified, other.last_modified
        return None not in dates and dates[0] != dates[1]

    def _strongly_equal(self, other: Identity) -> bool:
        return self.strong and other.strong and self.etag == other.etag

    def __str__(self) -> str:
        """Describe the version in error messages."""
        told = [f"ETag {self.etag}"] if self.etag else []
        told += [f"Last-Modified {self.last_modified}"] if self.last_modified else []
        return f"{', '.join(told) or 'no validator'}, {self.size:,} bytes"


def _opaque(etag: str | None) -> str:
    """Return an ETag without the mark of weak ones, and without quotes."""
    return (etag or "").removeprefix("W/").removeprefix("w/").strip('"')


def _seconds_between(modified: str | None, date: str | None) -> float:
    """Return the seconds from Last-Modified to Date, infinite if one of them is not told."""
    if modified is None or date is None:
        return float("inf")
    try:
        return (parsedate_to_datetime(date) - parsedate_to_datetime(modified)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return float("inf")


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
