"""An ELMo model out of a streamed file: `python benchmarks/elmo_streamed.py [rounds]`.

First, what 25 keys of a vocabulary cost, in waves of requests: rows that nearly fill a page (768
dimensions), and rows over chains of pages (3,072). Then the model.

The weights are random, as many as the largest published model has (374 MB, which LZ4 does not
shrink), and the file has a vocabulary of 3,072 dimensions. A server in a process of its own sends
100 MB/s over loopback, all connections together; the cache's cap is 16 MiB above the weights. One
process fetches the model. Later ones are timed by turns with processes that only import torch and
read the weights, all of which the operating system has in memory; a number is the median of the
rounds, a ratio that of the rounds' ratios. The file is built on the first run and kept in a folder
under the temporary directory.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import similarity
from elmo import FOLDER, READING
from similarity import LIMIT, MB, Numbers, memory

from streamfile import Magnitude
from streamfile.format.tables import BLOBS, ELMO_OPTIONS, ELMO_WEIGHTS
from streamfile.readers.kept_blobs import keep_blob
from streamfile.readers.local import LocalReader
from vfs.btree.blobs import BlobTable
from vfs.btree.walk import run

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from elmo_files import options, published, write_model
from magnitude_files import by_themselves, random_words
from wide_sqlite import why_no_wide_sqlite, wide_sqlite

ROUNDS = 5
SIZE = 4096, 512, 2  # 2x4096_512
ROWS, DIM, SMALL_DIM = 3000, 3072, 768
ROOM = 16 << 20  # in the cache, beside the weights
MOST_BEYOND = 2 * MB
MOST_MEMORY = 150  # MB
LEAST_SHARE = 0.8
KEYS, MOST_WAVES = 25, 6
SENTENCE = ["The", "cat", "sat", "on", "the", "mat", "and", "looked", "at", "the", "dog", "."]

WRITING = """
import sqlite3, sys
from pathlib import Path
from magnitude_files import fill, quantize, random_vectors, random_words
path, rows, dim, options, weights = sys.argv[1:]
ints, magnitudes = quantize(random_vectors(int(rows), int(dim), 0), 7)
connection = sqlite3.connect(path, isolation_level=None)
fill(
    connection, random_words(int(rows), 0), ints, magnitudes.tolist(), precision=7, elmo=True,
    subwords=False, meta=(Path(weights).read_bytes(), Path(options).read_bytes()),
)
connection.execute("VACUUM")
connection.close()
"""


def elmo_file(dim: int, folder: Path, options: dict[str, Any]) -> tuple[Path, Path]:
    """Build a file, unless it is there.

    Returns
    -------
    path, weights_path : Path
    """
    paths = folder / "options.json", folder / "weights.hdf5"
    if not paths[1].exists():
        write_model(folder, options)
    path = FOLDER / f"elmo.{ROWS}.{dim}d.magnitude"
    if not path.exists():
        wide = wide_sqlite()
        if wide is None:
            sys.exit(f"no SQLite for {dim} dimensions: {why_no_wide_sqlite()}")
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        wide.run(WRITING, part, ROWS, dim, *paths)
        part.replace(path)
    return path, paths[1]


def stored_bytes(path: Path) -> dict[str, int]:
    """Count the bytes of each blob as the file has them."""
    contents = LocalReader(path).contents
    tables = {
        what: BlobTable(contents.pages, contents.format.blob_roots[what])
        for what in (ELMO_WEIGHTS, ELMO_OPTIONS)
    }
    return {
        what: sum(blob.size for blob in run(contents.pages, table.blobs(BLOBS[what])))
        for what, table in tables.items()
    }


def encode(url: str, cache: str, cap: str) -> Numbers:
    """Fetch the weights, if they are not there, and compute a sentence's vectors."""
    import torch  # noqa: F401 - no part of the memory that the model takes

    options = {"cache_dir": cache, "cache_size": int(cap)}
    with Magnitude(url, stream=True, stream_options=options) as v:
        assert len(v) == ROWS  # asks the server, once, whether the file is still the same
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        before = memory()["VmRSS"]
        start = time.perf_counter()
        with v.stats.measure() as counted:
            keep_blob(v._reader, ELMO_WEIGHTS)
        seconds = time.perf_counter() - start
        fetching = memory()["VmHWM"] - before
        shape = v.query(SENTENCE).shape
        assert shape == (len(SENTENCE), DIM)
        return {
            "seconds": seconds,
            "blob_requests": counted.requests,
            "bytes": v.stats.bytes,
            "requests": v.stats.requests,
            "fetching": fetching,
            "memory": memory()["VmHWM"] - before,
        }


