"""ELMo models computed by torch."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from streamfile._arrays import Floats
from streamfile._lru import RecentVectors
from streamfile.elmo.batches import BOUNDARIES, Packing, pack
from streamfile.elmo.character_layer import CharacterNetwork
from streamfile.elmo.characters import SENTENCE_BEGIN, SENTENCE_END, spelling
from streamfile.elmo.lstm import Network, State
from streamfile.elmo.options import Options
from streamfile.elmo.threads import DIRECTIONS, Threads
from streamfile.elmo.weights import open_weights
from streamfile.errors import ArgumentError
from vfs.forks import native

KNOWN = 64 << 20  # bytes of the cache of layer 0
ENTRY = 256  # bytes that a cached vector takes beside its numbers

States = Sequence[list[State] | None]  # for each direction, the state of each layer; None: zeros


def find_device(devices: Sequence[int]) -> torch.device:
    """Return the first of the GPUs in a list, or the CPU if the list is empty.

    Raises
    ------
    ArgumentError
        torch does not see the GPU.
    """
    if not devices:
        return torch.device("cpu")
    if devices[0] not in range(torch.cuda.device_count()):
        raise ArgumentError(
            f"devices={list(devices)!r:.40}, but torch sees {torch.cuda.device_count()} GPUs; "
            "devices=[] computes on the CPU"
        )
    return torch.device("cuda", devices[0])


class TorchModel:
    """A model that torch computes, one batch at a time.

    Parameters
    ----------
    options, path
        Options of the model, and the path of its weights.
    device
        Device that computes.
    dtype
        Type of the LSTMs' matrix products, float32 or bfloat16.
    """

    def __init__(
        self, options: Options, path: Path, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._options, self._device = options, device
        self._threads = Threads(device)
        with open_weights(path, options) as weights:
            self._characters = CharacterNetwork(options, weights, self._threads, device)
            self._directions = self._threads.run(
                [
                    functools.partial(Network, options, weights, direction, device, dtype)
                    for direction in range(DIRECTIONS)
                ]
            )
        self._lock = threading.Lock()
        self._known = self._nothing_known()

    def encode(self, sentences: Sequence[Sequence[str]]) -> list[Floats]:
        """Compute the vectors of a batch, each sentence from zero states.

        Parameters
        ----------
        sentences
            Tokens of each sentence, at least one.

        Returns
        -------
        list of ndarray
            Vectors of each sentence, float32, shape (tokens, layers * dim).
        """
        return self.encode_on(sentences, None)[0]

    def encode_on(
        self, sentences: Sequence[Sequence[str]], states: States | None
    ) -> tuple[list[Floats], States]:
        """Compute the vectors of a batch, from the states in which earlier sentences ended.

        Parameters
        ----------
        sentences
            Tokens of each sentence, at least one.
        states
            States after an earlier batch with as many sentences, None for zeros.

        Returns
        -------
        vectors, states
            Vectors of each sentence, see `encode`, and the states after this batch.
        """
        with native:
            return self._encode(sentences, states or [None] * DIRECTIONS)

    def _encode(
        self, sentences: Sequence[Sequence[str]], states: States
    ) -> tuple[list[Floats], States]:
        most = self._options.max_characters
        spelt = [
            [SENTENCE_BEGIN, *(spelling(token, most) for token in sentence), SENTENCE_END]
            for sentence in sentences
        ]
        tokens = [name for sentence in spelt for name in sentence]
        packing = pack([len(sentence) for sentence in spelt])
        layer_0 = self._layer_0(tokens)
        # numpy, not torch, fills this array, because numpy starts no threads: see `Threads`.
        joined = np.empty(
            (len(tokens), 1 + self._options.n_layers, DIRECTIONS, layer_0.shape[1]), np.float32
        )
        joined[:, 0] = layer_0[:, None]
        x, vectors = torch.from_numpy(layer_0).to(self._device), torch.from_numpy(joined)
        after = self._threads.run(
            [
                functools.partial(self._contexts, at, x, packing, states[at], vectors)
                for at in range(DIRECTIONS)
            ]
        )
        ends = np.cumsum([len(sentence) for sentence in spelt]).tolist()
        return [
            joined[end - len(sentence) + 1 : end - 1].reshape(len(sentence) - BOUNDARIES, -1).copy()
            for end, sentence in zip(ends, spelt, strict=True)
        ], after

    def _contexts(
        self,
        direction: int,
        x: Tensor,
        packing: Packing,
        states: list[State] | None,
        vectors: Tensor,
    ) -> list[State]:
        """Compute a direction's part of all LSTM layers into `vectors`, and return its states."""
        tokens = torch.from_numpy(packing.tokens[direction])
        order = torch.from_numpy(packing.order).to(self._device)
        layers, after = self._directions[direction].run(
            x[tokens.to(self._device)],
            packing.sizes,
            torch.from_numpy(packing.last).to(self._device),
            [state.take(order) for state in states] if states else None,
        )
        for at, layer in enumerate(layers, 1):
            vectors[tokens, at, direction] = layer.to(vectors.device)
        return [state.take(order.argsort()) for state in after]

    def _layer_0(self, tokens: Sequence[bytes]) -> Floats:
        """Look up or compute layer 0 of tokens, float32, shape (tokens, projection_dim)."""
        names = dict.fromkeys(tokens)
        with self._lock:
            known, vectors = self._known.take(list(names))
        found = dict.fromkeys(known)
        missing = sorted((name for name in names if name not in found), key=len)
        if missing:
            new = self._characters.vectors(missing).cpu().numpy()
            with self._lock:
                self._known.keep(missing, new)
            vectors = np.concatenate([vectors, new])
        places = {name: at for at, name in enumerate([*known, *missing])}
        rows: Floats = vectors[[places[token] for token in tokens]]
        return rows

    def _nothing_known(self) -> RecentVectors:
        dim = self._options.projection_dim
        return RecentVectors(KNOWN // (4 * dim + ENTRY), dim, np.float32)
