"""Vectors as the rows of a ``.magnitude`` file."""

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

MOST_PRECISION = 9  # decimal places: the integers have four bytes
BLOCK = 1 << 16  # values, few enough for a processor's cache
LONGEST_KEY = 256  # bytes: a row with a longer one is encoded by itself
LEAST_COMPILED = 1 << 23  # values
FEW = 40  # rows, counted faster one by one
BINS = 201  # of a component, from -1 to 1
MARGIN = 18  # bytes behind the last record, for who reads them


class Quantizer:
    """Makes records of vectors, and counts how their values are spread.

    Parameters
    ----------
    dim
        Dimensions of each vector.
    precision
        Decimal places kept of each component of the unit vector.
    expected
        Rows, more or less: whether compiled code is worth loading.

    Raises
    ------
    ArgumentError
        A precision below 1 or above 9.
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

        Each component is ``round(v / |v| * 10**precision)``. Where |v| is zero, infinite or no
        number, each becomes 1 or -1 of the last place, as a hash of the row id tells; the magnitude
        is stored as it is, NaN as NULL.

        Parameters
        ----------
        keys
            UTF-8, n of them.
        vectors
            float32 or float64, shape (n, dim).
        first_rowid
            Of the first row; the others follow.
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
        """Order the dimensions by the entropy of their values so far, falling.

        Returns
        -------
        list of int
            What the rows ``entropy`` of the table ``magnitude_format`` hold. Values count as equal
            up to two decimal places of the unit vector.
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
        """Give vectors, what to divide them by, and the magnitudes that are stored."""
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
        """Give the integers, and count the values."""
        parts = exact / lengths[:, None]
        np.clip(parts, -1, 1, out=parts)  # a length of denormal squares is too short
        bins = (parts * (BINS // 2)).astype(np.int64)
        bins += self._middles
        if len(bins) > FEW:
            self._bins += np.bincount(bins.reshape(-1), minlength=len(self._bins))
        else:
            for row in bins:  # no bin is twice in it
                self._bins[row] += 1
        parts *= 10**self._precision
        return np.rint(parts, out=parts).astype(np.int32)

    def _steps(self, rowid: int) -> Doubles:
        """Choose 1 or -1 of the last place for each dimension."""
        digest = hashlib.shake_128(rowid.to_bytes(8, "big")).digest((self._dim + 7) // 8)
        bits = np.unpackbits(np.frombuffer(digest, np.uint8), count=self._dim)
        steps: Doubles = (bits * 2.0 - 1) / 10**self._precision
        return steps
