"""Steps of an LSTM, compiled by TorchScript."""

# No `from __future__ import annotations`: TorchScript needs evaluated annotations.

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from streamfile.elmo.matrix_product import Matrix, product


def _steps(
    gates: Tensor,
    sizes: list[int],
    recurrent: Matrix,
    projection: Matrix,
    before: Tensor | None,
    cells: Tensor,
    outputs: Tensor,
    cell_clip: float | None,
    proj_clip: float | None,
) -> None:
    """Compute the steps of a batch in packed order.

    Parameters
    ----------
    gates
        Products of the inputs for the gates input, candidate, forget, output, shape (rows, 4 D).
        The function overwrites them.
    sizes
        Number of sentences that have a token at each step.
    recurrent, projection
        Weights of an `Lstm`.
    before
        Outputs of the previous step, at least ``sizes[0]`` rows; None for zeros.
    cells
        Memory cells of the sentences, shape (sentences, D). The function updates them.
    outputs
        Array for the outputs, shape (rows, P).
    cell_clip, proj_clip
        Limits of the absolute values of cells and of outputs, None for no limit.
    """
    row = 0
    for size in sizes:
        now = gates[row : row + size]
        if before is not None:
            now = product(before[:size], recurrent, now)
        if now.dtype != torch.float32:
            now = now.float()
        i, m, f, o = now.chunk(4, 1)
        cell = cells[:size]
        cell.mul_(f.sigmoid_()).addcmul_(i.sigmoid_(), m.tanh_())
        if cell_clip is not None:
            cell.clamp_(-cell_clip, cell_clip)
        found = product(o.sigmoid_().mul_(cell.tanh()), projection)
        output = outputs[row : row + size]
        # Clip in float32: bfloat16 would round the limit.
        output.copy_(found)
        if proj_clip is not None:
            output.clamp_(-proj_clip, proj_clip)
        before = output
        row += size


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function by TorchScript; return it unchanged if this torch cannot compile it.

    Compiled code runs without the GIL, over which two threads would contend at each short call of
    torch.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        try:
            return torch.jit.script(function)  # type: ignore[no-any-return]
        except (AttributeError, NotImplementedError, RuntimeError):
            return function


steps = _compiled(_steps)
