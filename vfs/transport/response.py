"""Checks of responses to range requests."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

from vfs.errors import (
    AccessError,
    FileChangedError,
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
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
SECONDS = re.compile(r"[0-9]{1,18}")
PIECE = 1 << 20


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
    FileChangedError
        The response belongs to another version.
    TransportError
        The response does not match the request.
    MayPassError
        The response does not match the request, but another attempt may succeed.
    """
    headers = response.headers
    if response.status_code != 206:
        return _no_range(name, response, wanted, version)
    match = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    start, last, size = map(int, match.groups()) if match else (-1, -1, -1)
    length = last + 1 - start
    found = Identity.from_headers(size, headers)
    if match is not None and version is not None and not version.same_version(found):
        _changed(name, version, str(found))
    asked = f"bytes {wanted[0]}-{wanted[1] - 1}"
    if match is None or (start, last) != (wanted[0], min(wanted[1], size) - 1):
        came = headers.get("Content-Range") or headers.get("Content-Type")
        raise ResponseError(f"{name}: asked for {asked}, got {came!r}")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ResponseError(
            f"{name}: the range came compressed ({headers['Content-Encoding']}), though "
            "identity was asked for; turn off compression of this file on the server"
        )
    if headers.get("Content-Length", str(length)) != str(length):
        raise ResponseError(
            f"{name}: Content-Length {headers['Content-Length']} does not fit "
            f"{headers['Content-Range']!r}"
        )
    return found, length


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
    length, place = headers.get("Content-Length"), headers.get("Content-Range")
    if (status, length) == (200, "0") or (status, place) == (416, "bytes */0"):
        empty = Identity.from_headers(0, headers)
        if version is not None and not version.same_version(empty):
            _changed(name, version, str(empty))
        return empty, 0
    if status == 200:
        raise RangeError(
            f"{name}: the server ignores Range requests: it answered 200 with the whole file "
            f"({length or 'an unknown number of'} bytes), which was "
            "refused. Serve the file from one that answers ranges (nginx, Apache, S3, most "
            "CDNs, `streamfile serve`), or download it and open the local path"
        )
    if status == 412 and version is not None:
        _changed(name, version, f"412 and {headers.get('ETag', 'no ETag')}")
    if status == 416 and version is not None:
        _changed(name, version, f"416 and Content-Range {place!r}")
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


def _changed(name: str, version: Identity, came: str) -> NoReturn:
    raise FileChangedError(
        f"{name}: the file changed while it was open: expected version ({version}), "
        f"the server now has ({came}). Open it again to read the new version"
    )


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
