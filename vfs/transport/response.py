"""Checks of responses to range requests."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

from vfs.errors import (
    AccessError,
    NotFoundError,
    RangeError,
    ResponseError,
    StatusError,
)
from vfs.identity import Identity
from vfs.transport.failures import MayPassError
from vfs.transport.plan import Range

RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}
REFUSING_STATUS = {429, 503}
CONTENT_RANGE = re.compile(
    r"\s*bytes[\s:=]\s*([0-9]{1,18})\s*-\s*([0-9]{1,18})\s*/\s*([0-9]{1,18}|\*)\s*", re.IGNORECASE
)
UNSATISFIED = re.compile(r"\s*bytes[\s:=]\s*\*\s*/\s*([0-9]{1,18})\s*", re.IGNORECASE)
UNCOMPRESSED = {"", "identity", "none", "binary", "aws-chunked"}
SECONDS = re.compile(r"[0-9]{1,18}")
PIECE = 1 << 20


class ContradictionError(Exception):
    """An answer does not belong to the wanted version, or tells nothing about that.

    Parameters
    ----------
    came
        Description of the answer.
    """

    def __init__(self, came: str) -> None:
        super().__init__(came)
        self.came = came


class PreconditionError(Exception):
    """A server refused the condition, but its answer tells no other version (status 412)."""


class ShorterError(Exception):
    """A server wants ranges within the file, and tells its size (status 416).

    Parameters
    ----------
    size
        Length of the file in bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def believe(
    name: str, response: Any, wanted: Range, version: Identity | None
) -> tuple[Identity, int]:
    """Check the status and the headers of a response.

    Parameters
    ----------
    name
        Name of the file, for error messages.
    response
        Response of `requests`, whose body is not read yet.
    wanted
        The requested range.
    version
        Version that the response must belong to, None for any version.

    Returns
    -------
    version, length
        Version of the response, and the length in bytes that its body must have.

    Raises
    ------
    ContradictionError
        The response belongs to another version.
    TransportError
        The response does not match the request.
    MayPassError
        The response does not match the request, but another attempt may succeed.
    PreconditionError, ShorterError
        Another form of the request may succeed.
    """
    headers = response.headers
    if response.status_code != 206:
        return _no_range(name, response, wanted, version)
    told = headers.get("Content-Range")
    match = CONTENT_RANGE.fullmatch(told or "")
    asked = f"bytes {wanted[0]}-{wanted[1] - 1}"
    if match is not None and match[3] == "*":
        raise ResponseError(
            f"{name}: asked for {asked}, got {told!r}, in which the size of the file is missing; "
            "the server or a proxy before it has to tell it"
        )
    start, last, size = map(int, match.groups()) if match else (-1, -1, -1)
    found = Identity.from_headers(size, headers)
    if match is not None:
        _compare(version, found)
    if match is None or (start, last) != (wanted[0], min(wanted[1], size) - 1):
        came = told or headers.get("Content-Type")
        raise ResponseError(f"{name}: asked for {asked}, got {came!r}")
    return found, _declared_length(name, headers, last + 1 - start)


def _declared_length(name: str, headers: Any, length: int) -> int:
    """Return the length of a body, unless other headers contradict it."""
    coding = headers.get("Content-Encoding", "")
    if not {one.strip().lower() for one in coding.split(",")} <= UNCOMPRESSED:
        raise ResponseError(
            f"{name}: the range came compressed ({coding}), though identity was asked for; turn "
            "off compression of this file on the server"
        )
    declared = headers.get("Content-Length", str(length))
    if {one.strip() for one in declared.split(",")} != {str(length)}:
        raise ResponseError(
            f"{name}: Content-Length {declared} does not fit {headers['Content-Range']!r}"
        )
    return length


def pieces(response: Any) -> Iterator[bytes]:
    """Yield the pieces of a body as they arrive.

    A slow body has short pieces, so that the caller can check the deadline between them. `requests`
    itself waits until a piece is full.
    """
    read1 = getattr(getattr(response, "raw", None), "read1", None)
    if read1 is None:  # urllib3 before 2, or another library than `requests`
        yield from response.iter_content(PIECE)
        return
    while piece := read1(PIECE):
        yield piece


def _no_range(
    name: str, response: Any, wanted: Range, version: Identity | None
) -> tuple[Identity, int]:
    status, headers = response.status_code, response.headers
    if status == 200:
        return _whole(name, headers, wanted, version)
    place = headers.get("Content-Range")
    match = UNSATISFIED.fullmatch(place or "")
    size = int(match[1]) if match else None
    if status == 416 and size is not None:
        found = Identity.from_headers(size, headers)
        if version is None or version.size != size:
            _compare(version, found)
            if size == 0:
                return found, 0
        if wanted[0] < size < wanted[1]:
            raise ShorterError(size)
    if status == 412 and version is not None:
        told = Identity.from_headers(version.size, headers)
        _compare(version, told, missing_ok=True)
        raise PreconditionError
    if status == 416 and version is not None:
        raise ContradictionError(f"416 and Content-Range {place!r}")
    if status in (404, 410):
        raise NotFoundError(f"{name}: not found ({status}); check the address", status)
    if status in (401, 403, 407):
        raise AccessError(
            f"{name}: access refused ({status}); give credentials by the option headers or "
            "session, or a fresh signed URL",
            status,
        )
    error = StatusError(
        f"{name}: asked for bytes {wanted[0]}-{wanted[1] - 1}, got status {status}", status
    )
    if status in RETRIED_STATUS:
        wait = _retry_after(headers.get("Retry-After"))
        raise MayPassError(error, wait, refused=status in REFUSING_STATUS)
    raise error


def _whole(
    name: str, headers: Any, wanted: Range, version: Identity | None
) -> tuple[Identity, int]:
    """Believe an answer with the whole file, if the whole file was asked for."""
    if headers.get("Content-Type", "").lower().startswith("text/html"):
        raise AccessError(
            f"{name}: a web page came in place of the file (200, text/html): a page to log in or "
            "to consent, or an error; open the address in a browser to see it, and give "
            "credentials by the option headers or session, or the address of the file itself",
            200,
        )
    lengths = {one.strip() for one in headers.get("Content-Length", "unknown").split(",")}
    length = lengths.pop()
    if not lengths and SECONDS.fullmatch(length):
        found = Identity.from_headers(int(length), headers)
        _compare(version, found)
        if wanted[0] == 0 and found.size <= wanted[1]:
            return found, _declared_length(name, headers, found.size)
    raise RangeError(
        f"{name}: the server ignores Range requests: it answered 200 with the whole file "
        f"({length if length != 'unknown' else 'an unknown number of'} bytes), which was "
        "refused. Serve the file from one that answers ranges (nginx, Apache, S3, most "
        "CDNs, `streamfile serve`), or download it and open the local path"
    )


def _compare(version: Identity | None, found: Identity, *, missing_ok: bool = False) -> None:
    """Raise an error if an answer does not belong to a version, or tells nothing about that."""
    if version is None:
        return
    untold = version.durable and not missing_ok and not version.comparable(found)
    if untold or version.contradicts(found):
        raise ContradictionError(str(found))


def _retry_after(value: str | None) -> float | None:
    """Parse Retry-After (RFC 9110, section 10.2.3), seconds or a date, to seconds from now."""
    if value is None:
        return None
    if SECONDS.fullmatch(value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
