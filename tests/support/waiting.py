"""Waiting for what comes about sooner or later."""

import time

PATIENCE = 120  # seconds, for what never comes about; busy machines are slow


def wait_until(condition):
    """Return once something is so."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)
