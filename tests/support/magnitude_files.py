"""Writes small ``.magnitude`` files, and answers lookups in them with plain SQL.

Nothing here uses the library under test: tests hold it against this.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import lz4.frame
import numpy as np

BOW = EOW = "\uf000"
SUBWORD_START, SUBWORD_END = 3, 6
META_ROWS = 3

Connection = Any  # apsw.Connection or sqlite3.Connection: execute and executemany are the same


class SqlRow(NamedTuple):
    """A row as a reader must give it."""

    key: str
    rowid: int
    normalized: np.ndarray
    unnormalized: np.ndarray


def random_words(n: int, seed: int) -> list[str]:
    """Make n different words; about one in six differs from another only in its case."""
    rng = random.Random(seed)
    words: dict[str, None] = {}
    while len(words) < n:
        syllables = (rng.choice("bdfghklmnprstvz") + rng.choice("aeiou") for _ in range(5))
        word = "".join(list(syllables)[: rng.randint(1, 5)])
        words[word] = None
        if len(words) % 10 == 5:
            words[word.capitalize()] = None
        if len(words) % 20 == 10:
            words[word.upper()] = None
    shuffled = list(words)[:n]
    rng.shuffle(shuffled)
    return shuffled


def random_vectors(n: int, dim: int, seed: int) -> np.ndarray:
    """Make n float32 vectors of different lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(0.1, 3, (n, 1)).astype(np.float32)
    return lengths * rng.standard_normal((n, dim), dtype=np.float32)


