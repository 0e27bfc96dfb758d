"""Compare `most_similar` with the plain ways: `python benchmarks/similarity.py [rounds]`.

Locally, with iterating SQL rows into a numpy matrix, from then on one matrix-vector product, and
with gensim on the same vectors; over loopback, with the bytes of the table. Each number is the
median of several fresh processes, with an empty cache directory where the first call is measured.
The file, of random vectors, is built on the first run and kept in a folder under the temporary
directory. With the extra `fast`, the machine code was compiled before, which has a line of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from build_glove import build_light
from numpy.typing import NDArray

from streamfile import Magnitude
from streamfile.web import range_server
from vfs.btree.pages import LocalPages
from vfs.btree.table import Table
from vfs.btree.walk import run

FOLDER = Path(tempfile.gettempdir()) / "streamfile-benchmarks"
COUNT, DIM, PRECISION = 200_000, 300, 7
REPETITIONS = 30
ROUNDS = 5
TOPN = 10
MB = 1e6
LIMIT = 100 * MB  # bytes a second
LEAST_CODE = 100_000  # bytes; kept files above are no machine code

Numbers = dict[str, Any]


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


def time_sql() -> Numbers:
    """Time the plain way to the first answer."""
    start = time.perf_counter()
    keys, matrix = plain_matrix(random_file())
    order = np.argsort(-(matrix @ matrix[0]))[1 : TOPN + 1]
    return {"first": time.perf_counter() - start, "keys": [keys[at] for at in order]}


def time_ours() -> Numbers:
    """Time the first answer and the next ones, beside a bare product."""
    with Magnitude(random_file()) as v:
        v.query("word1")
        start, used = time.perf_counter(), time.process_time()
        found = v.most_similar("word0", topn=TOPN)
        answer = {
            "first": time.perf_counter() - start,
            "cpu": time.process_time() - used,
            "keys": [key for key, _ in found],
        }
        matrix = v.get_vectors_mmap()
        ratios = []
        for repetition in range(1, REPETITIONS):
            key, vector = f"word{repetition}", matrix[repetition].copy()
            start = time.perf_counter()
            _ = matrix @ vector
            middle = time.perf_counter()
            v.most_similar(key, topn=TOPN)
            ratios.append((time.perf_counter() - middle) / (middle - start))
        start = time.perf_counter()
    return answer | {"next": statistics.median(ratios), "close": time.perf_counter() - start}


def time_gensim() -> Numbers:
    """Time gensim's first answer, its vectors in memory already, and the next ones."""
    from gensim.models import KeyedVectors

    with Magnitude(random_file()) as v:
        matrix = v.get_vectors_mmap()
    start = time.perf_counter()
    model = KeyedVectors(DIM)
    model.add_vectors([f"word{i}" for i in range(COUNT)], matrix)
    model.most_similar("word0", topn=TOPN)
    first = time.perf_counter() - start
    ratios = []
    for repetition in range(1, REPETITIONS):
        vector = matrix[repetition].copy()
        start = time.perf_counter()
        _ = matrix @ vector
        middle = time.perf_counter()
        model.most_similar(f"word{repetition}", topn=TOPN)
        ratios.append((time.perf_counter() - middle) / (middle - start))
    return {"first": first, "next": statistics.median(ratios)}


def time_streamed(url: str) -> Numbers:
    """Time the first answer, and take its bytes and its memory."""
    with Magnitude(url, stream=True) as v:
        v.query("word1")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        before, peak, done = memory(), memory(), threading.Event()

        def watch() -> None:
            while not done.wait(0.01):
                peak["RssAnon"] = max(peak["RssAnon"], memory()["RssAnon"])

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        with v.stats.measure() as counted:
            found = v.most_similar("word0", topn=TOPN)
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
        return {
            "first": seconds,
            "bytes": counted.bytes,
            "requests": counted.requests,
            "rss": memory()["VmHWM"] - before["VmRSS"],
            "anonymous": peak["RssAnon"] - before["RssAnon"],
            "keys": [key for key, _ in found],
        }


def memory() -> dict[str, float]:
    """Read the memory of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = (line.split() for line in lines if line.endswith("kB"))
    return {name.rstrip(":"): int(size) * 1024 / MB for name, size, _ in fields}


class LimitedHandler(range_server._Handler):
    """Sends no more bytes a second than the limit, all connections together."""

    lock = threading.Lock()
    free = 0.0

    def _body(self, data: bytes) -> None:
        with self.lock:
            now = time.perf_counter()
            LimitedHandler.free = max(now, self.free) + len(data) / LIMIT
            wait = self.free - now
        time.sleep(wait)
        super()._body(data)


def serve(*, limited: bool) -> None:
    """Serve the folder until standard input ends."""
    with range_server.RangeServer(FOLDER) as server:
        if limited:
            server.RequestHandlerClass = LimitedHandler
        print(server.url, flush=True)
        sys.stdin.read()


@contextlib.contextmanager
def serving(kind: str) -> Iterator[str]:
    """Run a server in a process of its own, and give the URL of the file."""
    command = [sys.executable, __file__, kind]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield server.stdout.readline().strip() + random_file().name
        server.stdin.close()


def table_bytes(path: Path) -> int:
    """Count the bytes of the pages of the vectors' table."""
    pages = LocalPages(path)
    with apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY) as db:
        root = db.execute("SELECT rootpage FROM sqlite_schema WHERE name='magnitude'").get
    table = Table(pages, root)
    return (len(run(pages, table.leaves(10**9))) + len(table.interior)) * pages.layout.page_size


