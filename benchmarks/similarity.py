"""Compare `most_similar` of a local file with the plain way: `python benchmarks/similarity.py`.

The plain way iterates SQL rows into a numpy matrix; from then on it is one matrix-vector product.
The file, of random vectors, is built on the first run and kept in a folder under the temporary
directory.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import apsw
import numpy as np
from build_glove import build_light
from numpy.typing import NDArray

from streamfile import Magnitude

FOLDER = Path(tempfile.gettempdir()) / "streamfile-benchmarks"
COUNT, DIM, PRECISION = 200_000, 300, 7
REPETITIONS = 30
TOPN = 10


def random_file() -> Path:
    """Build a file of normally distributed vectors, unless it is there.

    Returns
    -------
    Path
    """
    path = FOLDER / "normal.200k.300d.magnitude"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        vectors = np.random.default_rng(0).standard_normal((COUNT, DIM), dtype=np.float32)
        build_light(path, [f"word{i}" for i in range(COUNT)], vectors, precision=PRECISION)
    return path


def plain_matrix(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Read all rows with SQL.

    Parameters
    ----------
    path : Path
        A `.magnitude` file.

    Returns
    -------
    keys : list of str
    vectors : array of float32, (rows, dim)
    """
    keys: list[str] = []
    vectors = np.empty((COUNT, DIM), np.float32)
    with apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY) as db:
        for at, row in enumerate(db.execute("SELECT * FROM magnitude")):
            keys.append(row[0])
            vectors[at] = row[1:-1]
    vectors /= np.float32(10**PRECISION)
    return keys, vectors


def main() -> None:
    """Time the first and the next rankings, and print two lines."""
    path = random_file()
    path.read_bytes()  # now the operating system has it in memory
    print(f"{COUNT:,} x {DIM}, {path.stat().st_size / 1e6:.0f} MB")
    with Magnitude(path) as v:
        start = time.perf_counter()
        found = v.most_similar("word0", topn=TOPN)
        ours = time.perf_counter() - start

        start = time.perf_counter()
        keys, matrix = plain_matrix(path)
        scores = matrix @ matrix[0]
        order = np.argsort(-scores)[1 : TOPN + 1]
        plain = time.perf_counter() - start
        assert [key for key, _ in found] == [keys[at] for at in order]
        print(
            f"first: SQL rows into numpy {plain:.2f} s, ours {ours:.2f} s, "
            f"ratio {plain / ours:.1f}, target >= 8; same keys"
        )

        bare: list[float] = []
        again: list[float] = []
        for repetition in range(REPETITIONS):
            key, vector = f"word{repetition + 1}", matrix[repetition + 1].copy()
            start = time.perf_counter()
            _ = matrix @ vector
            middle = time.perf_counter()
            v.most_similar(key, topn=TOPN)
            bare.append((middle - start) * 1000)
            again.append((time.perf_counter() - middle) * 1000)
        ratios = [a / b for a, b in zip(again, bare, strict=True)]
        print(
            f"next:  bare product {statistics.median(bare):.1f} ms, "
            f"ours {statistics.median(again):.1f} ms, ratio {statistics.median(ratios):.2f}, "
            f"target <= 1.3 (median of {REPETITIONS} new keys)"
        )


if __name__ == "__main__":
    main()
