"""Layer 0: the vector of a token from its characters, independent of its sentence.

Kim et al., 2016, "Character-aware neural language models"; Srivastava et al., 2015, "Highway
networks".
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from streamfile.elmo.characters import character_ids, spelt_length
from streamfile.elmo.matrix_product import matrix, product
from streamfile.elmo.options import Options
from streamfile.elmo.threads import Threads
from streamfile.elmo.weights import Weights

TOKENS = 64  # tokens that the filters process in one step
LEAST_SHARE = 8  # least number of tokens for each thread


class CharacterNetwork:
    """Network from characters to layer 0: convolution filters, highway layers, projection.

    Parameters
    ----------
    options, weights
        Options and weights of the model.
    threads, device
        Threads and device that compute.
    """

    def __init__(
        self, options: Options, weights: Weights, threads: Threads, device: torch.device
    ) -> None:
        def load(name: str) -> Tensor:
            return torch.from_numpy(weights.read(name)).to(device)

        self._options, self._threads = options, threads
        # A row of zeros in front, so that a character's number is its row.
        self._table = torch.nn.functional.pad(load("char_embed"), (0, 0, 1, 0))
        self._filters = [
            (width, load(f"CNN/W_cnn_{at}").view(-1, count), load(f"CNN/b_cnn_{at}"))
            for at, (width, count) in enumerate(options.filters)
        ]
        self._highways = []
        for at in range(options.n_highway):
            layers = [
                (load(f"CNN_high_{at}/W_{part}"), load(f"CNN_high_{at}/b_{part}"))
                for part in ("carry", "transform")
            ]
            self._highways.append(
                threads.run(
                    [
                        functools.partial(Highway, columns, *layers)
                        for columns in _parts(options.n_filters, threads.count)
                    ]
                )
            )
        (self._projection,) = threads.run([functools.partial(matrix, load("CNN_proj/W_proj"))])
        self._projection_bias = load("CNN_proj/b_proj")

    def vectors(self, spellings: Sequence[bytes]) -> Tensor:
        """Compute layer 0.

        Parameters
        ----------
        spellings
            Spellings of tokens. Sort them by length, because neighbours are padded to the same
            length.

        Returns
        -------
        Tensor
            Shape (spellings, projection_dim).
        """
        x = self._table.new_empty(len(spellings), self._options.n_filters)
        count = min(self._threads.count, -(-len(spellings) // LEAST_SHARE))
        # Each thread gets every `count`-th token, so that it has short ones and long ones.
        self._threads.run(
            [
                functools.partial(self._filter, spellings[at::count], x[at::count])
                for at in range(count)
            ]
        )
        for highway in self._highways:
            before, x = x, torch.empty_like(x)
            self._threads.run([functools.partial(part.run, before, x) for part in highway])
        return self._threads.run(
            [functools.partial(product, x, self._projection, self._projection_bias)]
        )[0]

    def _filter(self, spellings: Sequence[bytes], out: Tensor) -> None:
        for at in range(0, len(spellings), TOKENS):
            out[at : at + TOKENS] = self._filtered(spellings[at : at + TOKENS])

    def _filtered(self, spellings: Sequence[bytes]) -> Tensor:
        most, dim = self._options.max_characters, self._options.character_dim
        longest = max(map(spelt_length, spellings))
        room = min(longest + max(width for width, *_ in self._filters), most)
        ids = torch.from_numpy(character_ids(spellings, room)).to(self._table.device)
        characters = self._table[ids].view(len(spellings), -1)
        found = []
        for width, weight, bias in self._filters:
            # One place behind the longest token is enough: all later places are equal padding.
            end = dim * min(longest + width, most)
            places = characters[:, :end].unfold(1, dim * width, dim)
            # `torch.mm` instead of `product`: oneDNN would compile a primitive for each number of
            # rows, which takes longer than the multiplication.
            values = torch.mm(places.reshape(-1, dim * width), weight)
            found.append(values.view(len(spellings), -1, len(bias)).amax(1).add_(bias))
        activate = torch.relu_ if self._options.activation == "relu" else torch.tanh_
        return activate(torch.cat(found, 1))


class Highway:
    """Some columns of a highway layer.

    Parameters
    ----------
    columns
        Range of the columns.
    carry, transform
        Weights, shape (n, n), and bias, shape (n,), of the whole layer.
    """

    def __init__(
        self, columns: slice, carry: tuple[Tensor, Tensor], transform: tuple[Tensor, Tensor]
    ) -> None:
        self._columns = columns
        self._layers = [
            (matrix(weight[:, columns]), bias[columns]) for weight, bias in (carry, transform)
        ]

    def run(self, x: Tensor, out: Tensor) -> None:
        """Compute the columns from the layer below, `x`, into `out`, both of shape (rows, n)."""
        gate, new = (product(x, weight, bias) for weight, bias in self._layers)
        columns = self._columns
        torch.lerp(x[:, columns], new.relu_(), gate.sigmoid_(), out=out[:, columns])


def _parts(columns: int, count: int) -> list[slice]:
    count = min(count, columns)
    bounds = [columns * at // count for at in range(count + 1)]
    return [slice(*pair) for pair in itertools.pairwise(bounds)]
