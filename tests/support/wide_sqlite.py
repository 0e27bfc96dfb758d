"""A SQLite that takes more than 2,000 columns, for files that no stock build can open.

It is compiled once per machine from the amalgamation inside an npm package, and used by the
standard library's ``sqlite3`` in a child process, whose dynamic loader is told to prefer it.
"""

import functools
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from building import once, run
from magnitude_files import fill, quantize, random_vectors, random_words, raw_row, raw_row_at

PACKAGE = "better-sqlite3"
PACKAGE_VERSION = "12.11.1"
SOURCE = "package/deps/sqlite3/sqlite3.c"
SOURCE_SHA256 = "60d2f39a3726cd6b9021da6f4e868608d66fbb6528a9f513dc8ffcc640493422"
LIBRARY = "libsqlite3.so.0"
FLAGS = ["-O1", "-shared", "-fPIC", "-DSQLITE_MAX_COLUMN=32767", "-DSQLITE_ENABLE_FTS3"]
WIDE_COLUMNS = 3074
PRECISION = 7
CASE_DUPLICATES = 4

PROBE = f"""
import sqlite3
columns = ", ".join(f"c{{i}}" for i in range({WIDE_COLUMNS}))
sqlite3.connect(":memory:").execute(f"CREATE TABLE wide ({{columns}})")
"""


class WideRows(NamedTuple):
    """Rows as SQL gives them: those of the rowids, then those of the keys, in the order asked for.

    A row that is not there has rowid 0; a magnitude that is NULL is NaN.
    """

    rowids: np.ndarray
    keys: list[str]
    dims: np.ndarray
    magnitudes: np.ndarray


