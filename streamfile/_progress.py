"""Progress bars of long work."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

SHOW_AFTER = 1.0  # seconds, of work that is usually short

T = TypeVar("T")


class Progress:
    """A bar on standard error, where that is a terminal. A context manager.

    Parameters
    ----------
    title
        Before the bar.
    total, unit
        What the bar counts up to.
    initial
        Where it begins.
    delay
        Seconds before it shows, before which next to nothing is done for it.
    log
        False for no bar at all.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        unit: str = "B",
        initial: int = 0,
        delay: float = 0.0,
        log: bool = True,
    ) -> None:
        self._title, self._total, self._unit, self._done = title, total, unit, initial
        self._due = time.monotonic() + delay
        self._log = log
        self._bar: Any = None
        self.update(0)

    def update(self, count: int) -> None:
        """Count so many more."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._log and time.monotonic() >= self._due:
            from tqdm import tqdm  # not needed for anything else

            self._bar = tqdm(
                desc=self._title,
                total=self._total,
                initial=self._done,
                unit=self._unit,
                unit_scale=True,
                disable=None,
            )

    def track(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items, and count each when the next one is asked for."""
        with self:
            for item in items:
                yield item
                self.update(1)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
