"""Files to be searched, and their vectors in float64."""

import apsw
import magnitude_files as mf
import numpy as np

DIM = 6
SIZES = {"plain": (1500, DIM, 1024), "wide": (40, 1536, 4096), "big": (20_000, 48, 4096)}


def written(folder, name):
    path = folder / name
    if not path.exists():
        count, dim, page_size = SIZES[name]
        keys, vectors = mf.random_words(count, 2), mf.random_vectors(count, dim, 2)
        mf.write_magnitude(path, keys, vectors, page_size=page_size)
    return path


class Reference:
    """The stored unit vectors of a file in float64."""

    def __init__(self, path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        rows = connection.execute("SELECT * FROM magnitude ORDER BY rowid").fetchall()
        connection.close()
        self.keys = [row[0] for row in rows]
        vectors = np.array([row[1:-1] for row in rows], np.float64)
        self.lengths = np.array([row[-1] for row in rows], np.float64)
        self.units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.at = {key: place for place, key in reversed(list(enumerate(self.keys)))}

    def unit(self, key):
        return self.units[self.at[key]]

    def ranked(self, scores, excluded=()):
        order = np.argsort(-scores, kind="stable")
        return [(self.keys[i], scores[i]) for i in order if self.keys[i] not in excluded]
