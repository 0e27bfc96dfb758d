"""Waiting for what comes about sooner or later."""

import time
from collections.abc import Callable

PATIENCE = 120  # seconds, for what never comes about: a busy machine makes all else late


def wait_until(condition: Callable[[], object]) -> None:
    """Return once something is so."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)
