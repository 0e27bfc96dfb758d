"""Misspelt words in a streamed file, ours beside plain SQL: `python benchmarks/oov.py`.

The file is the medium flavour of GloVe, 400,000 words and 50 dimensions, built on the first run
(extra `bench`) and kept in a folder under the temporary directory. It is served on this machine at
100 ms a request and 100 ms a new connection. Each case begins with an empty cache; requests, bytes
and waves are those that the server saw. The plain way is the published search, run by SQLite
through `vfs.connect` on the same server, for a few of the words.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from build_glove import build_medium, glove
from numpy.typing import NDArray
from roundtrips import HANDSHAKE, LATENCY, SlowServer, count_waves

import vfs
from streamfile import Magnitude
from streamfile.lookup.vectors import similar_to
from streamfile.readers.local import LocalReader
from streamfile.readers.remote import RemoteReader
from streamfile.web.range_server import RangeServer

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from sql_similar import misspelt, sql_similar, sql_vector

FOLDER = Path(tempfile.gettempdir()) / "streamfile-benchmarks"
DIM = 50
WORDS, TOGETHER, PLAIN = 50, 10, 10
MISSPELLINGS = 500

Vectors = NDArray[np.floating[Any]]
Way = Callable[[str, str, Sequence[str]], Vectors]


def medium_file() -> Path:
    """Build the file of all GloVe words with their n-grams, unless it is there.

    Returns
    -------
    Path
    """
    path = FOLDER / "glove.6B.50d.medium.magnitude"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        build_medium(path, *glove())
    return path


def unknown_words(words: Sequence[str], count: int, seed: int) -> list[str]:
    """Misspell random words, so that there are no such words.

    Parameters
    ----------
    words : sequence of str
    count, seed : int

    Returns
    -------
    list of str
        All different.
    """
    rng, known = random.Random(seed), set(words)
    made: dict[str, None] = {}
    while len(made) < count:
        word = misspelt(rng.choice(words), rng)
        if word not in known:
            made[word] = None
    return list(made)


def ours(url: str, cache: str, words: Sequence[str]) -> Vectors:
    """Open the file and query words at once."""
    with Magnitude(url, stream=True, stream_options={"cache_dir": cache}) as v:
        answer: Vectors = v.query(list(words))
        return answer


def plain(url: str, cache: str, words: Sequence[str]) -> Vectors:
    """Search with SQLite, one word after the other."""
    connection = vfs.connect(url, cache_dir=cache)
    connection.execute("SELECT * FROM magnitude_format").fetchall()
    answer = np.array([sql_vector(connection, word, DIM) for word in words])
    connection.close()
    return answer


def measure(
    server: SlowServer, way: Way, name: str, words: Sequence[str], expected: Vectors
) -> tuple[int, int, float]:
    """Query words with an empty cache.

    Returns
    -------
    waves, received : int
        As the server saw them; bytes.
    seconds : float
    """
    server.served.clear()
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        found = way(server.url + name, cache, words)
        seconds = time.perf_counter() - began
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    time.sleep(0.2)  # the server notes an answer just after its last byte
    served = list(server.served)
    intervals = [(s.connected if waited else s.arrived, s.ended) for s, waited in served]
    return count_waves(intervals), sum(record.sent for record, _ in served), seconds


def print_spread(title: str, cases: Sequence[tuple[int, int, float]], *targets: str) -> None:
    """Print the median and the worst of cases.

    Parameters
    ----------
    title : str
    cases : sequence of (waves, bytes, seconds)
    *targets : str
        Of the median and of the worst, printed behind.
    """
    columns = list(zip(*cases, strict=True))
    for at, (name, of) in enumerate((("median", statistics.median), ("worst", max))):
        waves, received, seconds = (of(column) for column in columns)
        print(
            f"  {title:<11}{name:<7}{waves:>5g} waves{received / 1e6:>7.2f} MB"
            f"{seconds:>7.2f} s{targets[at] if at < len(targets) else ''}",
            flush=True,
        )


def stream(path: Path, asked: Sequence[str], expected: Vectors) -> None:
    """Stream words one by one and together, print both ways."""
    with SlowServer(path.parent) as server:
        alone = [
            measure(server, ours, path.name, [word], vector[None])
            for word, vector in zip(asked, expected, strict=True)
        ]
        print(f"open + 1 misspelt word, {len(asked)} words")
        targets = ", target <= 10 waves, <= 3 MB", ", target <= 20 waves, <= 10 MB"
        print_spread("ours", alone, *targets)
        print(f"the same, the first {PLAIN} of them")
        print_spread("ours", alone[:PLAIN])
        cases = zip(asked[:PLAIN], expected, strict=False)
        print_spread(
            "plain",
            [measure(server, plain, path.name, [word], vector[None]) for word, vector in cases],
        )
        several = slice(TOGETHER)
        waves, received, seconds = measure(
            server, ours, path.name, asked[several], expected[several]
        )
        total = sum(waves for waves, *_ in alone[several])
        print(
            f"open + {TOGETHER} misspelt words\n  ours{waves:>19} waves{received / 1e6:>7.2f} MB"
            f"{seconds:>7.2f} s, alone {total} waves in all, target <= {total // 3}"
        )


def compare(path: Path, asked: Sequence[str]) -> None:
    """Query words in the local file, and count those whose rows SQLite gives too."""
    ours_ms: list[float] = []
    plain_ms: list[float] = []
    equal = {"local": 0, "streamed": 0}
    with (
        Magnitude(path, lazy_loading=1) as local,
        apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY) as db,
    ):
        db.pragma("mmap_size", 1 << 40)
        local.query(asked)  # now the pages are in memory, and one of the vectors
        for word in asked:
            start = time.perf_counter()
            vector = local.query(word)
            middle = time.perf_counter()
            expected = sql_vector(db, word, DIM)
            ours_ms.append((middle - start) * 1000)
            plain_ms.append((time.perf_counter() - middle) * 1000)
            np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-6)
        rows = [sql_similar(db, word) for word in asked]
    with RangeServer(path.parent) as server, tempfile.TemporaryDirectory() as cache:
        for name, reader in (
            ("local", LocalReader(str(path))),
            ("streamed", RemoteReader(server.url + path.name, cache_dir=cache)),
        ):
            found = similar_to(reader, asked, language="en", case_insensitive=False)
            reader.close()
            equal[name] = sum(a == b for a, b in zip(found, rows, strict=True))
    print(
        f"{len(asked)} misspelt words: the rows and the order of SQLite's MATCH for "
        f"{equal['local']} local, {equal['streamed']} streamed, target {len(asked)}"
    )
    print(
        f"local, a word: ours {statistics.median(ours_ms):.2f} ms, worst {max(ours_ms):.0f}; "
        f"the published way in Python {statistics.median(plain_ms):.2f} ms, "
        f"worst {max(plain_ms):.0f}"
    )


def main() -> None:
    """Build, stream, compare."""
    path = medium_file()
    words, _ = glove()
    print(
        f"{len(words):,} words, {DIM} dimensions, with n-grams, {path.stat().st_size:,} bytes; "
        f"{LATENCY * 1000:.0f} ms a request, {HANDSHAKE * 1000:.0f} ms a new connection"
    )
    asked = unknown_words(words, WORDS, 1)
    with Magnitude(path) as v:
        expected = v.query(asked)
    stream(path, asked, expected)
    compare(path, unknown_words(words, MISSPELLINGS, 2))


if __name__ == "__main__":
    main()
