"""The LSTMs.

Peters et al., 2018, "Deep contextualized word representations"; Sak et al., 2014, "Long short-term
memory recurrent neural network architectures", for the projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streamfile.elmo._options import Options
from streamfile.elmo._product import Matrix, Pair
from streamfile.elmo._weights import Weights, lstm_name

HOISTED = 512  # rows whose inputs are multiplied at a time


@dataclass(frozen=True)
class Lstm:
    """The weights of an LSTM.

    The columns of `input`, `recurrent` and `bias` are the gates: input, candidate, forget, output.
    """

    input: Matrix
    recurrent: Matrix
    bias: Tensor
    projection: Matrix


@dataclass(frozen=True)
class State:
    """What an LSTM knows of each sentence: its output, (…, sentences, P), and cell, (…, D)."""

    output: Tensor
    cell: Tensor

    def take(self, order: Tensor) -> State:
        """Give the same of the sentences in another order."""
        return State(self.output[..., order, :], self.cell[..., order, :])

    @classmethod
    def stack(cls, states: Sequence[State]) -> State:
        """Join those of both directions."""
        outputs, cells = zip(*((state.output, state.cell) for state in states), strict=True)
        return cls(torch.stack(outputs), torch.stack(cells))

    def of(self, direction: int) -> State:
        """Give that of one direction."""
        return State(self.output[direction], self.cell[direction])


class Network:
    """The LSTMs of one direction, layer on layer, or of both.

    Parameters
    ----------
    options
        Of the model.
    lstms
        Of each layer.
    """

    def __init__(self, options: Options, lstms: Sequence[Lstm]) -> None:
        self._options = options
        self._lstms = lstms

    @classmethod
    def load(
        cls,
        options: Options,
        weights: Weights,
        direction: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Network:
        """Take the weights of a direction.

        Parameters
        ----------
        options, weights
            Of the model.
        direction
            0 for forward, 1 for backward.
        device
            Where to compute.
        dtype
            Of the products: float32 or bfloat16. All else is float32.
        """

        def load(layer: int, part: str, rows: slice = slice(None)) -> Tensor:
            name = lstm_name(direction, layer, part)
            return torch.from_numpy(weights.read(name, rows)).to(device)

        size, lstms = options.projection_dim, []
        for layer in range(options.n_layers):
            bias = load(layer, "B")
            # TensorFlow adds this when it computes.
            bias[2 * options.dim : 3 * options.dim] += 1
            lstms.append(
                Lstm(
                    Matrix(load(layer, "W_0", slice(size)), dtype, few_rows=True),
                    Matrix(load(layer, "W_0", slice(size, None)), dtype, few_rows=True),
                    bias.to(dtype),
                    Matrix(load(layer, "W_P_0"), dtype, few_rows=True),
                )
            )
        return cls(options, lstms)

    @classmethod
    def pair(cls, networks: Sequence[Network]) -> Network | None:
        """Join both directions, so that there are half as many calls of torch.

        Those of a few rows and small weights take longer than what they compute.

        Returns
        -------
        Network
            Takes and gives tensors with a dimension of 2 in front; None where the weights are
            not small.
        """
        lstms = []
        for one, other in zip(*(network._lstms for network in networks), strict=True):
            if not all(part.plain for part in (one.input, one.recurrent, one.projection)):
                return None
            lstms.append(
                Lstm(
                    Pair(one.input, other.input),
                    Pair(one.recurrent, other.recurrent),
                    torch.stack([one.bias, other.bias])[:, None],
                    Pair(one.projection, other.projection),
                )
            )
        return cls(networks[0]._options, lstms)

    def run(
        self, x: Tensor, sizes: Sequence[int], last: Tensor, states: Sequence[State] | None
    ) -> tuple[list[Tensor], list[State]]:
        """Run a batch through all layers.

        Parameters
        ----------
        x
            Layer 0 in packed order, (rows, P), or (2, rows, P) for both directions; so are layers
            and states.
        sizes, last
            See `Packing`.
        states
            Of each layer before the first step; None for zeros.

        Returns
        -------
        layers
            The output of each layer, (rows, P).
        states
            Of each layer after each sentence's last step.
        """
        layers, after = [], []
        for at, lstm in enumerate(self._lstms):
            output, cell = self._layer(lstm, x, sizes, states[at] if states else None)
            after.append(State(output[..., last, :], cell))
            x = output + x if at and self._options.use_skip_connections else output
            layers.append(x)
        return layers, after

    def _layer(
        self, lstm: Lstm, x: Tensor, sizes: Sequence[int], state: State | None
    ) -> tuple[Tensor, Tensor]:
        # Each call of torch costs a microsecond, and as long for the other thread: there are few.
        outputs = torch.empty_like(x)
        if state is None:
            before, cells = None, x.new_zeros(*x.shape[:-2], sizes[0], self._options.dim)
        else:
            before, cells = state.output, state.cell.clone()
        going, cell, row = sizes[0], cells, 0
        steps = iter(torch.split(outputs, list(sizes), -2))
        for block in _blocks(sizes):
            hoisted = lstm.input.product(x[..., row : row + sum(block), :], lstm.bias)
            for gates, size in zip(torch.split(hoisted, block, -2), block, strict=True):
                if size < going:
                    going, cell = size, cells[..., :size, :]
                    before = before if before is None else before[..., :size, :]
                if before is not None:
                    gates = lstm.recurrent.product(before, gates)
                before = next(steps)
                self._step(lstm, gates, cell, before)
            row += sum(block)
        return outputs, cells

    def _step(self, lstm: Lstm, gates: Tensor, cell: Tensor, output: Tensor) -> None:
        cell_clip, proj_clip = self._options.cell_clip, self._options.proj_clip
        i, m, f, o = _single(gates).chunk(4, -1)
        cell.mul_(f.sigmoid_()).addcmul_(i.sigmoid_(), m.tanh_())
        if cell_clip is not None:
            cell.clamp_(-cell_clip, cell_clip)
        found = lstm.projection.product(o.sigmoid_().mul_(cell.tanh()))
        if proj_clip is None:
            output.copy_(found)
        else:
            # In a dtype of less precision the limit would be another number.
            torch.clamp(_single(found), -proj_clip, proj_clip, out=output)


def _single(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float32 else x.float()


def _blocks(sizes: Sequence[int]) -> Iterator[list[int]]:
    block: list[int] = []
    for size in sizes:
        if block and sum(block) + size > HOISTED:
            yield block
            block = []
        block.append(size)
    yield block
