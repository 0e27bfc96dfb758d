"""Local lookups and forks beside SQL that waits for a network: `python benchmarks/beside.py`.

One file is streamed at 300 ms a request, and a key with a quotation mark is looked up in it, which
takes SQL. Meanwhile keys are looked up in a local file, and the process forks, again and again. The
file is built on the first run (extra `bench`) and kept in a folder under the temporary directory.
"""

from __future__ import annotations

import os
import threading
import time

from oov import medium_file

from streamfile import Magnitude
from streamfile.web.range_server import RangeServer

LATENCY = 0.3
KEY = 'say"helo"wrold'
TARGET_LOOKUP, TARGET_FORK = 0.05, 0.5


def main() -> None:
    """Measure, print."""
    path = medium_file()
    options = {"cache_size": 0}
    lookups: list[float] = []
    forks: list[float] = []
    with (
        RangeServer(path.parent, latency=LATENCY) as server,
        Magnitude(server.url + path.name, stream=True, stream_options=options) as streamed,
        Magnitude(path) as local,
    ):
        keys = iter([key for key, _ in local[1000:60000]])
        began = time.perf_counter()
        thread = threading.Thread(target=streamed.query, args=(KEY,))
        thread.start()
        while thread.is_alive():
            start = time.perf_counter()
            local.query(next(keys))
            lookups.append(time.perf_counter() - start)
            start = time.perf_counter()
            child = os.fork()
            if not child:
                os._exit(0)
            forks.append(time.perf_counter() - start)
            os.waitpid(child, 0)
            time.sleep(0.01)
        taken = time.perf_counter() - began
    print(f"{KEY} by SQL at {LATENCY * 1000:.0f} ms a request: {taken:.1f} s; beside it")
    for name, times, target in (
        ("local lookups", lookups, TARGET_LOOKUP),
        ("forks", forks, TARGET_FORK),
    ):
        print(
            f"  {len(times):,} {name}: the longest {max(times) * 1000:.1f} ms, "
            f"target <= {target * 1000:.0f} ms"
        )


if __name__ == "__main__":
    main()
