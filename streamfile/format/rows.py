"""Decoding of the vectors' table ``magnitude`` into numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Floats, Ints
from streamfile.errors import FormatError
from streamfile.format.records import (
    NUMBER_SIZES,
    Keys,
    Scratch,
    read_integers,
    read_reals,
    windows,
)
from vfs.btree.record import read_varints
from vfs.btree.table import Rows

COLUMN_ROWS = 1000  # rows of which `column` decodes a dimension in one step


class VectorRows:
    """Rows of the vectors' table.

    Parameters
    ----------
    name
        Name of the file, for error messages.
    rows
        Records of the rows.
    dim
        Number of dimensions of each vector.

    Attributes
    ----------
    rowids
        Row ids, rising, int64, shape (n,).
    stored_keys
        Keys of the rows, not decoded.

    Raises
    ------
    FormatError
        A row is malformed.
    """

    def __init__(self, name: str, rows: Rows, dim: int) -> None:
        self.rowids = rows.rowids
        self._rows = rows
        self._name = name
        self._dim = dim
        data = rows.data
        header, at = read_varints(data, rows.starts)
        key_types, at = read_varints(data, at)
        body = rows.starts + header
        self._types = at
        self._values = body + (key_types - 13) // 2
        self.stored_keys = Keys(data, body, self._values)
        self._ends = rows.starts + rows.sizes
        texts = (key_types >= 13) & (key_types % 2 == 1)
        # The serial type of each column behind the key has one byte.
        sound = at + dim + 1 == body
        if not texts.all():
            raise no_text(name, int(self.rowids[~texts][0]))
        if not np.all(sound & (self._values <= self._ends)):
            raise self._malformed("other columns than a key, the dimensions and a magnitude")

    def keys(self) -> list[str]:
        """Decode the keys; bytes that are not UTF-8 become surrogates."""
        return self.stored_keys.decode()

    def vectors(
        self,
        precision: int,
        *,
        normalized: bool,
        out: Floats | None = None,
        scratch: Scratch | None = None,
    ) -> Floats:
        """Compute the vectors.

        Parameters
        ----------
        precision
            Number of decimal places of the stored integers.
        normalized
            Whether the vectors have unit length, or their original length.
        out
            Array for the first ``len(out)`` vectors, float32, shape (m, dim) with m <= n. Default:
            a new array for all vectors.
        scratch
            Scratch arrays of the thread.

        Returns
        -------
        ndarray
            `out`, float32, shape (m, dim).

        Raises
        ------
        FormatError
            A dimension is no integer, or a magnitude is no number.
        """
        if out is None:
            out = np.empty((len(self.rowids), self._dim), np.float32)
        scratch = scratch or Scratch()
        scale = 10**precision
        step = max(1, scratch.values // (self._dim + 1))
        for begin in range(0, len(out), step):
            part = slice(begin, min(begin + step, len(out)))
            values = out[part]
            integers, kinds, ends = self._decode(part, scratch)
            np.copyto(values, integers, casting="unsafe")
            if normalized:
                values /= np.float32(scale)
            else:
                magnitudes = read_reals(self._rows.data, kinds, ends)
                with np.errstate(over="ignore", invalid="ignore"):  # for impossible magnitudes
                    values *= (magnitudes / scale).astype(np.float32)[:, None]
        return out

    def column(self, dimension: int) -> Ints:
        """Read one dimension as stored integers, int64, shape (n,)."""
        data, values = self._rows.data, np.empty(len(self.rowids), np.int64)
        for begin in range(0, len(values), COLUMN_ROWS):
            part = slice(begin, begin + COLUMN_ROWS)
            types = windows(data, self._dim + 1)[self._types[part]][:, : dimension + 1]
            sizes = NUMBER_SIZES.astype(np.uint8)[np.minimum(types, 9)]
            ends = self._values[part] + sizes.sum(axis=1, dtype=np.int64)
            begins = ends - sizes[:, -1]
            found = read_integers(data, types[:, -1:], begins, ends, Scratch())
            if found is None or (ends > self._ends[part]).any():
                raise self._malformed("a dimension that is no integer")
            values[part] = found[:, 0]
        return values

    def _decode(
        self, part: slice, scratch: Scratch
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8], Ints]:
        """Decode dimensions, and locate magnitudes.

        Returns
        -------
        integers, kinds, ends
            Dimensions, shape (n, dim), and the serial type and the offset of each magnitude, shape
            (n,).
        """
        data = self._rows.data
        both = windows(data, self._dim + 1)[self._types[part]]
        types, kinds = both[:, :-1], both[:, -1]
        begins, ends = self._values[part], self._ends[part]
        if (kinds > 9).any():
            raise self._malformed("a magnitude that is no number")
        ends = ends - NUMBER_SIZES[kinds]
        integers = read_integers(data, types, begins, ends, scratch)
        if integers is None:
            raise self._malformed(
                "a dimension that is no integer, or a length that its columns do not add up to"
            )
        return integers, kinds, ends

    def _malformed(self, what: str) -> FormatError:
        return FormatError(f"{self._name}: malformed: a row of the table magnitude has {what}")


def no_text(name: str, rowid: int) -> FormatError:
    """Return the error for a row whose key is NULL, a number or a blob.

    Parameters
    ----------
    name
        Name of the file.
    rowid
        Row id of the row.
    """
    return FormatError(
        f"{name}: malformed: a row of the table magnitude has a key that is no text (NULL, a "
        f"number or a blob): row {rowid}; correct it by SQL in a copy of the file, or get another"
    )
