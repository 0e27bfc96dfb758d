"""All rows of a file as SQL gives them, to be compared exactly."""

import apsw
import magnitude_files as mf
import numpy as np

DIM = 7  # of the file that the fixture words gives


class Sql:
    """All rows of a file as SQL gives them."""

    def __init__(self, path):
        self.connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        count = self.connection.execute("SELECT count(*) FROM magnitude").get
        self.rows = [mf.sql_row_at(self.connection, i + 1) for i in range(count)]
        self.keys = [row.key for row in self.rows]
        self.by_key = {row.key: row for row in reversed(self.rows)}

    def vectors(self, keys, *, normalized=True):
        rows = [self.by_key[key] for key in keys]
        return np.array([row.normalized if normalized else row.unnormalized for row in rows])


def same(got, expected, dtype=np.float32):
    """Compare exactly, type and shape included; equal NaN are equal."""
    assert isinstance(got, np.ndarray)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, np.asarray(expected).astype(dtype), strict=True)
