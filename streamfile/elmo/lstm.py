"""LSTM layers of a model.

Peters et al., 2018, "Deep contextualized word representations"; Sak et al., 2014, "Long short-term
memory recurrent neural network architectures", for the projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streamfile.elmo.lstm_steps import steps
from streamfile.elmo.matrix_product import Matrix, matrix, product
from streamfile.elmo.options import Options
from streamfile.elmo.weights import Weights, lstm_name

HOISTED = 512  # rows whose inputs are multiplied in one product, before the steps


@dataclass(frozen=True)
class Lstm:
    """The weights of an LSTM.

    The columns of `input`, `recurrent` and `bias` are of the gates input, candidate, forget,
    output.
    """

    input: Matrix
    recurrent: Matrix
    bias: Tensor
    projection: Matrix


@dataclass(frozen=True)
class State:
    """The state of an LSTM for each sentence.

    Attributes
    ----------
    output
        Outputs, shape (sentences, projection_dim).
    cell
        Memory cells, shape (sentences, dim).
    """

    output: Tensor
    cell: Tensor

    def take(self, order: Tensor) -> State:
        """Return the states with the sentences in another order."""
        return State(self.output[order], self.cell[order])


class Network:
    """The LSTM layers of one direction.

    Parameters
    ----------
    options, weights
        Options and weights of the model.
    direction
        0 for forward, 1 for backward.
    device
        Device that computes.
    dtype
        Type of the matrix products, float32 or bfloat16. Everything else is float32.
    """

    def __init__(
        self,
        options: Options,
        weights: Weights,
        direction: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        def load(layer: int, part: str, rows: slice = slice(None)) -> Tensor:
            name = lstm_name(direction, layer, part)
            return torch.from_numpy(weights.read(name, rows)).to(device)

        self._options = options
        size = options.projection_dim
        self._lstms = []
        for layer in range(options.n_layers):
            bias = load(layer, "B")
            # TensorFlow adds 1 to the forget gate, which the stored bias does not include.
            bias[2 * options.dim : 3 * options.dim] += 1
            self._lstms.append(
                Lstm(
                    matrix(load(layer, "W_0", slice(size)), dtype),
                    matrix(load(layer, "W_0", slice(size, None)), dtype, few_rows=True),
                    bias.to(dtype),
                    matrix(load(layer, "W_P_0"), dtype, few_rows=True),
                )
            )

    def run(
        self, x: Tensor, sizes: Sequence[int], last: Tensor, states: Sequence[State] | None
    ) -> tuple[list[Tensor], list[State]]:
        """Compute all layers of a batch.

        Parameters
        ----------
        x
            Layer 0 in packed order, shape (rows, projection_dim).
        sizes, last
            Fields of `Packing`.
        states
            State of each layer before the first step, None for zeros.

        Returns
        -------
        layers
            Output of each layer, shape (rows, projection_dim).
        states
            State of each layer after each sentence's last step.
        """
        layers, after = [], []
        for at, lstm in enumerate(self._lstms):
            output, cell = self._layer(lstm, x, sizes, states[at] if states else None)
            after.append(State(output[last], cell))
            x = output + x if at and self._options.use_skip_connections else output
            layers.append(x)
        return layers, after

    def _layer(
        self, lstm: Lstm, x: Tensor, sizes: Sequence[int], state: State | None
    ) -> tuple[Tensor, Tensor]:
        options = self._options
        outputs = torch.empty_like(x)
        if state is None:
            before, cells = None, x.new_zeros(sizes[0], options.dim)
        else:
            before, cells = state.output, state.cell.clone()
        row = 0
        for block in _blocks(sizes):
            end = row + sum(block)
            gates = product(x[row:end], lstm.input, lstm.bias)
            steps(
                gates,
                block,
                lstm.recurrent,
                lstm.projection,
                before,
                cells,
                outputs[row:end],
                options.cell_clip,
                options.proj_clip,
            )
            before, row = outputs[end - block[-1] : end], end
        return outputs, cells


def _blocks(sizes: Sequence[int]) -> Iterator[list[int]]:
    block: list[int] = []
    for size in sizes:
        if block and sum(block) + size > HOISTED:
            yield block
            block = []
        block.append(size)
    yield block
