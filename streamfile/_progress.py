"""Progress bars for long operations."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

SHOW_AFTER = 1.0  # seconds until the bar of an operation that is usually short

T = TypeVar("T")


class Progress:
    """A progress bar on standard error, if that is a terminal; a context manager.

    Parameters
    ----------
    title
        Text before the bar.
    total, unit
        Final count, and its unit.
    initial
        Initial count.
    delay
        Seconds until the bar may appear; until then, tqdm is not imported.
    log
        Whether to show the bar.
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
        """Add a number to the count."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._log and time.monotonic() >= self._due:
            from tqdm import tqdm  # late, because most processes show no bar

            self._bar = tqdm(
                desc=self._title,
                total=self._total,
                initial=self._done,
                unit=self._unit,
                unit_scale=True,
                disable=None,
            )

    def track(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items; each item is counted when the caller requests the next one."""
        with self:
            for item in items:
                yield item
                self.update(1)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