def quantize(vectors: np.ndarray, precision: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the integers of the rows, and the magnitudes.

    A vector with no direction (zero, or with a NaN) becomes random steps of the last place.
    """
    exact = np.asarray(vectors, np.float32).astype(np.float64)
    magnitudes = np.linalg.norm(exact, axis=1)
    with np.errstate(invalid="ignore"):
        scaled = exact / magnitudes[:, None] * 10**precision
    lost = ~np.isfinite(scaled).all(axis=1)
    scaled[lost] = np.random.default_rng(0).choice([-1, 1], (int(lost.sum()), exact.shape[1]))
    return np.rint(scaled).astype(np.int64), magnitudes


def entropy_order(ints: np.ndarray) -> list[int]:
    """Order the dimensions by the entropy of their values in 32 bins, falling."""

    def entropy(column: np.ndarray) -> float:
        # As floats from their least: large ones close together leave no room for bins.
        above = (column.astype(object) - min(column, default=0)).astype(np.float64)
        share = np.histogram(above, bins=32)[0] / max(len(column), 1)
        share = share[share > 0]
        return float(-(share * np.log(share)).sum())

    return sorted(range(ints.shape[1]), key=lambda k: -entropy(ints[:, k]))


def subword_row(key: str) -> tuple[str, int]:
    """Give ``char_ngrams`` and ``num_ngrams`` of a key."""
    wrapped = BOW + key + EOW
    grams = {
        wrapped[start : start + n].lower()
        for n in range(SUBWORD_START, SUBWORD_END + 1)
        for start in range(len(wrapped) - n + 1)
    }
    kept = [g for g in grams if all(c.isalnum() for c in g if c.isascii())]
    return " ".join(sorted(kept)), 4 * len(grams)


def write_magnitude(
    path: Path,
    keys: Sequence[str],
    vectors: np.ndarray,
    *,
    precision: int = 7,
    page_size: int = 4096,
    elmo: bool = False,
    subwords: bool = False,
    vacuum: bool = True,
    magnitudes: Sequence[float | None] | None = None,
    meta: tuple[bytes, bytes] | None = None,
) -> Path:
    """Write a file of these keys and vectors, of shape (len(keys), dim).

    ``magnitudes`` replaces the stored lengths (None is stored as NULL). ``meta`` is what an ELMo
    file holds: the weights and the options, before compression. Without ``vacuum`` the roots of the
    indexes lie behind all rows.
    """
    ints, lengths = quantize(vectors, precision)
    path.unlink(missing_ok=True)
    connection = apsw.Connection(str(path))
    try:
        connection.execute(f"PRAGMA page_size = {page_size}")
        fill(
            connection,
            keys,
            ints,
            lengths.tolist() if magnitudes is None else magnitudes,
            precision=precision,
            elmo=elmo,
            subwords=subwords,
            meta=meta,
        )
        if vacuum:
            connection.execute("VACUUM")
    finally:
        connection.close()
    return path


def fill(
    connection: Connection,
    keys: Sequence[str],
    ints: np.ndarray,
    magnitudes: Sequence[float | None],
    *,
    precision: int,
    elmo: bool,
    subwords: bool,
    meta: tuple[bytes, bytes] | None,
) -> None:
    """Make all tables and indexes in an empty database that is in autocommit mode."""
    dim = ints.shape[1]
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")

    columns = ", ".join(f"dim_{k} INTEGER" for k in range(dim))
    connection.execute(
        f"CREATE TABLE magnitude (key TEXT COLLATE NOCASE, {columns}, magnitude REAL)"
    )
    connection.executemany(
        f"INSERT INTO magnitude VALUES ({', '.join('?' * (dim + 2))})",
        (
            (key, *row.tolist(), magnitude)
            for key, row, magnitude in zip(keys, ints, magnitudes, strict=True)
        ),
    )

    order = entropy_order(ints)
    duplicates = "SELECT max(n) FROM (SELECT count(*) AS n FROM magnitude GROUP BY key)"
    connection.execute("CREATE TABLE magnitude_format (key TEXT COLLATE NOCASE, value INTEGER)")
    connection.executemany(
        "INSERT INTO magnitude_format VALUES (?, ?)",
        [
            ("version", 2),
            ("elmo", int(elmo)),
            ("size", len(keys)),
            ("dim", dim),
            ("precision", precision),
            ("subword", int(subwords)),
            ("subword_start", SUBWORD_START),
            ("subword_end", SUBWORD_END),
            ("approx", 0),
            ("approx_trees", 0),
            *(("entropy", k) for k in order),
            ("max_duplicate_keys", connection.execute(duplicates).fetchone()[0] or 0),
        ],
    )

    if subwords:
        connection.execute(
            "CREATE VIRTUAL TABLE magnitude_subword USING fts3(char_ngrams, num_ngrams)"
        )
        connection.executemany(
            "INSERT INTO magnitude_subword (docid, char_ngrams, num_ngrams) VALUES (?, ?, ?)",
            ((rowid, *subword_row(key)) for rowid, key in enumerate(keys, 1)),
        )
    if elmo:
        options = json.dumps({"lstm": {"projection_dim": dim // 6}}).encode()
        for number, content in enumerate(meta or (bytes(range(256)) * 4, options), 1):
            connection.execute(f"CREATE TABLE magnitude_meta_{number} (meta_file BLOB)")
            connection.executemany(
                f"INSERT INTO magnitude_meta_{number} VALUES (?)",
                ((piece,) for piece in _pieces(lz4.frame.compress(content))),
            )

    connection.execute("CREATE INDEX magnitude_key_idx ON magnitude (key)")
    best = f"dim_{order[0]}"
    connection.execute(f"CREATE INDEX magnitude_{best}_idx ON magnitude ({best})")
    connection.execute("COMMIT")


def _pieces(frame: bytes) -> Iterator[bytes]:
    """Cut one frame into META_ROWS rows."""
    size = -(-len(frame) // META_ROWS)
    return (frame[start : start + size] for start in range(0, len(frame), size))


def decode(
    ints: np.ndarray, magnitude: float | None, precision: int
) -> tuple[np.ndarray, np.ndarray]:
    """Give the normalized and the not normalized float32 vector of one row."""
    dims = np.asarray(ints).astype(np.float32)
    factor = (np.nan if magnitude is None else magnitude) / 10**precision
    return dims / np.float32(10**precision), dims * np.float32(factor)


def by_themselves(v: Any, keys: Sequence[str], normalized: bool | None = None) -> np.ndarray:
    """Ask for several keys at once, which a list is not in an ELMo file: there it is a sentence."""
    return v._of_keys(keys, normalized)


def raw_row(connection: Connection, key: str, *, case_insensitive: bool = False) -> tuple | None:
    """Find the row (rowid, key, dims..., magnitude) that a lookup of the key must give."""
    rows = connection.execute(
        "SELECT rowid, * FROM magnitude WHERE key = ? ORDER BY rowid", (key,)
    ).fetchall()
    for row in rows:
        if row[1] == key:
            return row
    if case_insensitive:
        for row in rows:
            if row[1].lower() == key.lower():
                return row
    return None


def raw_row_at(connection: Connection, rowid: int) -> tuple | None:
    """Get the row (rowid, key, dims..., magnitude) of a rowid."""
    return connection.execute("SELECT rowid, * FROM magnitude WHERE rowid = ?", (rowid,)).fetchone()


def sql_row(connection: Connection, key: str, *, case_insensitive: bool = False) -> SqlRow | None:
    """Look a key up with SQL."""
    return _decoded(connection, raw_row(connection, key, case_insensitive=case_insensitive))


def sql_row_at(connection: Connection, rowid: int) -> SqlRow | None:
    """Get a row with SQL."""
    return _decoded(connection, raw_row_at(connection, rowid))


def _decoded(connection: Connection, row: tuple | None) -> SqlRow | None:
    if row is None:
        return None
    (precision,) = connection.execute(
        "SELECT value FROM magnitude_format WHERE key = 'precision'"
    ).fetchone()
    rowid, key, *dims, magnitude = row
    return SqlRow(key, rowid, *decode(np.array(dims, np.int64), magnitude, precision))
