"""The steps of an LSTM, one after another."""

# Not `from __future__ import annotations`: TorchScript reads annotations as they are.

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
    """Take the steps of a batch in packed order.

    Parameters
    ----------
    gates
        Of the input, (rows, 4 D): input, candidate, forget, output. They are overwritten.
    sizes
        How many sentences still go on, at each step.
    recurrent, projection
        Weights.
    before
        The outputs of the step before, at least as many as go on; None for zeros.
    cells
        Of the same, (sentences, D); updated.
    outputs
        Filled in, (rows, P).
    cell_clip, proj_clip
        Limits of cells and outputs, None for none.
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
        # In a dtype of less precision the limit would be another number.
        output.copy_(found)
        if proj_clip is not None:
            output.clamp_(-proj_clip, proj_clip)
        before = output
        row += size


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let TorchScript compile a function, unless this torch has none.

    What it compiled runs without Python's lock, which two threads would else hand to each other
    after each of torch's short calls.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        try:
            return torch.jit.script(function)  # type: ignore[no-any-return]
        except (AttributeError, NotImplementedError, RuntimeError):
            return function


steps = _compiled(_steps)
