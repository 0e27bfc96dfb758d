"""Base class of sources, which fetch ranges of one version of a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from vfs.identity import Identity, shown
from vfs.options import Options
from vfs.stats import Budget, Stats
from vfs.transport.plan import Pace, Range


class Source(ABC):
    """Base class of sources: all that `RemoteFile` needs to read a file from a server.

    Threads may share a source, forked processes may use it, and it can be pickled.

    Parameters
    ----------
    url
        URL of the file.
    options
        Options of the file, which include the budgets.

    Attributes
    ----------
    url : str
        URL of the file.
    name : str
        URL for messages and logs, without secrets.
    budget : Budget
        Limits of requests and bytes, and their counters.
    pace : Pace
        Measured latency and bandwidth.
    """

    def __init__(self, url: str, options: Options) -> None:
        self.url = url
        self.name = shown(url)
        self.budget = Budget(Stats(), options.max_requests, options.max_bytes)
        self.pace = Pace()

    @property
    @abstractmethod
    def cache_name(self) -> str:
        """Unique name of the file in the cache, the same for all signed URLs of the file."""

    @property
    def server(self) -> str:
        """Unique name of the server in the cache."""
        return self.cache_name

    @property
    def habits(self) -> bytes:
        """Record of what the server bears, for later sources on it; empty if nothing is known."""
        return b""

    @habits.setter  # noqa: B027 - few sources have any
    def habits(self, record: bytes) -> None:
        """Restore what an earlier source has seen."""

    @property
    @abstractmethod
    def connections(self) -> int:
        """Number of requests that can run in parallel."""

    @abstractmethod
    def fetch(
        self, ranges: Sequence[Range], version: Identity | None
    ) -> tuple[list[bytes], list[Identity]]:
        """Fetch ranges in one parallel wave.

        Parameters
        ----------
        ranges
            (start, end) pairs in bytes, end exclusive. An end may lie beyond the end of the file.
        version
            Version that no response may contradict, None for any version.

        Returns
        -------
        bodies, versions
            One body for each range, shorter only at the end of the file; what each response told of
            the version. The caller compares the responses with each other.

        Raises
        ------
        FileChangedError
            The file is no longer this version.
        TransportError
            The server or the network returned no usable response.
        BudgetError
            The wave would exceed a budget.
        """

    @abstractmethod
    def open_ahead(self) -> None:
        """Open connections in the background, before a wave with many ranges needs them."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections, and end the threads."""
