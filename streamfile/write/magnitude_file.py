"""Writer of a whole ``.magnitude`` file from keys and vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from streamfile._progress import Progress
from streamfile.errors import ArgumentError
from streamfile.format.tables import FACTS, VECTORS
from streamfile.inputs.open import Batch
from streamfile.write.annoy_index import write_approximate
from streamfile.write.check import check
from streamfile.write.database import Builder, Record
from streamfile.write.indexes import column, index_records, pair_records
from streamfile.write.keys import Keys
from streamfile.write.prefetch import ahead
from streamfile.write.quantize import MOST_PRECISION, Quantizer
from streamfile.write.streaming_front import SCHEMA, reserve_for, write_front
from streamfile.write.subwords import write_subwords
from vfs.btree.table import Rows, Table

PAGE_SIZE = 4096
LEAST_TREES = 50
TREES_AT = 3_000_000  # number of rows above which there are more trees than `LEAST_TREES`
MOST_DENSER = 4  # limit of the declared rows, as a multiple of the estimate from the first batch
SAMPLES = 10

KEY_INDEX = "magnitude_key_idx"
FORMAT_SQL = "CREATE TABLE magnitude_format (key TEXT COLLATE NOCASE, value INTEGER)"
KEY_INDEX_SQL = f"CREATE INDEX {KEY_INDEX} ON magnitude (key)"
ORDER = (VECTORS, FACTS)


class VectorSource(Protocol):
    """Interface of a source of keys and vectors."""

    name: str
    dim: int
    size: int  # end of the progress bar, in `unit`
    unit: str

    @property
    def declared(self) -> int | None:
        """Number of rows, None if it is not known beforehand."""

    def batches(self) -> Iterator[Batch]:
        """Yield keys and vectors, in order."""


@dataclass(frozen=True)
class Conversion:
    """Options of a conversion, see `convert`."""

    precision: int = 7
    subword: bool = True
    ngrams: tuple[int, int] = (3, 6)
    approx: bool = False
    trees: int | None = None
    log: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.precision <= MOST_PRECISION:
            raise ArgumentError(
                f"precision={self.precision}: expected decimal places from 1 to {MOST_PRECISION}"
            )
        if not 1 <= self.ngrams[0] <= self.ngrams[1] <= 100:
            raise ArgumentError(
                f"ngrams={self.ngrams}: expected the shortest and the longest, such as (3, 6)"
            )
        if self.trees is not None and self.trees < 1:
            raise ArgumentError(f"trees={self.trees}: expected at least one")


def write_vectors(
    path: Path,
    source: VectorSource,
    how: Conversion,
    *,
    facts: Sequence[tuple[str, int]] = (),
    extra: Callable[[Builder], None] = lambda _: None,
) -> int:
    """Write the ``.magnitude`` file of vectors, and check it.

    Parameters
    ----------
    path
        Path of the file.
    source
        Source of keys and vectors.
    how
        Options of the conversion.
    facts
        Rows of the table ``magnitude_format`` that replace the usual ones or are added to them.
    extra
        Function that writes further tables.

    Returns
    -------
    int
        Number of rows.
    """
    batches = ahead(source.batches())
    first = next(batches, None)
    expected = 0
    if first is not None:
        share = max(1, first.position) / max(1, source.size)
        expected = int(len(first.keys) / share)
        if source.declared is not None:  # the header may declare too many rows
            expected = min(source.declared, MOST_DENSER * expected)
    columns = ", ".join(f"dim_{at} INTEGER" for at in range(source.dim))
    sql = f"CREATE TABLE magnitude (key TEXT COLLATE NOCASE, {columns}, magnitude REAL)"
    reserve = reserve_for(expected, source.dim, subword=how.subword)
    with (
        closing(Keys(path.parent)) as keys,
        closing(
            Builder(path, page_size=PAGE_SIZE, schema=SCHEMA + len(sql), reserve=reserve)
        ) as builder,
    ):
        quantizer = Quantizer(source.dim, how.precision, expected=expected)
        rows = _Rows(source, how, quantizer, keys)
        builder.table(VECTORS, sql, rows.encoded(first, batches))
        entries = index_records(keys.sorted())
        builder.index(KEY_INDEX, VECTORS, KEY_INDEX_SQL, entries)
        entropy = quantizer.order()
        _write_dimension_index(builder, source.dim, entropy[0])
        if how.subword:
            write_subwords(builder, keys, how.ngrams, path.parent)
        trees = 0
        if how.approx:
            trees = how.trees or max(LEAST_TREES, LEAST_TREES * len(keys) // TREES_AT)
            write_approximate(builder, source.dim, how.precision, trees)
        extra(builder)
        told: dict[str, int] = {
            "version": 2,
            "elmo": 0,
            "size": len(keys),
            "dim": source.dim,
            "precision": how.precision,
            "subword": int(how.subword),
            "subword_start": how.ngrams[0] if how.subword else 0,
            "subword_end": how.ngrams[1] if how.subword else 0,
            "approx": int(how.approx),
            "approx_trees": trees,
        } | dict(facts)
        records: list[Record] = [*told.items(), *(("entropy", at) for at in entropy)]
        records.append(("max_duplicate_keys", keys.most_equal))
        builder.records(FACTS, FORMAT_SQL, enumerate(records, 1), front=True)
        write_front(builder, bytes(keys.lengths), KEY_INDEX)
        builder.finish(ORDER)
        check(path, len(keys), rows.samples)
        return len(keys)


class _Rows:
    """Encoder of the rows of a source, which keeps the keys and some records."""

    def __init__(
        self, source: VectorSource, how: Conversion, quantizer: Quantizer, keys: Keys
    ) -> None:
        self._source, self._how = source, how
        self._quantizer, self._keys = quantizer, keys
        self.samples: dict[int, bytes] = {}

    def encoded(self, first: Batch | None, batches: Iterator[Batch]) -> Iterator[Rows]:
        """Yield encoded batches, and keep their keys and some records."""
        source = self._source
        with Progress(source.name, source.size, unit=source.unit, log=self._how.log) as bar:
            batch, position = first, 0
            while batch is not None:
                rows = self._quantizer.encode(batch.keys, batch.vectors, len(self._keys) + 1)
                self._keys.add(batch.keys)
                self._sample(rows)
                yield rows
                bar.update(batch.position - position)
                position = batch.position
                batch = next(batches, None)

    def _sample(self, rows: Rows) -> None:
        if len(self.samples) < SAMPLES:
            at = (len(self.samples) * 7919) % len(rows.rowids)
            begin = int(rows.starts[at])
            record = rows.data[begin : begin + int(rows.sizes[at])].tobytes()
            self.samples[int(rows.rowids[at])] = record


def _write_dimension_index(builder: Builder, dim: int, dimension: int) -> None:
    pages = builder.pages()
    values, rowids = column(pages, Table(pages, builder.root(VECTORS)), dim, dimension)
    order = np.argsort(values, kind="stable")
    name = f"magnitude_dim_{dimension}_idx"
    sql = f"CREATE INDEX {name} ON magnitude (dim_{dimension})"
    builder.index(name, VECTORS, sql, pair_records(values[order], rowids[order]))