@dataclass(frozen=True)
class WideSqlite:
    """A built library, and what can be done with it."""

    library: Path

    def environment(self) -> dict[str, str]:
        """Give the environment in which the ``sqlite3`` of Python is the wide one."""
        env = dict(os.environ)
        first = {"LD_LIBRARY_PATH": self.library.parent, "PYTHONPATH": Path(__file__).parent}
        for name, folder in first.items():
            env[name] = f"{folder}:{env[name]}" if env.get(name) else str(folder)
        return env

    def run(self, script: str, *args: object) -> str:
        """Run a Python script whose ``sqlite3`` is the wide one; give what it prints."""
        command = [sys.executable, "-c", script, *map(str, args)]
        return subprocess.run(
            command, env=self.environment(), check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def write_wide_magnitude(
        self,
        path: Path,
        rows: int = 5000,
        dim: int = 3072,
        seed: int = 0,
        meta: tuple[Path, Path] | tuple[()] = (),
    ) -> Path:
        """Write an ELMo file with a vocabulary, some of whose keys are equal under NOCASE.

        ``meta`` names the files that it holds: the weights and the options.
        """
        self.run("import wide_sqlite; wide_sqlite.write_in_child()", path, rows, dim, seed, *meta)
        return path

    def rows(self, path: Path, rowids: Sequence[int] = (), keys: Sequence[str] = ()) -> WideRows:
        """Read rows with SQL, by rowid and by (case-sensitive) key."""
        with tempfile.TemporaryDirectory() as folder:
            wanted, found = Path(folder, "wanted.json"), Path(folder, "found.npz")
            wanted.write_text(json.dumps([list(map(int, rowids)), list(keys)]))
            self.run("import wide_sqlite; wide_sqlite.read_in_child()", path, wanted, found)
            with np.load(found) as arrays:
                names = json.loads(str(arrays["keys"]))
                return WideRows(arrays["rowids"], names, arrays["dims"], arrays["magnitudes"])


def write_in_child() -> None:
    """Write the file that the arguments describe."""
    path, (rows, dim, seed) = Path(sys.argv[1]), map(int, sys.argv[2:5])
    meta = tuple(Path(name).read_bytes() for name in sys.argv[5:]) or None
    keys = random_words(rows - CASE_DUPLICATES, seed)
    keys += [keys[0].upper(), keys[1].capitalize(), keys[2].swapcase(), keys[3]]
    ints, magnitudes = quantize(random_vectors(rows, dim, seed), PRECISION)
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    fill(
        connection,
        keys,
        ints,
        magnitudes.tolist(),
        precision=PRECISION,
        elmo=True,
        subwords=False,
        meta=meta,
    )
    connection.execute("VACUUM")
    connection.close()


def read_in_child() -> None:
    """Save the rows that the arguments ask for."""
    path, wanted, found = map(Path, sys.argv[1:])
    rowids, keys = json.loads(wanted.read_text())
    connection = sqlite3.connect(path)
    dim = len(connection.execute("SELECT * FROM magnitude LIMIT 0").description) - 2
    rows = [raw_row_at(connection, rowid) for rowid in rowids]
    rows += [raw_row(connection, key) for key in keys]
    connection.close()
    rows = [row or (0, "", *[0] * dim, None) for row in rows]
    np.savez(
        found,
        rowids=np.array([row[0] for row in rows], np.int64),
        keys=np.array(json.dumps([row[1] for row in rows])),
        dims=np.array([row[2:-1] for row in rows], np.int64).reshape(len(rows), dim),
        magnitudes=np.array([row[-1] for row in rows], np.float64),
    )


def wide_sqlite(cache: Path | None = None) -> WideSqlite | None:
    """Give the wide SQLite, built if the cache has none, or None where something is missing.

    Raises
    ------
    RuntimeError
        Nothing is missing, but it cannot be built, or does not work.
    """
    if why_no_wide_sqlite(cache):
        return None
    found = _made(cache or default_cache())
    if isinstance(found, RuntimeError):
        raise found
    return found


def why_no_wide_sqlite(cache: Path | None = None) -> str:
    """Say what is missing for the wide SQLite; empty if nothing is."""
    spec = importlib.util.find_spec("_sqlite3")
    if not (spec and spec.has_location and spec.origin):
        return "the sqlite3 of this Python is not a shared library"
    if LIBRARY.encode() not in Path(spec.origin).read_bytes():
        return f"the sqlite3 of this Python is not linked to {LIBRARY}"
    if Path(cache or default_cache(), LIBRARY).exists():
        return ""
    missing = [tool for tool in ("npm", "gcc") if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


@functools.cache
def _made(folder: Path) -> WideSqlite | RuntimeError:
    """Build or find the library, and try it; give the failure, which another try would repeat."""
    try:
        wide = WideSqlite(once(folder / LIBRARY, _build))
        if folder.stat().st_uid != os.getuid():
            raise RuntimeError(f"{folder} belongs to another user")
        run([sys.executable, "-c", PROBE], env=wide.environment())
    except RuntimeError as error:
        return error
    return wide


def default_cache() -> Path:
    """Name the folder of this user, package version and kind of machine."""
    name = f"wide-sqlite-{PACKAGE_VERSION}-{platform.machine()}-{os.getuid()}"
    return Path(tempfile.gettempdir(), name)


def _build(folder: Path) -> Path:
    """Fetch the source and compile it."""
    run(["npm", "pack", "--ignore-scripts", f"{PACKAGE}@{PACKAGE_VERSION}"], cwd=folder)
    with tarfile.open(folder / f"{PACKAGE}-{PACKAGE_VERSION}.tgz") as archive:
        content = archive.extractfile(SOURCE)
        source = content.read() if content else b""
    if hashlib.sha256(source).hexdigest() != SOURCE_SHA256:
        raise RuntimeError(f"{SOURCE} of {PACKAGE} {PACKAGE_VERSION} is not the expected one")
    (folder / "sqlite3.c").write_bytes(source)
    run(["gcc", *FLAGS, f"-Wl,-soname,{LIBRARY}", "-o", LIBRARY, "sqlite3.c", "-lm"], cwd=folder)
    return folder / LIBRARY
