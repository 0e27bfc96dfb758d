"""Converting text to `.magnitude` files, ours beside the plain way: `python benchmarks/convert.py`.

The text has 200,000 rows of 300 random dimensions and six decimal places; its keys are the words of
GloVe (extra `bench`). It is written on the first run and kept in a folder under the temporary
directory. The plain way splits a line, normalises, rounds each value, counts for the entropy,
inserts row by row, makes the indexes, and vacuums. Each way runs in a process of its own; both
files are compared by SQL.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import apsw
import numpy as np
from build_glove import glove, searched

FOLDER = Path(tempfile.gettempdir()) / "streamfile-benchmarks"
ROWS, DIM, PRECISION = 200_000, 300, 7
TARGETS = {"light": 5, "medium": 4}
MOST_MEMORY, MOST_SIZE = 400, 1.02
COMPARED = 1000

OURS = """
import sys
from streamfile import convert
convert(sys.argv[1], sys.argv[2], subword=sys.argv[3] == "medium", force=True, log=False)
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024)
"""


def text_file(rows: int) -> Path:
    """Write the text, unless it is there.

    Returns
    -------
    Path
    """
    path = FOLDER / f"normal.{rows}.{DIM}d.txt"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        rng = np.random.default_rng(0)
        with unfinished.open("w", encoding="utf-8") as file:
            for key in glove(rows)[0]:
                file.write(f"{key} {' '.join(f'{x:.6f}' for x in rng.normal(size=DIM))}\n")
        unfinished.replace(path)
    return path


def plain(source: str, target: str, flavour: str) -> None:
    """Convert in the plain way."""
    Path(target).unlink(missing_ok=True)
    keys: list[str] = []
    counts: list[Counter[int]] = [Counter() for _ in range(DIM)]

    def rows() -> Iterator[list[str | int | float]]:
        with Path(source).open(encoding="utf-8") as file:
            for line in file:
                key, *values = line.rstrip("\n").split(" ")
                vector = np.array([float(value) for value in values])
                length = float(np.linalg.norm(vector))
                unit = (vector / length).tolist()
                for count, value in zip(counts, unit, strict=True):
                    count[int(value * 100)] += 1
                keys.append(key)
                yield [key, *(round(value * 10**PRECISION) for value in unit), length]

    with contextlib.closing(apsw.Connection(target)) as db:
        db.execute("PRAGMA journal_mode=OFF")
        db.execute("PRAGMA synchronous=OFF")
        with db:
            columns = ", ".join(f"dim_{at} INTEGER" for at in range(DIM))
            db.execute(
                f"CREATE TABLE magnitude (key TEXT COLLATE NOCASE, {columns}, magnitude REAL)"
            )
            db.execute("CREATE TABLE magnitude_format (key TEXT COLLATE NOCASE, value INTEGER)")
            marks = ", ".join("?" * (DIM + 2))
            db.executemany(f"INSERT INTO magnitude VALUES ({marks})", rows())
            entropies = []
            for count in counts:
                shares = np.array(list(count.values())) / len(keys)
                entropies.append(-float((shares * np.log2(shares)).sum()))
            best = int(np.argmax(entropies))
            db.execute("CREATE INDEX magnitude_key_idx ON magnitude (key)")
            db.execute(f"CREATE INDEX magnitude_dim_{best}_idx ON magnitude (dim_{best})")
            facts = [("version", 2), ("elmo", 0), ("size", len(keys)), ("dim", DIM)]
            facts += [("precision", PRECISION), ("subword", int(flavour == "medium"))]
            facts += [("subword_start", 3), ("subword_end", 6), ("approx", 0)]
            facts += [("entropy", int(at)) for at in np.argsort(entropies)[::-1]]
            db.executemany("INSERT INTO magnitude_format VALUES (?, ?)", facts)
            if flavour == "medium":
                db.execute(
                    "CREATE VIRTUAL TABLE magnitude_subword USING fts3(char_ngrams, num_ngrams)"
                )
                db.executemany(
                    "INSERT INTO magnitude_subword (docid, char_ngrams, num_ngrams)"
                    " VALUES (?, ?, ?)",
                    ((rowid, *searched(key)) for rowid, key in enumerate(keys, 1)),
                )
        db.execute("VACUUM")


def same(one: Path, other: Path) -> bool:
    """Compare some rows of two files."""
    found = []
    for path in (one, other):
        with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
            sql = "SELECT * FROM magnitude WHERE rowid % ? = 0"
            found.append(db.execute(sql, (ROWS // COMPARED,)).fetchall())
    first, second = ([row[:-1] for row in rows] for rows in found)
    lengths = [np.array([row[-1] for row in rows]) for rows in found]
    return first == second and bool(np.allclose(*lengths, rtol=1e-12))


def timed(*command: str) -> tuple[float, str]:
    """Run a process, and give the seconds it took and what it printed."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


def main() -> None:
    """Print all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--plain", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        return plain(*options.plain)
    source = text_file(ROWS)
    print(f"{ROWS:,} rows, {DIM} dimensions, {source.stat().st_size:,} bytes of text")
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        for flavour, target in TARGETS.items():
            plainly, ours = Path(folder) / "plain.magnitude", Path(folder) / "ours.magnitude"
            ours_seconds, memory = timed("-c", OURS, str(source), str(ours), flavour)
            seconds, _ = timed(__file__, "--plain", str(source), str(plainly), flavour)
            size = ours.stat().st_size / plainly.stat().st_size
            print(
                f"{flavour:7} plain {seconds:6.1f} s, ours {ours_seconds:5.1f} s: "
                f"{seconds / ours_seconds:4.1f} x (target >= {target}); "
                f"peak memory {int(memory):,} MB (target <= {MOST_MEMORY}); "
                f"size {size:.3f} x (target <= {MOST_SIZE}); "
                f"rows {'equal' if same(plainly, ours) else 'DIFFERENT'}",
                flush=True,
            )
    return None


if __name__ == "__main__":
    main()
