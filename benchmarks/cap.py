"""Watch a small cache that four readers use, one of them killed: `python benchmarks/cap.py`.

The exit status is 1 if the cache passed its cap, or if a vector was missing or wrong.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
from ctypes import c_longlong
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from local import glove_file

from streamfile import Magnitude
from streamfile.web.range_server import RangeServer

CAP = 16 << 20
READERS = 4
KEYS_EACH = 5000
BATCH = 50
INTERVAL = 0.01


def serve(directory: Path, ready: Connection) -> None:
    """Serve a directory until killed.

    Parameters
    ----------
    directory : Path
    ready : Connection
        Is sent the URL.
    """
    with RangeServer(directory) as server:
        ready.send(server.url)
        time.sleep(3600)


def read(url: str, cache: str, keys: list[str], number: int, done: Any, wrong: Any) -> None:
    """Query keys in batches and compare with the local file.

    Parameters
    ----------
    url, cache : str
        The file and the common cache directory.
    keys : list of str
    number : int
        The reader's own place in the arrays.
    done, wrong : array of int
        Keys read by each reader, and wrong vectors among them. Without a lock, which a killed
        reader might hold.
    """
    # No memory cache: whatever is needed again comes from the disk.
    options = {"cache_dir": cache, "cache_size": CAP, "memory_size": 0}
    with (
        Magnitude(url, stream=True, stream_options=options) as remote,
        Magnitude(glove_file()) as local,
    ):
        for at in range(0, len(keys), BATCH):
            batch = keys[at : at + BATCH]
            same = np.equal(remote.query(batch), local.query(batch)).all(axis=1)
            wrong[number] += np.count_nonzero(~same)
            done[number] += len(batch)


def taken(cache: str) -> tuple[int, int]:
    """Measure a directory.

    Parameters
    ----------
    cache : str

    Returns
    -------
    tuple of int
        The lengths of its files together, and what they take on disk.
    """
    length = on_disk = 0
    for folder, _, files in os.walk(cache):
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                facts = Path(folder, file).stat()
                length += facts.st_size
                on_disk += facts.st_blocks * 512
    return length, on_disk


def main() -> int:
    """Start the readers, watch, print.

    Returns
    -------
    int
        The exit status.
    """
    path = glove_file()
    with Magnitude(path) as vectors:
        places = random.Random(0).sample(range(len(vectors)), READERS * KEYS_EACH)
        words = vectors.index(places, return_vector=False)
    context = multiprocessing.get_context("spawn")
    done = context.RawArray(c_longlong, READERS + 1)
    wrong = context.RawArray(c_longlong, READERS + 1)
    receiver, sender = context.Pipe()
    server = context.Process(target=serve, args=(path.parent, sender), daemon=True)
    server.start()
    url = receiver.recv() + path.name

    with tempfile.TemporaryDirectory() as cache:

        def reader(number: int, keys: list[str]) -> Any:
            arguments = (url, cache, keys, number, done, wrong)
            process = context.Process(target=read, args=arguments, daemon=True)
            process.start()
            return process

        start = time.perf_counter()
        shares = [words[number::READERS] for number in range(READERS)]
        readers = [reader(number, keys) for number, keys in enumerate(shares)]
        samples = [taken(cache)]
        while any(process.is_alive() for process in readers):
            if len(readers) == READERS and done[0] >= KEYS_EACH // 2:
                readers[0].kill()
                readers[0].join()
                readers.append(reader(READERS, shares[0][done[0] :]))
            time.sleep(INTERVAL)
            samples.append(taken(cache))
        seconds = time.perf_counter() - start
    server.kill()

    failed = sum(process.exitcode != 0 for process in readers[1:])
    errors = sum(wrong) + READERS * KEYS_EACH - sum(done)
    lengths, on_disk = (max(sizes) for sizes in zip(*samples, strict=True))
    print(f"{sum(done):,} keys by {len(readers)} readers, one killed after {done[0]:,}")
    print(f"{len(samples):,} samples of the directory, cap {CAP:,} bytes")
    print(f"largest: {lengths:,} bytes of files, {on_disk:,} on disk")
    print(f"errors: {errors} vectors wrong or missing, {failed} readers failed")
    print(f"{seconds:.1f} seconds")
    return int(max(lengths, on_disk) > CAP or bool(errors) or bool(failed))


if __name__ == "__main__":
    sys.exit(main())
