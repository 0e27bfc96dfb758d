"""Files in the original layout, and sidecars made of the files themselves."""

import magnitude_files as mf

import vfs
from streamfile.tools.route import route

ROWS, DIM = 6000, 8
KEYS = mf.random_words(ROWS, 1)
VECTORS = mf.random_vectors(ROWS, DIM, 1)
EXPECTED = mf.decode(mf.quantize(VECTORS, 7)[0], 1.0, 7)[0]
NAMES = ["medium", "light", "loose"]


def write(path, name, vectors=VECTORS, keys=KEYS):
    return mf.write_magnitude(
        path, keys, vectors, page_size=1024, subwords=name == "medium", vacuum=name != "loose"
    )


def make(folder):
    """Write the files, each with its sidecar beside it."""
    for name in NAMES:
        route(write(folder / name, name), folder / f"{name}.route")
    return folder


def server_etag(server, name):
    with vfs.open(server.url + name, cache_size=0) as file:
        return file.identity.etag
