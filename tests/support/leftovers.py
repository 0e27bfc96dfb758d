"""What files hold of this process: sockets and threads."""

import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit


def sockets_to(url):
    """Count this process's connections to the server of a URL."""
    own = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the directory's own descriptor is closed meanwhile
            own.add(str(entry.readlink()))
    port = f"{urlsplit(url).port:04X}"
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port}") and f"socket:[{row[9]}]" in own for row in rows)


def threads():
    """Count the threads that work for files."""
    return sum(thread.name == "vfs-worker" for thread in threading.enumerate())


def descriptors():
    """Count the open descriptors of this process, with the one of the count itself."""
    return len([*Path("/proc/self/fd").iterdir()])
