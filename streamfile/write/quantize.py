"""Quantisation of vectors, and their encoding as rows of a ``.magnitude`` file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Bytes, Doubles, Ints
from streamfile._jit import compiled_by_default
from streamfile.errors import ArgumentError
from streamfile.write.compiled_records import KERNEL, CompiledEncoder
from streamfile.write.records import Integers, encode_rows
from vfs.btree.table import Rows

MOST_PRECISION = 9  # decimal places of integers of four bytes
BLOCK = 1 << 16  # values of one step, few enough for a processor's cache
LONGEST_KEY = 256  # bytes: a row with a longer key is encoded by itself
LEAST_COMPILED = 1 << 23  # least expected number of values to load compiled code for
FEW = 40  # up to so many rows are counted faster one by one
BINS = 201  # bins of a component's histogram, from -1 to 1
MARGIN = 18  # bytes behind the last record, which readers of `Rows` expect


class Quantizer:
    """Encoder of vectors as records, which also makes a histogram of each dimension.

    Parameters
    ----------
    dim
        Number of dimensions of each vector.
    precision
        Number of stored decimal places of each component of the unit vector.
    expected
        Estimated number of rows. Compiled code is loaded only for many values.

    Raises
    ------
    ArgumentError
        The precision is below 1 or above 9.
    """

    def __init__(self, dim: int, precision: int, *, expected: int = 0) -> None:
        if not 1 <= precision <= MOST_PRECISION:
            raise ArgumentError(
                f"precision is {precision}; expected 1 to {MOST_PRECISION} decimal places"
            )
        self._dim, self._precision = dim, precision
        self._bins = np.zeros(dim * BINS, np.int64)
        self._middles = np.arange(dim) * BINS + BINS // 2
        function = compiled_by_default(KERNEL) if expected * dim >= LEAST_COMPILED else None
        self._encoder: CompiledEncoder | None = None
        if function is not None:
            self._encoder = CompiledEncoder(function, dim, 10**precision, self._bins)

    def encode(
        self, keys: Sequence[bytes], vectors: npt.NDArray[np.floating[Any]], first_rowid: int
    ) -> Rows:
        """Encode rows of the table ``magnitude``.

        Each component is stored as ``round(v / |v| * 10**precision)``. If ``|v|`` is zero, infinite
        or NaN, each component is 1 or -1, chosen by a hash of the row id. The magnitude ``|v|`` is
        stored unchanged, NaN as NULL.

        Parameters
        ----------
        keys
            Keys in UTF-8, n of them.
        vectors
            Vectors, float32 or float64, shape (n, dim).
        first_rowid
            Row id of the first row; the row ids of the others follow it.
        """
        limit = max(1, BLOCK // self._dim)
        data: list[Bytes] = []
        sizes: list[Ints] = []
        begin = 0
        while begin < len(keys):
            end = min(begin + limit, len(keys))
            long = (at for at in range(begin, end) if len(keys[at]) > LONGEST_KEY)
            end = max(begin + 1, next(long, end))
            some = keys[begin:end]
            exact, lengths, magnitudes = self._measure(vectors[begin:end], first_rowid + begin)
            if self._encoder is not None:
                encoded = self._encoder.encode(some, exact, lengths, magnitudes)
            else:
                encoded = encode_rows(some, self._quantize(exact, lengths), magnitudes)
            data.append(encoded[0])
            sizes.append(encoded[1])
            begin = end
        every = np.concatenate([np.empty(0, np.int64), *sizes])
        return Rows(
            np.arange(first_rowid, first_rowid + len(keys)),
            np.concatenate([*data, np.zeros(MARGIN, np.uint8)]),
            np.cumsum(every) - every,
            every,
        )

    def order(self) -> list[int]:
        """List the dimensions by falling entropy of their values so far.

        The entropy is that of components truncated to two decimal places.

        Returns
        -------
        list of int
            Dimensions, the values of the rows ``entropy`` in the table ``magnitude_format``.
        """
        counts = self._bins.reshape(self._dim, BINS)
        total, result = np.maximum(counts.sum(axis=1), 1), np.zeros(self._dim)
        for bins in counts.T:
            share = bins / total
            result -= share * np.log2(share, out=np.zeros(self._dim), where=share > 0)
        order: list[int] = np.argsort(-result, kind="stable").tolist()
        return order

    def _measure(
        self, vectors: npt.NDArray[np.floating[Any]], first_rowid: int
    ) -> tuple[Doubles, Doubles, Doubles]:
        """Compute vectors to quantise, their divisors, and the stored magnitudes."""
        exact = np.ascontiguousarray(vectors, np.float64)
        with np.errstate(all="ignore"):
            magnitudes = np.linalg.norm(exact, axis=1)
        lost = np.flatnonzero(~((magnitudes > 0) & (magnitudes < np.inf)))
        if not len(lost):
            return exact, magnitudes, magnitudes
        exact, lengths = exact.copy(), magnitudes.copy()
        lengths[lost] = 1
        for row in lost.tolist():
            exact[row] = self._steps(first_rowid + row)
        return exact, lengths, magnitudes

    def _quantize(self, exact: Doubles, lengths: Doubles) -> Integers:
        """Compute the stored integers, and count the components in the histograms."""
        parts = exact / lengths[:, None]
        np.clip(parts, -1, 1, out=parts)  # a norm of denormal squares is too small
        bins = (parts * (BINS // 2)).astype(np.int64)
        bins += self._middles
        if len(bins) > FEW:
            self._bins += np.bincount(bins.reshape(-1), minlength=len(self._bins))
        else:
            for row in bins:  # a row has no bin twice
                self._bins[row] += 1
        parts *= 10**self._precision
        return np.rint(parts, out=parts).astype(np.int32)

    def _steps(self, rowid: int) -> Doubles:
        """Make a vector whose components are 10**-precision with signs from a hash."""
        digest = hashlib.shake_128(rowid.to_bytes(8, "big")).digest((self._dim + 7) // 8)
        bits = np.unpackbits(np.frombuffer(digest, np.uint8), count=self._dim)
        steps: Doubles = (bits * 2.0 - 1) / 10**self._precision
        return steps
