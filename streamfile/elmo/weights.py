"""Weights of a model, from an HDF5 file in bilm-tf's layout."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np

from streamfile._arrays import Floats
from streamfile.elmo.options import ALPHABET, Options
from streamfile.errors import FormatError, PathError

MOST_BYTES = 4 << 30  # bytes in memory; the largest published model takes 374 MB
# Limit of the compression ratio: HDF5's strongest built-in filter, deflate, reaches 1032.
MOST_SHRUNK = 1100
DIRECTIONS = 2
HEAD = 8  # bytes shown of a file of another format
PICKLES = (b"\x80", b"PK\x03\x04")  # Python's protocol 2 and later; torch's zip files


class Weights:
    """Arrays in a file, each read when it is used.

    Parameters
    ----------
    path
        Path of the file.
    datasets
        Datasets by name.
    """

    def __init__(self, path: Path, datasets: Mapping[str, h5py.Dataset]) -> None:
        self._path, self._datasets = path, datasets

    def read(self, name: str, rows: slice = slice(None)) -> Floats:
        """Read an array, or some of its rows, as float32.

        Raises
        ------
        FormatError
            The array is damaged.
        """
        dataset = self._datasets[name]
        begin, end, _ = rows.indices(dataset.shape[0])
        array: Floats = np.empty((end - begin, *dataset.shape[1:]), np.float32)
        with _refusing(self._path):
            dataset.read_direct(array, np.s_[begin:end])
        return array


def lstm_name(direction: int, layer: int, part: str) -> str:
    """Return the name of a dataset of an LSTM.

    Parameters
    ----------
    direction
        0 for forward, 1 for backward.
    layer
        Number of the LSTM layer, from 0.
    part
        ``W_0``, ``B`` or ``W_P_0``.
    """
    return f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell/{part}"


def expected_shapes(options: Options) -> dict[str, tuple[int, ...]]:
    """List the expected shape of every dataset, by name."""
    filters, projection = options.n_filters, options.projection_dim
    shapes: dict[str, tuple[int, ...]] = {"char_embed": (ALPHABET, options.character_dim)}
    for at, (width, count) in enumerate(options.filters):
        shapes[f"CNN/W_cnn_{at}"] = (1, width, options.character_dim, count)
        shapes[f"CNN/b_cnn_{at}"] = (count,)
    for at in range(options.n_highway):
        for part in ("transform", "carry"):
            shapes[f"CNN_high_{at}/W_{part}"] = (filters, filters)
            shapes[f"CNN_high_{at}/b_{part}"] = (filters,)
    shapes["CNN_proj/W_proj"] = (filters, projection)
    shapes["CNN_proj/b_proj"] = (projection,)
    for direction in range(DIRECTIONS):
        for layer in range(options.n_layers):
            shapes[lstm_name(direction, layer, "W_0")] = (2 * projection, 4 * options.dim)
            shapes[lstm_name(direction, layer, "B")] = (4 * options.dim,)
            shapes[lstm_name(direction, layer, "W_P_0")] = (options.dim, projection)
    return shapes


@contextlib.contextmanager
def open_weights(path: Path, options: Options) -> Iterator[Weights]:
    """Open a file of weights, and check every dataset. Links to other files are not followed.

    Parameters
    ----------
    path
        Path of an HDF5 file.
    options
        Options of the model, which determine the shapes.

    Yields
    ------
    Weights
        The arrays of the open file.

    Raises
    ------
    FormatError
        The file is no HDF5 file, or a dataset is missing, damaged, or of another type or shape.
    PathError
        The file does not exist.
    """
    shapes = expected_shapes(options)
    size = 4 * sum(math.prod(shape) for shape in shapes.values())
    if size > MOST_BYTES:
        raise FormatError(
            f"the ELMo options ask for {size} bytes of weights; at most {MOST_BYTES} are read"
        )
    _check_kind(path)
    with _refusing(path):
        file = h5py.File(path, "r")
    with file:
        with _refusing(path):
            datasets = {name: _find(file, name, shape) for name, shape in shapes.items()}
        yield Weights(path, datasets)


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except FormatError as failure:
        raise FormatError(f"the ELMo weights in {path} are not usable: {failure}") from failure
    # The errors that h5py raises for damaged files, depending on the damaged part.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as failure:
        raise FormatError(
            f"the ELMo weights in {path} are damaged ({failure}); get the file again"
        ) from failure


def _check_kind(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except FileNotFoundError as failure:
        raise PathError(f"no ELMo weights file at {path}") from failure
    if h5py.is_hdf5(path):
        return
    message = f"{path} is no HDF5 file: it begins with {head!r}"
    if head.startswith(PICKLES):
        message += (
            ", like a Python pickle. Only weights in bilm-tf's HDF5 layout are read; those of "
            "other projects are not, and are never unpickled: that would run what they hold"
        )
    raise FormatError(message)


def _find(file: h5py.File, name: str, shape: tuple[int, ...]) -> h5py.Dataset:
    found = file
    for part in name.split("/"):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            raise FormatError(f"dataset {name} is missing")
        if not isinstance(link, h5py.HardLink):
            raise FormatError(f"dataset {name} is a link to elsewhere, which is not followed")
        found = found[part]
    if not isinstance(found, h5py.Dataset):
        raise FormatError(f"{name} must be a dataset")
    if found.is_virtual or found.external:
        raise FormatError(f"dataset {name} lies in other files, which are not read")
    if found.dtype.kind != "f":
        raise FormatError(f"dataset {name} must hold floats, not {found.dtype}")
    if found.shape != shape:
        raise FormatError(
            f"dataset {name} must be of shape {shape} by the options, not {found.shape}; "
            "are these the options of these weights?"
        )
    size, stored = found.size * found.dtype.itemsize, found.id.get_storage_size()
    if size > MOST_SHRUNK * stored:
        raise FormatError(f"dataset {name} holds {stored} bytes where {size} are expected")
    return found
