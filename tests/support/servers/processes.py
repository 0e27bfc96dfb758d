"""Servers in processes of their own, each on a port of this machine that it could get."""

import contextlib
import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from waiting import wait_until

# Clients' connections get their ports from above these (`ip_local_port_range`), so that only
# another server can be on one.
PORTS = range(10_000, 32_000)
TRIES = 10


@contextmanager
def server_process(
    command: Callable[[int], Sequence[str]],
    ready: Callable[[int], bool],
    log: Path,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Run a server until the end of the block, and give its port.

    Between the choice of a port and the server's start another process may take the port. The
    server ends then, and is started with another one. ``command`` makes the command line for a
    port. ``ready`` tells whether this server, not another one on its port, answers now. ``log``
    gets what the server prints.
    """
    for _ in range(TRIES):
        port = _unused_port()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=cwd,
                env=environment,
                start_new_session=True,  # so that its own children can be ended with it
            )
        try:
            wait_until(lambda: process.poll() is not None or ready(port))  # noqa: B023
            if process.poll() is None:
                yield port
                return
        finally:
            _end(process)
    raise RuntimeError(f"the server did not start: {log.read_text(errors='replace')}")


def _unused_port() -> int:
    """Choose a port that no server listens on."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def _end(process: subprocess.Popen) -> None:
    """End a server and what it has started at once; some would wait for their connections."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
