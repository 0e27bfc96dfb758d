"""Compare queries of a local file with plain SQLite: `python benchmarks/local.py`.

Both read 1,000 random keys at once. The files are built on the first run (extra `bench`) and kept
in a folder under the temporary directory.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from build_glove import build_light, glove
from numpy.typing import NDArray

from streamfile import Magnitude

FOLDER = Path(tempfile.gettempdir()) / "streamfile-benchmarks"
KEYS = 1000
REPETITIONS = 15
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


if __name__ == "__main__":
    print(f"{KEYS:,} new keys a query, medians of {REPETITIONS}")
    compare(random_file(), target=2)
    compare(glove_file(), target=1)
