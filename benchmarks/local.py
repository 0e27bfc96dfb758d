"""Queries of a local file beside plain SQLite, and of a key in memory beside gensim.

``python benchmarks/local.py``. With SQLite, both read 1,000 random keys at once. With gensim, both
look one key up that is in memory, ours from a local and from a streamed file. The files are built
on the first run (extra `bench`) and kept in a folder under the temporary directory.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from timeit import timeit
from typing import Any

import apsw
import numpy as np
from build_glove import build_light, glove
from gensim.models import KeyedVectors
from numpy.typing import NDArray

from streamfile import Magnitude
from streamfile.web.range_server import RangeServer

FOLDER = Path(tempfile.gettempdir()) / "streamfile-benchmarks"
KEYS = 1000
REPETITIONS = 15
LOOKUPS = 2000
PRECISION = 7
SELECT = f"SELECT * FROM magnitude WHERE key IN ({', '.join('?' * KEYS)})"


def glove_file() -> Path:
    """Build the file of all GloVe words, 50 dimensions, unless it is there.

    Returns
    -------
    Path
    """
    path = FOLDER / "glove.6B.50d.magnitude"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        build_light(path, *glove(), precision=PRECISION)
    return path


def random_file() -> Path:
    """Build a file of random vectors of 300 dimensions under GloVe words, unless it is there.

    Returns
    -------
    Path
    """
    path = FOLDER / "random.100k.300d.magnitude"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        keys, _ = glove(100_000)
        vectors = np.random.default_rng(0).standard_normal((len(keys), 300))
        build_light(path, keys, vectors, precision=PRECISION)
    return path


def plain_query(
    db: apsw.Connection, keys: Sequence[str]
) -> tuple[list[tuple[Any, ...]], NDArray[np.float32]]:
    """Read keys the plain way.

    Parameters
    ----------
    db : apsw.Connection
    keys : sequence of str
        Exactly `KEYS`.

    Returns
    -------
    rows : list of tuple
        Key, dimensions, magnitude; in SQLite's order.
    vectors : array of float32, (len(rows), dim)
    """
    rows = db.execute(SELECT, keys).fetchall()
    return rows, np.array([row[1:-1] for row in rows], np.float32) / np.float32(10**PRECISION)


def compare(path: Path, target: float) -> None:
    """Time both on one file, in turns, new keys each time, and print a line.

    Parameters
    ----------
    path : Path
        A `.magnitude` file.
    target : float
        The ratio wanted, printed beside.
    """
    path.read_bytes()  # now the operating system has it in memory
    with (
        Magnitude(path) as vectors,
        apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY) as db,
    ):
        words = [key for (key,) in db.execute("SELECT key FROM magnitude")]
        sample = random.Random(0).sample(words, KEYS * (REPETITIONS + 1))
        first, *later = (sample[at : at + KEYS] for at in range(0, len(sample), KEYS))

        rows, expected = plain_query(db, first)
        place = {row[0]: at for at, row in enumerate(rows)}
        order = [place[key] for key in first]
        np.testing.assert_array_equal(vectors.query(first), expected[order])

        plain: list[float] = []
        ours: list[float] = []
        for repetition, keys in enumerate(later):
            tasks: list[tuple[list[float], Callable[[], object]]] = [
                (plain, partial(plain_query, db, keys)),
                (ours, partial(vectors.query, keys)),
            ]
            for times, task in tasks if repetition % 2 else reversed(tasks):
                start = time.perf_counter()
                task()
                times.append((time.perf_counter() - start) * 1000)
        ratios = [a / b for a, b in zip(plain, ours, strict=True)]
        print(
            f"{len(words):,} words, {vectors.dim} dims: plain {statistics.median(plain):.1f} ms, "
            f"ours {statistics.median(ours):.1f} ms, ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}\N{EN DASH}{max(ratios):.2f}), target >= {target:g}; same vectors"
        )


def compare_in_memory(path: Path) -> None:
    """Time lookups of one key in memory, in turns, and print a line for each kind of file.

    Parameters
    ----------
    path : Path
        A `.magnitude` file.
    """
    with RangeServer(path.parent) as server, tempfile.TemporaryDirectory() as cache:
        streamed = {"stream": True, "stream_options": {"cache_dir": cache}}
        with Magnitude(path) as local, Magnitude(server.url + path.name, **streamed) as remote:
            (key, vector) = local[1000]
            plain = KeyedVectors(len(vector))
            plain.add_vectors([key], vector[None])
            for name, ours in (("local", local), ("streamed", remote)):
                np.testing.assert_array_equal(ours.query(key), plain[key])
                requests = ours.stats.requests
                times = [
                    (lookups(partial(ours.query, key)), lookups(partial(plain.__getitem__, key)))
                    for _ in range(REPETITIONS)
                ]
                assert ours.stats.requests == requests
                mine, theirs = (statistics.median(each) for each in zip(*times, strict=True))
                ratio = statistics.median(a / b for a, b in times)
                print(
                    f"v.query(key) in memory, {name} file: {mine:.2f} us, gensim {theirs:.2f} us, "
                    f"ratio {ratio:.1f}; target <= 20 us, or a ratio <= 8"
                )


def lookups(look_up: Callable[[], object]) -> float:
    """Time a lookup.

    Parameters
    ----------
    look_up : callable

    Returns
    -------
    float
        Microseconds, of the mean of `LOOKUPS`.
    """
    return timeit(look_up, number=LOOKUPS) / LOOKUPS * 1e6


if __name__ == "__main__":
    print(f"{KEYS:,} new keys a query, medians of {REPETITIONS}")
    compare(random_file(), target=2)
    compare(glove_file(), target=1)
    compare_in_memory(glove_file())
