"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

# With fewer rows, and a matrix of fewer bytes, MKL is faster.
LEAST_ROWS = 8
LEAST_BYTES = 4 << 20
TYPICAL_ROWS = 32

_ops = torch.ops.mkldnn
ONEDNN = hasattr(_ops, "_linear_pointwise") and hasattr(_ops, "_reorder_linear_weight")


class Matrix:
    """Weights that rows are multiplied with.

    torch brings oneDNN, but multiplies float32 with MKL, which leaves half of an AMD's vector units
    idle and rearranges the weights at every call. oneDNN keeps them as it wants them, instead of
    the array they come in. Its primitives are those that compiled models of torch call.

    Parameters
    ----------
    weight
        Shape (n, columns), where it is to be used.
    dtype
        Of the products: float32 or bfloat16.
    few_rows
        Whether a product is often of less than `LEAST_ROWS`.
    """

    def __init__(
        self, weight: Tensor, dtype: torch.dtype = torch.float32, *, few_rows: bool = False
    ) -> None:
        # oneDNN takes weights as torch.nn.Linear has them.
        self._across = weight.t().to(dtype)
        if dtype != weight.dtype:
            self._across = self._across.contiguous()
        self._onednn = weight.device.type == "cpu" and _takes(dtype)
        self._packed = self._onednn and (not few_rows or weight.nbytes >= LEAST_BYTES)
        self._weight = self._across.t()
        if self._packed:
            self._weight = self._across = _ops._reorder_linear_weight(self._across, TYPICAL_ROWS)
        self._dtype = dtype

    @property
    def plain(self) -> bool:
        """Whether the weights are float32, and as they were given."""
        return not self._packed and self._dtype == torch.float32

    def product(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """Give ``x @ weight + addend``.

        Parameters
        ----------
        x
            Shape (rows, n).
        addend
            Of the dtype of the products; shape (columns,), or (rows, columns), which may be
            overwritten.

        Returns
        -------
        Tensor, (rows, columns)
            Of the dtype of the products.
        """
        if x.dtype != self._dtype:
            x = x.to(self._dtype)
        if self._packed or (self._onednn and len(x) >= LEAST_ROWS):
            if addend is None or addend.dim() == 1:
                return _plain(x, self._across, addend, "none", [], "")  # type: ignore[no-any-return]
            return _added(x, addend, self._across, None, "add")  # type: ignore[no-any-return]
        if addend is None:
            return torch.mm(x, self._weight)
        if addend.dim() == 1:
            return torch.addmm(addend, x, self._weight)
        return addend.addmm_(x, self._weight)


class Pair(Matrix):
    """The weights of two directions, multiplied with in one call.

    Parameters
    ----------
    matrices
        Of each direction, plain ones.
    """

    def __init__(self, *matrices: Matrix) -> None:
        self._weight = torch.stack([matrix._weight for matrix in matrices])

    def product(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """Give ``x @ weight + addend`` of each direction.

        Parameters
        ----------
        x
            Shape (2, rows, n).
        addend
            Shape (2, 1, columns) or (2, rows, columns).
        """
        if addend is None:
            return torch.bmm(x, self._weight)
        return torch.baddbmm(addend, x, self._weight)


def _takes(dtype: torch.dtype) -> bool:
    if not ONEDNN:
        return False
    return dtype == torch.float32 or bool(_ops._is_mkldnn_bf16_supported())


if ONEDNN:
    _plain, _added = _ops._linear_pointwise.default, _ops._linear_pointwise.binary
