"""Random ELMo models in bilm-tf's layout: options JSON and HDF5 weights of any size."""

import copy
import json

import apsw
import numpy as np

SMALL = {
    "lstm": {
        "cell_clip": 3,
        "proj_clip": 3,
        "dim": 24,
        "n_layers": 2,
        "projection_dim": 8,
        "use_skip_connections": True,
    },
    "char_cnn": {
        "activation": "relu",
        "embedding": {"dim": 4},
        "filters": [[1, 4], [2, 8], [3, 8], [7, 12]],
        "max_characters_per_token": 50,
        "n_characters": 262,
        "n_highway": 1,
    },
}
FILTERS = [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]]


def options(**changes):
    """The small model's options; a name may be of either part."""
    made = copy.deepcopy(SMALL)
    for name, value in changes.items():
        part = next((part for part in made.values() if name in part), made["lstm"])
        part[name] = value
    return made


def published(dim, projection_dim, n_highway):
    """The options of a model as large as a published one."""
    return options(
        dim=dim,
        projection_dim=projection_dim,
        n_highway=n_highway,
        embedding={"dim": 16},
        filters=FILTERS,
    )


def shapes(options):
    lstm, cnn = options["lstm"], options["char_cnn"]
    dim, projection, layers = lstm["dim"], lstm["projection_dim"], lstm["n_layers"]
    filters = sum(count for _, count in cnn["filters"])
    yield "char_embed", (261, cnn["embedding"]["dim"])
    for at, (width, count) in enumerate(cnn["filters"]):
        yield f"CNN/W_cnn_{at}", (1, width, cnn["embedding"]["dim"], count)
        yield f"CNN/b_cnn_{at}", (count,)
    for at in range(cnn["n_highway"]):
        yield f"CNN_high_{at}/W_transform", (filters, filters)
        yield f"CNN_high_{at}/W_carry", (filters, filters)
        yield f"CNN_high_{at}/b_transform", (filters,)
        yield f"CNN_high_{at}/b_carry", (filters,)
    yield "CNN_proj/W_proj", (filters, projection)
    yield "CNN_proj/b_proj", (projection,)
    for direction in range(2):
        for layer in range(layers):
            folder = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            yield f"{folder}/W_0", (2 * projection, 4 * dim)
            yield f"{folder}/B", (4 * dim,)
            yield f"{folder}/W_P_0", (dim, projection)


def write_model(folder, options=None, *, seed=0, scale=1.0):
    """Write random weights that keep values in the range where no gate is shut.

    Returns
    -------
    options_path, weights_path
    """
    import h5py  # most tests need none

    options = options or SMALL
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "options.json", folder / "weights.hdf5"
    paths[0].write_text(json.dumps(options))
    with h5py.File(paths[1], "w") as file:
        for name, shape in shapes(options):
            fan = int(np.prod(shape[:-1])) if len(shape) > 1 else 30
            values = rng.standard_normal(shape, dtype=np.float32)
            file[name] = values * np.float32(scale / np.sqrt(fan))
    return paths


def changed_frame(path, change):
    """Change the stored bytes of a file's weights."""
    connection = apsw.Connection(str(path))
    rows = [row for (row,) in connection.execute("SELECT meta_file FROM magnitude_meta_1")]
    connection.execute("DELETE FROM magnitude_meta_1")
    connection.execute("INSERT INTO magnitude_meta_1 VALUES (?)", (change(b"".join(rows)),))
    connection.close()
