"""What a source must do: give ranges of one version of a file, wherever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from vfs.identity import Identity, shown
from vfs.options import Options
from vfs.stats import Budget, Stats
from vfs.transport.plan import Pace, Range


class Source(ABC):
    """Where a file is: `RemoteFile` reads one, and knows nothing else of the way to it.

    A source can be shared between threads, used after a fork, and pickled.

    Parameters
    ----------
    url
        The address as it was given.
    options
        Budgets.

    Attributes
    ----------
    url : str
        As given.
    name : str
        The address for messages and logs, without secrets.
    budget : Budget
        Limits, and the counters that are kept.
    pace : Pace
        Latency and bandwidth, as far as they were measured.
    """

    def __init__(self, url: str, options: Options) -> None:
        self.url = url
        self.name = shown(url)
        self.budget = Budget(Stats(), options.max_requests, options.max_bytes)
        self.pace = Pace()

    @property
    @abstractmethod
    def cache_name(self) -> str:
        """A name for the cache that no other file has, and that stays when a link is renewed."""

    @property
    @abstractmethod
    def connections(self) -> int:
        """Requests that can be under way at once."""

    @abstractmethod
    def fetch(
        self, ranges: Sequence[Range], version: Identity | None
    ) -> tuple[list[bytes], Identity]:
        """Fetch ranges in one parallel wave.

        Parameters
        ----------
        ranges
            (start, end) pairs in bytes, end exclusive. The end may lie beyond the file's.
        version
            The version that every answer must belong to, None for whichever there is.

        Returns
        -------
        bodies, version
            One body a range, shorter than the range only at the end of the file.

        Raises
        ------
        FileChangedError
            The file is another version now.
        TransportError
            Anything else between here and the file.
        BudgetError
            The wave would pass a budget; nothing was sent.
        """

    @abstractmethod
    def open_ahead(self) -> None:
        """Open connections in the background, so that the first wide wave finds them ready."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections and threads."""
