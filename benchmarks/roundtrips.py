"""Round trips of a streamed lookup: plain SQL over HTTP ranges, and ours, side by side.

``python benchmarks/roundtrips.py`` builds the GloVe file of 400,000 words and 50 dimensions (extra
``bench``), serves it on this machine at 100 ms a request and 100 ms a new connection, and runs
every case in a process of its own. Requests, bytes and waves are those that the server saw.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from build_glove import build_light, glove

from streamfile.web.range_server import RangeServer, Served

LATENCY = 0.1
HANDSHAKE = 0.1
SEED = 7

Interval = tuple[float, float]


class SlowServer(RangeServer):
    """A server with latency and slow handshakes, which remembers what it answered."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, latency=LATENCY)
        self.served: list[tuple[Served, bool]] = []

    def on_connect(self) -> None:
        """Take as long as a handshake; note whether a request is waiting for it already."""
        time.sleep(HANDSHAKE)

    def observe(self, record: Served) -> None:
        """Remember an answer."""
        waited = record.first and record.arrived - record.connected < 1.2 * HANDSHAKE
        self.served.append((record, waited))


def count_waves(intervals: Sequence[Interval]) -> int:
    """Count disjoint intervals greedily: the longest chain of requests that waited in turn."""
    waves, free = 0, float("-inf")
    for begin, end in sorted(intervals, key=lambda interval: interval[1]):
        if begin >= free:
            waves, free = waves + 1, end
    return waves


def client(way: str, url: str, cache: str, keys: list[str]) -> None:
    """Open the file and look keys up, in a process of its own; print the seconds."""
    import numpy as np

    import vfs
    from streamfile import Magnitude

    options = {"cache_dir": cache}
    began = time.perf_counter()
    if way == "ours":
        reader = Magnitude(url, stream=True, stream_options=options)
        vectors = reader.query(keys) if keys else np.zeros((0, 50), np.float32)
    else:
        connection = vfs.connect(url, **options)
        connection.execute("SELECT * FROM magnitude_format").fetchall()
        rows = [
            connection.execute("SELECT * FROM magnitude WHERE key = ?", (key,)).fetchall()[0]
            for key in keys
        ]
        vectors = np.array([row[1:-1] for row in rows], np.float32).reshape(len(keys), 50) / 1e7
    seconds = time.perf_counter() - began
    print(json.dumps([seconds, float(np.abs(vectors).sum())]))


def run(server: SlowServer, way: str, cache: str, keys: list[str]) -> tuple[float, float]:
    """Run one case and print its line; give the seconds and a checksum of the vectors."""
    arguments = [sys.executable, __file__, way, server.url + "glove.magnitude", cache]
    server.served.clear()
    answer = subprocess.run(
        arguments, input=json.dumps(keys), capture_output=True, text=True, check=True
    )
    seconds, checksum = json.loads(answer.stdout)
    time.sleep(0.2)  # the server notes an answer just after its last byte
    served = list(server.served)
    intervals = [(s.connected if waited else s.arrived, s.ended) for s, waited in served]
    received = sum(record.sent for record, _ in served)
    print(
        f"  {way:<6}{seconds:>9.2f} s{len(served):>8} requests{received / 1e6:>9.2f} MB"
        f"{count_waves(intervals):>7} waves",
        flush=True,
    )
    return seconds, checksum


def main() -> None:
    """Build, serve, run all cases."""
    words, vectors = glove()
    chosen = random.Random(SEED).sample(words, 1051)
    one, first, other, many = chosen[:1], chosen[1:26], chosen[26:51], chosen[51:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data" / "glove.magnitude"
        path.parent.mkdir()
        build_light(path, words, vectors)
        print(
            f"{len(words):,} words, 50 dimensions, {path.stat().st_size:,} bytes; "
            f"{LATENCY * 1000:.0f} ms a request, {HANDSHAKE * 1000:.0f} ms a new connection"
        )
        with SlowServer(path.parent) as server:
            for title, name, keys in (
                ("open, nothing cached", "open", []),
                ("open + 1 key", "one", one),
                ("open + 25 keys", "kept", first),
                ("new process, cache kept, 25 other keys", "kept", other),
                ("new process, cache kept, the same 25 keys", "kept", other),
                ("open + 1,000 keys", "many", many),
            ):
                print(title)
                sums = {
                    way: run(server, way, f"{folder}/{way}-{name}", keys)[1]
                    for way in ("plain", "ours")
                }
                if abs(sums["plain"] - sums["ours"]) > 1e-3:
                    raise SystemExit(f"the answers differ: {sums}")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        client(*sys.argv[1:], json.load(sys.stdin))
    else:
        main()
