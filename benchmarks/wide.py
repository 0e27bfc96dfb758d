"""Files of 3,072 dimensions, written, laid out anew, and streamed: `python benchmarks/wide.py`.

An ELMo model of small random LSTMs gives vectors to 5,000 words (`streamfile convert -v`). A SQLite
that takes more columns than stock builds, compiled on the first run (needs npm and gcc), checks
what was written, and rewrites it with other page sizes in its own layout; `streamfile repack` lays
these out for streaming again. Every vector is compared, local and streamed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from build_glove import glove

from streamfile import Magnitude, convert, repack
from streamfile.web.range_server import RangeServer

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from elmo_files import published, write_model
from wide_sqlite import why_no_wide_sqlite, wide_sqlite

ROWS, PAGE_SIZES = 5000, (1024, 4096, 65536)

CHECK = """
import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute("PRAGMA integrity_check").fetchall())
"""
REWRITE = """
import shutil, sqlite3, sys
shutil.copyfile(sys.argv[1], sys.argv[2])
db = sqlite3.connect(sys.argv[2], isolation_level=None)
db.execute("DROP TABLE magnitude_router")
db.execute("DROP TABLE magnitude_key_lengths")
db.execute(f"PRAGMA page_size = {sys.argv[3]}")
db.execute("VACUUM")
"""


def main() -> None:
    """Print all rows."""
    wide = wide_sqlite()
    if wide is None:
        raise SystemExit(why_no_wide_sqlite())
    keys = glove(ROWS)[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options, weights = write_model(folder / "model", published(16, 512, 1))
        weights = weights.rename(folder / "m_weights.hdf5")
        options.rename(folder / "m_options.json")
        (folder / "words.txt").write_text("\n".join(keys) + "\n", encoding="utf-8")
        path = folder / "wide.magnitude"
        began = time.perf_counter()
        (done,) = convert(weights, path, vocab=folder / "words.txt", subword=False, log=False)
        print(
            f"convert -v: {done.rows:,} rows of {done.dim:,} dimensions, "
            f"{path.stat().st_size:,} bytes, {time.perf_counter() - began:.1f} s; "
            f"integrity_check by a wide SQLite: {wide.run(CHECK, path).strip()}"
        )
        with Magnitude(path) as v:
            expected = v[:ROWS]
            similar = v.most_similar(keys[7])
        for page_size in PAGE_SIZES:
            original, packed = folder / f"{page_size}.sql", folder / f"{page_size}.magnitude"
            wide.run(REWRITE, path, original, page_size)
            began = time.perf_counter()
            repack(original, packed, verify=True, log=False)
            seconds = time.perf_counter() - began
            with RangeServer(folder) as server:
                options_ = {"cache_dir": str(folder / f"cache{page_size}")}
                url = server.url + packed.name
                with Magnitude(url, stream=True, stream_options=options_) as streamed:
                    waves = streamed.stats.waves
                    found = streamed[:ROWS]
                    same = [key for key, _ in found] == [key for key, _ in expected] and bool(
                        np.array_equal([each for _, each in found], [each for _, each in expected])
                    )
                    ranked = streamed.most_similar(keys[7]) == similar
            size = packed.stat().st_size / original.stat().st_size
            print(
                f"pages of {page_size:>6,}: repacked in {seconds:.1f} s, {size:.3f} x the size, "
                f"integrity_check {wide.run(CHECK, packed).strip()}; streamed: open "
                f"{waves} waves, all rows {'equal' if same else 'DIFFERENT'}, most_similar "
                f"{'equal' if ranked else 'DIFFERENT'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
