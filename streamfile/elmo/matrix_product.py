"""Products of matrices."""

# Not `from __future__ import annotations`: TorchScript reads annotations as they are.

from typing import NamedTuple

import torch
from torch import Tensor

# With fewer rows, and a matrix of fewer bytes, MKL is faster.
LEAST_ROWS = 8
LEAST_BYTES = 4 << 20
TYPICAL_ROWS = 32

_ops = torch.ops.mkldnn
ONEDNN = hasattr(_ops, "_linear_pointwise") and hasattr(_ops, "_reorder_linear_weight")


class Matrix(NamedTuple):
    """Weights that rows are multiplied with.

    torch brings oneDNN, but multiplies float32 with MKL, which leaves half of an AMD's vector units
    idle and rearranges the weights at every call. oneDNN keeps them as it wants them, instead of
    the array they come in. Its primitives are those that compiled models of torch call.

    Attributes
    ----------
    across
        Shape (columns, n), as torch.nn.Linear has weights.
    packed
        Whether oneDNN keeps them.
    least_rows
        From which on oneDNN multiplies, where it does not keep them; 0 for never.
    """

    across: Tensor
    packed: bool
    least_rows: int


def matrix(weight: Tensor, dtype: torch.dtype = torch.float32, *, few_rows: bool = False) -> Matrix:
    """Prepare weights.

    Parameters
    ----------
    weight
        Shape (n, columns), where it is to be used.
    dtype
        Of the products: float32 or bfloat16.
    few_rows
        Whether a product is often of less than `LEAST_ROWS`.
    """
    across = weight.t().to(dtype)
    if dtype != weight.dtype:
        across = across.contiguous()
    onednn = weight.device.type == "cpu" and _takes(dtype)
    packed = onednn and (not few_rows or weight.nbytes >= LEAST_BYTES)
    if packed:
        across = _ops._reorder_linear_weight(across, TYPICAL_ROWS)
    return Matrix(across, packed, LEAST_ROWS if onednn else 0)


def _takes(dtype: torch.dtype) -> bool:
    if not ONEDNN:
        return False
    return dtype == torch.float32 or bool(_ops._is_mkldnn_bf16_supported())


def product(x: Tensor, weight: Matrix, addend: Tensor | None = None) -> Tensor:
    """Give the rows of x times the weights, plus an addend; TorchScript can compile this.

    Parameters
    ----------
    x
        Shape (rows, n).
    weight
        As prepared.
    addend
        Of the dtype of the products; shape (columns,), or (rows, columns), which may be
        overwritten.

    Returns
    -------
    Tensor, (rows, columns)
        Of the dtype of the products.
    """
    x = x.to(weight.across.dtype)
    if weight.packed or 0 < weight.least_rows <= x.size(0):
        return _onednn(x, weight.across, addend)
    if addend is None:
        return torch.mm(x, weight.across.t())
    if addend.dim() == 1:
        return torch.addmm(addend, x, weight.across.t())
    return addend.addmm_(x, weight.across.t())


if ONEDNN:

    def _onednn(x: Tensor, across: Tensor, addend: Tensor | None) -> Tensor:
        if addend is None or addend.dim() == 1:
            found: Tensor = torch.ops.mkldnn._linear_pointwise(x, across, addend, "none", [], "")
        else:
            found = torch.ops.mkldnn._linear_pointwise(x, addend, across, None, "add")
        return found

else:

    def _onednn(x: Tensor, across: Tensor, addend: Tensor | None) -> Tensor:
        raise NotImplementedError
