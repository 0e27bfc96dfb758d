"""Two versions of one file that only their vectors tell apart: the same size, the same layout."""

import os
from pathlib import Path

import magnitude_files as mf

ROWS, DIM = 4000, 12
KEYS = mf.random_words(ROWS, 5)
VECTORS = mf.random_vectors(ROWS, DIM, 5)
FIRST = mf.decode(mf.quantize(VECTORS, 7)[0], 1.0, 7)[0]
SECOND = -FIRST
SOONER, LATER = 1_500_000_000, 1_600_000_000  # when the versions were modified


def write_twins(folder: Path) -> tuple[Path, Path]:
    """Write both versions, with n-grams and small pages, so that trees have an interior level."""
    paths = folder / "first", folder / "second"
    for path, vectors, time in zip(paths, (VECTORS, -VECTORS), (SOONER, LATER), strict=True):
        mf.write_magnitude(path, KEYS, vectors, page_size=1024, subwords=True)
        os.utime(path, (time, time))
    first, second = (path.read_bytes() for path in paths)
    assert len(first) == len(second)
    assert first != second
    return paths
