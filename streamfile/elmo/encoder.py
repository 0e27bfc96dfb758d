"""Encoder of sentences as vectors of words in context, the public class of this package."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from streamfile._arrays import Floats
from streamfile.elmo.batches import batches, windows
from streamfile.elmo.options import Options, read_options
from streamfile.errors import ArgumentError

if TYPE_CHECKING:
    import os

    import torch

    from streamfile.elmo.allennlp import AllenNLPModel

PRECISIONS = ("float32", "bfloat16")
BACKENDS = ("torch", "allennlp")
DIRECTIONS = 2


class Model(Protocol):
    """Interface of a backend."""

    def encode(self, sentences: Sequence[Sequence[str]]) -> list[Floats]:
        """Compute the vectors of a batch, each sentence from zero states."""


class Encoder:
    """An ELMo model (Peters et al., 2018), from the files that bilm-tf and AllenNLP read.

    Every call starts from zero states, so that equal calls return equal vectors. The other
    sentences of a batch change a sentence's vectors only by rounding (at most 1e-5). Threads may
    share an encoder, and processes that are forked later may use it.

    Parameters
    ----------
    options_path : str or path
        Path of the options, a JSON file.
    weights_path : str or path
        Path of the weights, an HDF5 file.
    devices : sequence of int
        Numbers of GPUs, of which the first one computes; an empty sequence for the CPU.
    precision : str
        ``float32``, or ``bfloat16`` for the matrix products of the LSTMs, which is faster and less
        precise, and takes half the memory for their weights.
    backend : str
        ``torch``, or ``allennlp`` to let AllenNLP compute.

    Raises
    ------
    ArgumentError
        An argument has an impossible value.
    FormatError
        A file is no model, or the files do not fit each other.
    PathError
        A file does not exist.
    ImportError
        The extra ``elmo`` or ``allennlp`` is not installed.
    """

    def __init__(
        self,
        options_path: str | os.PathLike[str],
        weights_path: str | os.PathLike[str],
        *,
        devices: Sequence[int] = (),
        precision: str = "float32",
        backend: str = "torch",
    ) -> None:
        check_choices(devices, precision, backend)
        self._options = read_options(Path(options_path))
        load = _load_allennlp if backend == "allennlp" else _load_torch
        self._model = load(
            Path(options_path), Path(weights_path), self._options, devices, precision
        )

    @property
    def layers(self) -> int:
        """Number of layers of a vector: the character layer and the LSTM layers."""
        return 1 + self._options.n_layers

    @property
    def dim(self) -> int:
        """Number of dimensions of a layer, both directions together."""
        return DIRECTIONS * self._options.projection_dim

    def embed(self, sentences: Iterable[Sequence[str]]) -> Iterator[Floats]:
        """Yield the vectors of words in context, for each sentence in order.

        Parameters
        ----------
        sentences : iterable of sequences of str
            Tokens of each sentence. A few thousand tokens are read and computed at a time, so that
            memory is bounded; sentences of similar length are computed together.

        Yields
        ------
        ndarray
            Vectors of a sentence's tokens, float32, shape (tokens, layers * dim). A vector is the
            concatenation of its layers: the character layer twice, the lowest LSTM forward and
            backward, and so on.
        """
        for window in windows(sentences):
            width = self.layers * self.dim
            found: list[Floats] = [np.empty((0, width), np.float32)] * len(window)
            for batch in batches(window):
                vectors = self._model.encode([window[at] for at in batch])
                for at, array in zip(batch, vectors, strict=True):
                    found[at] = array
            yield from found


def _load_torch(
    options_path: Path, weights_path: Path, options: Options, devices: Sequence[int], precision: str
) -> Model:
    require_extra()
    import torch

    from streamfile.elmo.model import TorchModel, find_device

    dtype: torch.dtype = getattr(torch, precision)
    return TorchModel(options, weights_path, find_device(devices), dtype)


def _load_allennlp(
    options_path: Path, weights_path: Path, options: Options, devices: Sequence[int], _: str
) -> Model:
    require_extra()
    model = _import_allennlp()
    from streamfile.elmo.model import find_device

    return model(options_path, weights_path, options, find_device(devices))


def _import_allennlp() -> type[AllenNLPModel]:
    try:
        from streamfile.elmo.allennlp import AllenNLPModel
    except ImportError as failure:
        raise ImportError(
            "backend='allennlp' needs AllenNLP, whose last release wants a torch that Python 3.10 "
            f'was the last to have: pip install "streamfile[allennlp]" there ({failure}). '
            "backend='torch' computes the same everywhere"
        ) from failure
    return AllenNLPModel


def check_choices(devices: Sequence[int], precision: str, backend: str) -> None:
    """Raise an error for arguments that no `Encoder` takes, without importing torch.

    Parameters
    ----------
    devices, precision, backend
        Arguments of `Encoder`.

    Raises
    ------
    ArgumentError
        An argument has an impossible value.
    """
    if not isinstance(devices, (list, tuple, range)) or {*map(type, devices)} - {int}:
        raise ArgumentError(
            f"devices must be the numbers of GPUs, such as [0], or [] for the CPU, "
            f"not {devices!r:.40}"
        )
    for name, value, known in (
        ("precision", precision, PRECISIONS),
        ("backend", backend, BACKENDS),
    ):
        if value not in known:
            raise ArgumentError(f"{name} must be one of {', '.join(known)}, not {value!r:.40}")
    if backend == "allennlp" and precision != "float32":
        raise ArgumentError(
            f"backend='allennlp' computes in float32 only, not {precision}; leave one of them out"
        )


def require(devices: Sequence[int], backend: str) -> None:
    """Check that this machine can compute a model, before the model's files exist.

    Parameters
    ----------
    devices, backend
        Arguments of `Encoder`.

    Raises
    ------
    ArgumentError
        torch does not see the GPU.
    ImportError
        The extra ``elmo`` or ``allennlp`` is not installed.
    """
    require_extra()
    if backend == "allennlp":
        _import_allennlp()
    from streamfile.elmo.model import find_device

    find_device(devices)


def require_extra() -> None:
    """Import torch and h5py.

    Raises
    ------
    ImportError
        The extra ``elmo`` is not installed.
    """
    for name in ("torch", "h5py"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as failure:
            if failure.name != name:
                raise
            raise ImportError(
                f'ELMo models need {name}, which is not installed: pip install "streamfile[elmo]"'
            ) from failure
