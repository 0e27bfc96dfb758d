"""Writer of the index of approximate neighbours, which Annoy builds."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from streamfile.format.rows import VectorRows
from streamfile.format.tables import APPROXIMATE, VECTORS
from streamfile.write.database import Builder
from streamfile.write.lz4_rows import frame_rows
from vfs.btree.pages import LocalPages
from vfs.btree.table import Table
from vfs.btree.whole_trees import read_rows

SQL = f"CREATE TABLE {APPROXIMATE} (trees INTEGER, index_file BLOB)"
CHILD = (
    "import os, sys; sys.path[:] = sys.argv.pop(1).split(os.pathsep); "
    "from streamfile.write.annoy_index import build_index; build_index()"
)


def write_approximate(builder: Builder, dim: int, precision: int, trees: int) -> None:
    """Write the index of approximate neighbours of all vectors.

    Parameters
    ----------
    builder
        Builder of a file whose vectors are written already.
    dim, precision
        Number of dimensions of the vectors, and of decimal places of their stored integers.
    trees
        Number of trees in the index.

    Raises
    ------
    ImportError
        The extra ``annoy`` is not installed.
    OSError
        Annoy could not write the index.
    """
    import_annoy()
    builder.pages()  # writes all pages so far, for the child process
    # Annoy grows its own file on disk, beside the file that is being written.
    with tempfile.TemporaryDirectory(prefix=".annoy", dir=Path(builder.path).parent) as folder:
        file = Path(folder) / "index"
        numbers = (builder.root(VECTORS), dim, precision, trees)
        _build_in_child([builder.path, file, *map(str, numbers)])
        builder.records(APPROXIMATE, SQL, enumerate(frame_rows(file, trees), 1))


def build_index() -> None:
    """Build an index, with parameters from the command line of this process.

    The arguments are the paths of the database and of the index, the root page of the vectors'
    table, the number of dimensions, the precision and the number of trees.
    """
    path, file, *numbers = sys.argv[1:]
    root, dim, precision, trees = map(int, numbers)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    index = import_annoy()(dim, "angular")
    index.on_disk_build(file)
    index.set_seed(1)
    pages = LocalPages(path)
    for rows in read_rows(pages, Table(pages, root)):
        vectors = VectorRows(path, rows, dim).vectors(precision, normalized=True)
        for rowid, vector in zip(rows.rowids.tolist(), vectors, strict=True):
            index.add_item(rowid - 1, vector)
    index.build(trees)
    index.unload()


def _build_in_child(arguments: list[str | os.PathLike[str]]) -> None:
    """Run `build_index` in a child process.

    Annoy cannot be interrupted, and it writes through a memory map, so that a full disk kills its
    process.
    """
    command = [sys.executable, "-c", CHILD, os.pathsep.join(sys.path), *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode == -getattr(signal, "SIGBUS", 0) != 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2]
        raise OSError(
            f"the index of approximate neighbours: Annoy ended with status {done.returncode}: "
            f"{said or '(it said nothing)'}"
        )


def import_annoy() -> Any:
    """Import Annoy and return its class ``AnnoyIndex``.

    Raises
    ------
    ImportError
        Annoy is not installed.
    """
    try:
        from annoy import AnnoyIndex
    except ImportError as failure:
        raise ImportError(
            'an index of approximate neighbours is made by Annoy: pip install "streamfile[annoy]"'
        ) from failure
    return AnnoyIndex
