"""Progress bars."""

from __future__ import annotations

from typing import Any


def progress(title: str, total: int, *, unit: str = "B", log: bool) -> Any:
    """Begin a bar, on a terminal.

    Parameters
    ----------
    title
        Before the bar.
    total, unit
        What it counts up to.
    log
        False for no bar at all.

    Returns
    -------
    tqdm.tqdm
    """
    from tqdm import tqdm  # not needed for anything else

    hidden = None if log else True
    return tqdm(desc=title, total=total, unit=unit, unit_scale=True, disable=hidden)
