"""Demonstration: a small bundled file, streamed from a slow server on this machine."""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path

import numpy as np

from streamfile.web.range_server import RangeServer

SAMPLE = Path(__file__).parents[1] / "sample" / "glove.6B.50d.5k.magnitude"
LATENCY = 0.05
WORDS = ["king", "queen", "man", "woman", "paris", "london", "goverment"]
"""The last word is misspelt, and not in the file."""


def run() -> None:
    """Stream a few vectors of the sample, and print them with the requests and the time."""
    from streamfile import Magnitude

    with (
        RangeServer(SAMPLE.parent, latency=LATENCY) as server,
        tempfile.TemporaryDirectory() as cache,
    ):
        url = server.url + SAMPLE.name
        print(f'v = Magnitude("{url}", stream=True)')
        print(f"v.query({WORDS})\n")

        start = time.perf_counter()
        with Magnitude(url, stream=True, stream_options={"cache_dir": cache}) as v:
            vectors = v.query(WORDS)
            seconds = time.perf_counter() - start
            stats = v.stats
            requests, received, waves = stats.requests, stats.bytes, stats.waves
            known = [word in v for word in WORDS]
            print(f"{len(v):,} words, {v.dim} dimensions\n")

    for word, vector, found in zip(WORDS, vectors, known, strict=True):
        values = " ".join(f"{value:8.4f}" for value in vector[:5])
        print(f"  {word:<10} {values} ...{'' if found else '   (not in the file)'}")

    print("\ncosine similarity")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for i, j in itertools.combinations(range(4), 2):
        print(f"  {WORDS[i]:<10} {WORDS[j]:<10} {unit[i] @ unit[j]:6.3f}")

    size = SAMPLE.stat().st_size
    print(f"\n  requests {requests:>12,}   in {waves} waves")
    print(f"  bytes    {received:>12,}   {received / size:.0%} of the file's {size:,}")
    print(
        f"  seconds  {seconds:>12.2f}   the server waits {LATENCY * 1000:.0f} ms before each answer"
    )