def look_up(url: str, cache: str, begin: str) -> Numbers:
    """Count what opening the file and some keys cost, and one more that is looked for."""
    keys = random_words(ROWS, 0)[int(begin) :: ROWS // KEYS][:KEYS]
    options = {"cache_dir": cache, "cache_size": ROOM}
    with Magnitude(url, stream=True, stream_options=options) as v:
        opening = v.stats.waves
        assert by_themselves(v, keys).all(axis=-1).any()
        counts = v.stats.waves, v.stats.requests, v.stats.bytes
        assert "not there" not in v
        inside = v.stats.waves - counts[0]
    return {"opening": opening, "all": counts, "inside": inside}


def report_keys(url: str, dim: int) -> None:
    """Look keys up in two processes, and print what each costs."""
    with tempfile.TemporaryDirectory() as cache:
        for title, begin in ("cold", 0), ("a later process, other keys", 7):
            found: Numbers = json.loads(timed(__file__, "keys", url, cache, str(begin))[1])
            waves, requests, received = found["all"]
            print(
                f"{dim:,} dimensions, open + {KEYS} keys, {title}: {waves} waves (target <= "
                f"{MOST_WAVES}), {found['opening']} of them to open; {requests} requests, "
                f"{received:,} bytes; `in` after it {found['inside']} waves",
                flush=True,
            )


@contextlib.contextmanager
def serving(name: str) -> Iterator[str]:
    """Run a slow server in a process of its own, and give the URL of a file."""
    command = [sys.executable, similarity.__file__, "serve-limited"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield server.stdout.readline().strip() + name
        server.stdin.close()


def timed(*arguments: str) -> tuple[float, str]:
    """Run Python in a new process, and give its seconds from start to end, and its output."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return time.perf_counter() - start, done.stdout


def report(url: str, cache: str, path: Path, weights: Path, rounds: int) -> None:
    """Measure and print."""
    stored = stored_bytes(path)
    cap = weights.stat().st_size + ROOM
    arguments = __file__, "encode", url, cache, str(cap)
    seconds, output = timed(*arguments)
    first: Numbers = json.loads(output)
    share = stored[ELMO_WEIGHTS] / first["seconds"] / LIMIT
    beyond = first["bytes"] - sum(stored.values())
    held = sum(file.stat().st_size for file in Path(cache).rglob("*") if file.is_file())
    print(
        f"first process: weights in {first['seconds']:.2f} s, {share:.1%} of the server's rate "
        f"(target >= {LEAST_SHARE:.0%}); {beyond:,} bytes beyond the {sum(stored.values()):,} of "
        f"the model (target <= {MOST_BEYOND:,.0f}), {first['requests']} requests; "
        f"first vectors after {seconds:.2f} s; cache {held:,} bytes of {cap:,}\n"
        f"memory: {first['fetching']:.0f} MB while the weights are fetched (target <= "
        f"{MOST_MEMORY}); {first['memory'] - weights.stat().st_size / MB:.0f} MB beside the "
        "weights until the first vectors",
        flush=True,
    )
    times: dict[str, list[float]] = {"reading": [], "encoding": []}
    for _ in range(rounds):
        times["reading"].append(timed("-c", READING, "", str(weights))[0])
        seconds, output = timed(*arguments)
        later: Numbers = json.loads(output)
        times["encoding"].append(seconds)
    ratios = [a / b for a, b in zip(times["encoding"], times["reading"], strict=True)]
    print(
        f"later processes: {later['blob_requests']} requests for the weights (target 0), "
        f"{later['requests']} in all with {later['bytes']:,} bytes; first vectors after "
        f"{statistics.median(times['encoding']):.2f} s; importing torch and reading the weights: "
        f"{statistics.median(times['reading']):.2f} s; ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}; target <= 2)"
    )


def main() -> None:
    """Print lines for the vocabularies, for the first process and for later ones."""
    task = {"encode": encode, "keys": look_up}.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if task is not None:
        print(json.dumps(task(*sys.argv[2:])))
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    FOLDER.mkdir(exist_ok=True)
    path, weights = elmo_file(DIM, FOLDER / f"elmo.{SIZE[0]}", published(*SIZE))
    small, _ = elmo_file(
        SMALL_DIM, FOLDER / f"elmo.{SMALL_DIM}d", options(projection_dim=SMALL_DIM // 6)
    )
    for file, dim in (small, SMALL_DIM), (path, DIM):
        with serving(file.name) as url:
            report_keys(url, dim)
    for file in (path, weights):  # now the operating system has them in memory
        with file.open("rb") as content:
            while content.read(1 << 20):
                pass
    print(f"{path.stat().st_size / MB:.0f} MB, {ROWS:,} x {DIM}; medians of {rounds} processes")
    with tempfile.TemporaryDirectory() as cache, serving(path.name) as url:
        report(url, cache, path, weights, rounds)


if __name__ == "__main__":
    main()