TASKS: dict[str, Callable[..., Numbers]] = {
    "sql": time_sql,
    "ours": time_ours,
    "gensim": time_gensim,
    "streamed": time_streamed,
}


class Bench:
    """Runs tasks in fresh processes.

    Parameters
    ----------
    cache : Path
        The cache directory.
    rounds : int
        Processes of each task.
    """

    def __init__(self, cache: Path, rounds: int) -> None:
        self.cache, self.rounds = cache, rounds

    def once(self, task: str, *options: str) -> Numbers:
        """Run a task in one process."""
        command = [sys.executable, __file__, task, *options]
        env = os.environ | {"STREAMFILE_CACHE_DIR": str(self.cache)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        numbers: Numbers = json.loads(done.stdout)
        return numbers

    def forget(self, *, code: bool = False) -> None:
        """Empty the cache directory, but for the machine code."""
        for file in self.cache.rglob("*"):
            if file.is_file() and (code or file.stat().st_size > LEAST_CODE):
                file.unlink()

    def median(self, found: list[Numbers]) -> Numbers:
        """Give the median of each number."""
        return {
            name: value if name == "keys" else statistics.median(one[name] for one in found)
            for name, value in found[0].items()
        }


def main() -> None:
    """Print a line for each figure, with its target."""
    if len(sys.argv) > 1 and sys.argv[1] in TASKS:
        if "plain" in sys.argv:  # as if the extra were not installed
            sys.modules["llvmlite"] = None  # type: ignore[assignment]
        options = [option for option in sys.argv[2:] if option != "plain"]
        print(json.dumps(TASKS[sys.argv[1]](*options)))
        return
    if sys.argv[1:] in (["serve"], ["serve-limited"]):
        serve(limited=sys.argv[1] == "serve-limited")
        return
    path = random_file()
    path.read_bytes()  # now the operating system has it in memory
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print(f"{COUNT:,} x {DIM}, {path.stat().st_size / MB:.0f} MB; medians of {rounds} processes")
    with tempfile.TemporaryDirectory() as cache:
        report(Bench(Path(cache), rounds), path)


def report(bench: Bench, path: Path) -> None:
    """Measure and print."""
    compiling = bench.once("ours")
    plain, ours, fast, second, gensim = [], [], [], [], []
    for _ in range(bench.rounds):  # by turns: the machine may be slower for a while
        plain.append(bench.once("sql"))
        bench.forget()
        ours.append(bench.once("ours", "plain"))
        bench.forget()
        fast.append(bench.once("ours"))
        second.append(bench.once("ours"))
        with contextlib.suppress(subprocess.CalledProcessError):
            gensim.append(bench.once("gensim"))
    sql = bench.median(plain)
    print(f"local, SQL rows into numpy: first answer {sql['first']:.2f} s")
    for name, found, target in (
        ("numpy alone", ours, ">= 8"),
        ("extra fast, compiled before", fast, ">= 15"),
        ("another process later", second, "no scan"),
    ):
        got = bench.median(found)
        assert got["keys"] == sql["keys"]
        ratios = [a["first"] / b["first"] for a, b in zip(plain, found, strict=True)]
        print(
            f"local, {name}: first {got['first']:.3f} s (CPU {got['cpu']:.2f} s), "
            f"ratio to SQL {statistics.median(ratios):.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f}; target {target}); "
            f"next / bare product {got['next']:.2f} (target <= 1.3); close {got['close']:.2f} s"
        )
    print(f"local, extra fast, compiling: first {compiling['first']:.2f} s, once a machine")
    if gensim:
        got = bench.median(gensim)
        print(
            f"gensim, from vectors in memory: first {got['first']:.2f} s, "
            f"next / bare product {got['next']:.2f}"
        )
    table = table_bytes(path)
    for kind, title in (("serve", "loopback"), ("serve-limited", "100 MB/s")):
        found = []
        with serving(kind) as url:
            for _ in range(bench.rounds):
                bench.forget(code=kind == "serve")
                found.append(bench.once("streamed", url))
            later = bench.once("streamed", url)
        got = bench.median(found)
        assert got["keys"] == sql["keys"]
        least = got["bytes"] / LIMIT
        pace = f", {got['first'] / least:.2f} x bytes / (100 MB/s) (target <= 1.25)"
        print(
            f"streamed, {title}: first {got['first']:.2f} s"
            f"{pace if kind == 'serve-limited' else ''}; "
            f"{got['bytes'] / table:.3f} x the table's bytes (target <= 1.1), "
            f"{got['requests']:.0f} requests; memory +{got['rss']:.0f} MB, of it "
            f"+{got['anonymous']:.0f} MB not of mapped files (target <= 300 MB); "
            f"another process: {later['bytes']:,} bytes, {later['first']:.2f} s"
        )
    shutil.rmtree(bench.cache, ignore_errors=True)


if __name__ == "__main__":
    main()
