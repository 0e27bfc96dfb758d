"""Matrix products by oneDNN or MKL."""

# No `from __future__ import annotations`: TorchScript needs evaluated annotations.

from typing import NamedTuple

import torch
from torch import Tensor

# MKL is faster for fewer rows and a matrix of fewer bytes.
LEAST_ROWS = 8
LEAST_BYTES = 4 << 20
TYPICAL_ROWS = 32

_ops = torch.ops.mkldnn
ONEDNN = hasattr(_ops, "_linear_pointwise") and hasattr(_ops, "_reorder_linear_weight")


class Matrix(NamedTuple):
    """Weights, prepared for products with rows.

    torch includes oneDNN, but multiplies float32 by MKL. MKL leaves half of an AMD processor's
    vector units idle, and rearranges the weights at every call. oneDNN multiplies weights in a
    packed layout that is made once. The functions called here are those that torch's compiled
    models call.

    Attributes
    ----------
    across
        Weights, shape (columns, n), as in torch.nn.Linear.
    packed
        Whether the weights have oneDNN's packed layout.
    least_rows
        Least number of rows for which oneDNN multiplies weights that are not packed; 0 for never.
    """

    across: Tensor
    packed: bool
    least_rows: int


def matrix(weight: Tensor, dtype: torch.dtype = torch.float32, *, few_rows: bool = False) -> Matrix:
    """Prepare weights for products.

    Parameters
    ----------
    weight
        Weights, shape (n, columns), on the device that computes.
    dtype
        Type of the products, float32 or bfloat16.
    few_rows
        Whether products often have less than `LEAST_ROWS` rows.
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
    """Compute the product of rows and weights, plus an addend; TorchScript can compile this.

    Parameters
    ----------
    x
        Rows, shape (rows, n).
    weight
        Weights from `matrix`.
    addend
        Tensor of the products' dtype, shape (columns,), or (rows, columns), which may be
        overwritten.

    Returns
    -------
    Tensor
        Shape (rows, columns), of the products' dtype.
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
