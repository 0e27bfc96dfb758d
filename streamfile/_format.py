"""The tables of a ``.magnitude`` file, and its rows as numpy arrays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile.errors import FormatError
from vfs import Pages, Rows, Table, read_varints, run

NEWEST_VERSION = 2
MOST_SCHEMA_PAGES = 1000
MOST_DIM = 30000
MOST_NGRAM = 100
SEGMENTS, BLOCKS = "magnitude_subword_segdir", "magnitude_subword_segments"
LEAST_ROW = 8  # bytes of a row with one dimension, its cell pointer included
CHUNK = 1 << 18  # values decoded at once
ON_KEY = re.compile(rb"\(\s*[`\"\[]?key[`\"\]]?\s*\)\s*$", re.IGNORECASE)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

IMPOSSIBLE = 255
SIZES = np.full(256, IMPOSSIBLE, np.uint8)  # bytes of a dimension, by its serial type
SIZES[[1, 2, 3, 4, 5, 6, 8, 9]] = [1, 2, 3, 4, 6, 8, 0, 0]
MAGNITUDE_SIZES = np.array([0, 1, 2, 3, 4, 6, 8, 8, 0, 0], np.int64)
SHIFTS = {
    width: np.clip(8 * width - 8 * SIZES.astype(int), 0, 8 * width - 1).astype(np.uint8)
    for width in (4, 8)
}


@dataclass(frozen=True)
class Format:
    """What a file says of itself.

    Attributes
    ----------
    size
        Number of vectors.
    dim
        Dimensions of each.
    precision
        Decimal places that the stored integers stand for.
    elmo
        Whether the file holds an ELMo model.
    table_root, index_root
        Root pages of the vectors' table and of the index on their keys.
    segments_root, blocks_root
        Root pages of the tables behind the full-text index of n-grams, 0 where there is none.
    subword_start, subword_end
        Characters in the shortest n-grams in it, and in the longest.
    """

    size: int
    dim: int
    precision: int
    elmo: bool
    table_root: int
    index_root: int
    segments_root: int = 0
    blocks_root: int = 0
    subword_start: int = 0
    subword_end: int = 0


def read_format(pages: Pages) -> Format:
    """Read the schema and the table ``magnitude_format``.

    Parameters
    ----------
    pages
        Of the file.

    Raises
    ------
    FormatError
        The database is no ``.magnitude`` file, or one of a newer version.
    vfs.DatabaseError
        The database is broken.
    """
    roots: dict[str, int] = {}
    key_index = 0
    for _, row in run(pages, Table(pages, 1).scan(most_pages=MOST_SCHEMA_PAGES), opening=True):
        match row:
            case [b"table", bytes(name), _, int(root), _]:
                roots[name.decode(errors="replace")] = root
            case [b"index", _, b"magnitude", int(root), bytes(sql)] if ON_KEY.search(sql):
                key_index = root
    if "magnitude" not in roots or "magnitude_format" not in roots or not key_index:
        raise FormatError(
            f"{pages.name}: a SQLite database, but no .magnitude file: expected the tables "
            "magnitude and magnitude_format and an index on magnitude(key), found the tables "
            f"{', '.join(sorted(roots)[:10]) or '(none)'}"
        )
    scan = Table(pages, roots["magnitude_format"]).scan(most_pages=MOST_SCHEMA_PAGES)
    told: dict[str, Any] = {}
    for _, row in run(pages, scan, opening=True):
        if len(row) == 2 and isinstance(row[0], bytes):
            told.setdefault(row[0].decode(errors="replace"), row[1])
    version = told.get("version", 1)
    if not isinstance(version, int) or version > NEWEST_VERSION:
        raise FormatError(
            f"{pages.name}: format version {version!r}; this release reads up to version "
            f"{NEWEST_VERSION}: update streamfile (pip install -U streamfile)"
        )
    most_rows = pages.layout.page_count * pages.layout.page_size // LEAST_ROW
    expected = [("dim", 1, MOST_DIM), ("size", 0, most_rows), ("precision", 0, 18)]
    subword = bool(told.get("subword")) and roots.keys() >= {SEGMENTS, BLOCKS}
    if subword:
        expected += [("subword_start", 1, MOST_NGRAM), ("subword_end", 1, MOST_NGRAM)]
    for field, least, most in expected:
        value = told.get(field)
        if not isinstance(value, int) or not least <= value <= most:
            raise FormatError(
                f"{pages.name}: magnitude_format has {field}={value!r}; expected a number from "
                f"{least} to {most}"
            )
    return Format(
        size=told["size"],
        dim=told["dim"],
        precision=told["precision"],
        elmo=bool(told.get("elmo", 0)),
        table_root=roots["magnitude"],
        index_root=key_index,
        segments_root=roots[SEGMENTS] if subword else 0,
        blocks_root=roots[BLOCKS] if subword else 0,
        subword_start=told["subword_start"] if subword else 0,
        subword_end=told["subword_end"] if subword else 0,
    )


class VectorRows:
    """Rows of the vectors' table, decoded.

    Parameters
    ----------
    name
        Of the file, for messages.
    rows
        As found.
    dim
        Dimensions of each vector.

    Attributes
    ----------
    rowids
        Rising, int64, shape (n,).
    integers
        The stored values, int32 (int64 where they need it), shape (n, dim).
    magnitudes
        Lengths before normalisation, NaN for NULL, float64, shape (n,).

    Raises
    ------
    FormatError
        A row that the format does not allow.
    """

    def __init__(self, name: str, rows: Rows, dim: int) -> None:
        self.rowids = rows.rowids
        self._rows = rows
        self._name = name
        data, count = rows.data, len(rows.rowids)
        header, at = read_varints(data, rows.starts)
        key_types, at = read_varints(data, at)
        body = rows.starts + header
        self._key_starts = body
        self._key_sizes = (key_types - 13) // 2
        # A key is text, and each further type is a single byte.
        sound = (key_types >= 13) & (key_types % 2 == 1) & (at + dim + 1 == body)
        if not np.all(sound & (body <= rows.starts + rows.sizes)):
            raise self._malformed("other columns than a key, the dimensions and a magnitude")
        self.integers: npt.NDArray[Any] = np.empty((count, dim), np.int32)
        self.magnitudes = np.empty(count, np.float64)
        step = max(1, CHUNK // (dim + 1))
        for begin in range(0, count, step):
            self._decode(slice(begin, begin + step), at, body, dim)

    def keys(self) -> list[str]:
        """Decode the keys; bytes that are no UTF-8 become surrogates."""
        data = self._rows.data.data
        ends = self._key_starts + self._key_sizes
        return [
            str(data[start:end], "utf-8", "surrogateescape")
            for start, end in zip(self._key_starts.tolist(), ends.tolist(), strict=True)
        ]

    def vectors(self, precision: int, *, normalized: bool) -> Floats:
        """Compute the vectors.

        Parameters
        ----------
        precision
            Decimal places that the integers stand for.
        normalized
            Whether of unit length, or of their original one.

        Returns
        -------
        ndarray
            float32, shape (n, dim).
        """
        values: Floats = self.integers.astype(np.float32)
        scale = 10**precision
        if normalized:
            values /= np.float32(scale)
        else:
            with np.errstate(over="ignore", invalid="ignore"):  # of magnitudes that cannot be
                values *= (self.magnitudes / scale).astype(np.float32)[:, None]
        return values

    def _decode(self, part: slice, types_at: Ints, body: Ints, dim: int) -> None:
        data, rows = self._rows.data, self._rows
        types = _windows(data, "u1", dim + 1)[types_at[part]]
        kinds = types[:, dim]
        sizes = _translate(types, SIZES)
        widest = int(sizes[:, :dim].max(initial=0))
        if widest == IMPOSSIBLE or (kinds > 9).any():
            raise self._malformed(
                "a dimension that is no integer, or a magnitude that is no number"
            )
        at = np.empty(types.shape, np.int64)
        at[:, 0] = body[part] + self._key_sizes[part]
        at[:, 1:] = sizes[:, :dim]
        np.cumsum(at, axis=1, out=at)
        last = at[:, dim]
        if np.any(last + MAGNITUDE_SIZES[kinds] != rows.starts[part] + rows.sizes[part]):
            raise self._malformed("a length that its columns do not add up to")
        if widest > 4 and self.integers.dtype != np.int64:
            self.integers = self.integers.astype(np.int64)
        width = 4 if widest <= 4 else 8
        self.integers[part] = _read_integers(data, at[:, :dim], types[:, :dim], width)
        reals = _windows(data, ">f8")[last]
        whole = _read_integers(data, last, kinds, 8)
        self.magnitudes[part] = np.where(kinds == 7, reals, np.where(kinds == 0, np.nan, whole))

    def _malformed(self, what: str) -> FormatError:
        return FormatError(f"{self._name}: malformed: a row of the table magnitude has {what}")


def _windows(data: npt.NDArray[np.uint8], dtype: str, length: int = 1) -> npt.NDArray[Any]:
    """View data as a big-endian number, or so many of them, at every byte."""
    width = np.dtype(dtype).itemsize * length
    shape = (len(data) - width + 1,) if length == 1 else (len(data) - width + 1, length)
    return np.ndarray(shape, dtype, data, strides=(1,) * len(shape))


def _translate(types: npt.NDArray[np.uint8], table: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Look bytes up in a table of 256, faster than by an index."""
    translated = types.tobytes().translate(table.tobytes())
    return np.frombuffer(translated, np.uint8).reshape(types.shape)


def _read_integers(
    data: npt.NDArray[np.uint8], at: Ints, types: npt.NDArray[np.uint8], width: int
) -> npt.NDArray[Any]:
    """Read signed integers of up to `width` bytes: a wide read, shifted down with its sign."""
    values = _windows(data, f">i{width}")[at].astype(f"i{width}")
    values >>= _translate(types, SHIFTS[width])
    constant = types >= 8  # the integers 0 and 1 take no bytes
    if constant.any():
        values[constant] = types[constant] - np.uint8(8)
    return values
