"""Requests of a range until an answer belongs to the wanted version, or the version is gone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from vfs.errors import FileChangedError, ResponseError
from vfs.identity import Identity
from vfs.transport.plan import Range
from vfs.transport.response import ContradictionError, PreconditionError, ShorterError, believe

log = logging.getLogger(__name__)

AGAIN = 2
IF_UNCHANGED = (
    "; if that fails in the same way though nobody changed the file, several servers tell "
    'different validators of it, see the option validators="size"'
)


class Versions:
    """Comparison of answers with versions, with the experience of earlier answers.

    Parameters
    ----------
    name
        Name of the file, for messages.
    only_sizes
        Whether to compare nothing but sizes.
    """

    def __init__(self, name: str, *, only_sizes: bool) -> None:
        self._name = name
        self._only_sizes = only_sizes
        self._answered: Identity | None = None  # an answer to a request of this process
        self._mixed = False  # whether answers contradicted this one, and others did not

    def ask(
        self,
        wanted: Range,
        version: Identity | None,
        request: Callable[[Mapping[str, str]], Any],
        read: Callable[[Any, int], bytes],
    ) -> tuple[bytes, Identity]:
        """Request a range, and ask again if the answer contradicts what others have told.

        A version that only the cache has told is given up at the first contradiction.

        Parameters
        ----------
        wanted
            The range, whose end may lie beyond the end of the file.
        version
            Version that the answer must belong to, None for any version.
        request
            Function that sends a request with given headers, and returns the response.
        read
            Function that reads the body of a response, of a given length.

        Returns
        -------
        body, version

        Raises
        ------
        FileChangedError
            The file is no longer this version.
        TransportError, MayPassError
            See `believe`.
        """
        wrong, shortened = 0, False
        conditions = {} if version is None else version.conditions()
        while True:
            headers = {"Range": f"bytes={wanted[0]}-{wanted[1] - 1}", "Accept-Encoding": "identity"}
            response = request(headers | conditions)
            try:
                found, length = believe(self._name, response, wanted, version)
                body = read(response, length)
            except ContradictionError as other:
                response.close()
                wrong += 1
                if version is None or wrong > AGAIN or not self._seen(version):
                    raise self._changed(version, other.came) from None
            except PreconditionError:
                response.close()
                if not conditions:
                    raise self._changed(version, "status 412") from None
                conditions = {}
            except ShorterError as shorter:
                response.close()
                if shortened:
                    raise ResponseError(f"{self._name}: status 416 for a range in it") from None
                wanted, shortened = (wanted[0], shorter.size), True
            except BaseException:
                response.close()
                raise
            else:
                if wrong and not self._mixed:
                    self._mixed = True
                    log.info("%s: answers tell different validators by turns", self._name)
                self._answered = Identity(found.size) if self._only_sizes else found
                return body, self._answered

    def _seen(self, version: Identity) -> bool:
        return self._answered is not None and not self._answered.contradicts(version)

    def _changed(self, version: Identity | None, came: str) -> FileChangedError:
        if not self._mixed:
            return FileChangedError.of(self._name, version, came, IF_UNCHANGED)
        return FileChangedError(
            f"{self._name}: expected version ({version}), the server now has ({came}), and other "
            "answers were as expected: several servers seem to be behind this address, which tell "
            "different validators of one file. Let them send the same ETag and Last-Modified; if "
            'you know that all of them have the same file, the option validators="size" compares '
            "nothing but its size, and keeps nothing on disk"
        )
