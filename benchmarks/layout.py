"""Round trips of a file laid out for streaming, and of a sidecar: `python benchmarks/layout.py`.

The file is the medium flavour of GloVe, 400,000 words and 50 dimensions, in SQLite's own layout; it
is built on the first run (extra `bench`) and kept in a folder under the temporary directory, as is
what `streamfile repack` makes of it. They are served on this machine at 100 ms a request and 100 ms
a new connection. Requests, bytes and waves are those that the server saw.
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

import numpy as np
from build_glove import glove
from oov import FOLDER, measure, medium_file, ours, print_spread, unknown_words
from roundtrips import HANDSHAKE, LATENCY, SlowServer, count_waves

from streamfile import Magnitude, repack, route

SEED, KEYS, WORDS = 7, 25, 50


def client(url: str, cache: str, sidecar: str) -> None:
    """Open the file and look keys up, in a process of its own; print the seconds."""
    keys = json.load(sys.stdin)
    began = time.perf_counter()
    options = {"cache_dir": cache}
    with Magnitude(url, stream=True, route=sidecar == "sidecar", stream_options=options) as v:
        vectors = v.query(keys)
    print(json.dumps([time.perf_counter() - began, vectors.tolist()]))


def run(
    server: SlowServer, title: str, url: str, cache: str, way: str, path: Path, keys: Sequence[str]
) -> None:
    """Run one case and print its line."""
    server.served.clear()
    arguments = [sys.executable, __file__, url, cache, way]
    done = subprocess.run(
        arguments, input=json.dumps(keys), capture_output=True, text=True, check=True
    )
    seconds, vectors = json.loads(done.stdout)
    with Magnitude(path) as local:
        np.testing.assert_array_equal(np.array(vectors, np.float32), local.query(list(keys)))
    time.sleep(0.2)  # the server notes an answer just after its last byte
    served = list(server.served)
    intervals = [(s.connected if waited else s.arrived, s.ended) for s, waited in served]
    received = sum(record.sent for record, _ in served)
    print(
        f"  {title:<52}{count_waves(intervals):>3} waves{len(served):>5} requests"
        f"{received / 1e6:>7.2f} MB{seconds:>7.2f} s",
        flush=True,
    )


def main() -> None:
    """Build, serve, run all cases."""
    original, packed = medium_file(), FOLDER / "glove.6B.50d.medium.repacked.magnitude"
    if not packed.exists():
        repack(original, packed)
    sidecar = original.with_name(original.name + ".route")
    size = route(original, sidecar, force=True)
    words, _ = glove()
    chosen = random.Random(SEED).sample(words, 2 * KEYS)
    first, other = chosen[:KEYS], chosen[KEYS:]
    print(
        f"{len(words):,} words, 50 dimensions, {original.stat().st_size:,} bytes, laid out anew "
        f"{packed.stat().st_size:,}, sidecar {size:,}; {LATENCY * 1000:.0f} ms a request, "
        f"{HANDSHAKE * 1000:.0f} ms a new connection"
    )
    with SlowServer(original.parent) as server, tempfile.TemporaryDirectory() as folder:
        for title, path, way, name, keys in (
            ("laid out for streaming, open + 25 keys (<= 3, 0.7 MB)", packed, "", "new", first),
            ("  a second process, 25 other keys (<= 2)", packed, "", "new", other),
            ("original, open + 25 keys", original, "", "old", first),
            ("original with a sidecar, open + 25 keys (<= 4)", original, "sidecar", "side", first),
            ("  a second process, 25 other keys", original, "sidecar", "side", other),
        ):
            run(server, title, server.url + path.name, f"{folder}/{name}", way, path, keys)
        asked = unknown_words(words, WORDS, 1)
        with Magnitude(packed) as local:
            expected = local.query(asked)
        cases = [
            measure(server, ours, packed.name, [word], vector[None])
            for word, vector in zip(asked, expected, strict=True)
        ]
        print(f"laid out for streaming, open + 1 misspelt word, {len(asked)} words")
        print_spread("ours", cases, ", target <= 6 waves, <= 1.5 MB")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        client(*sys.argv[1:])
    else:
        main()
