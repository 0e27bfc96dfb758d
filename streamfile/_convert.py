"""Vector files to ``.magnitude`` files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from streamfile._builder import Builder, Record
from streamfile._checked import check
from streamfile._dimension import column, pair_records
from streamfile._front import SCHEMA, reserve_for, write_front
from streamfile._inputs import Batch, open_vectors
from streamfile._keys import Keys, index_records
from streamfile._neighbours import write_approximate
from streamfile._overlap import ahead
from streamfile._progress import progress
from streamfile._quantize import MOST_PRECISION, Quantizer
from streamfile._subwords import write_subwords
from streamfile._unfinished import unfinished
from streamfile.errors import ArgumentError, PathError
from vfs import Rows, Table

PAGE_SIZE = 4096
SUFFIX = ".magnitude"
MODEL = ".hdf5"
VECTORS = (".txt", ".vec", ".bin")
INPUTS = (*VECTORS, MODEL)
ZIPPED = ".gz"
LEAST_TREES = 50
TREES_AT = 3_000_000  # rows from which there are more
MOST_DENSER = 4  # rows are than those at the beginning
SAMPLES = 10

KEY_INDEX = "magnitude_key_idx"
FORMAT_SQL = "CREATE TABLE magnitude_format (key TEXT COLLATE NOCASE, value INTEGER)"
KEY_INDEX_SQL = f"CREATE INDEX {KEY_INDEX} ON magnitude (key)"
ORDER = ("magnitude", "magnitude_format")


class VectorSource(Protocol):
    """Where keys and their vectors come from."""

    name: str
    dim: int
    size: int  # of the progress bar
    unit: str

    @property
    def declared(self) -> int | None: ...
    def batches(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Converted:
    """What became of a file.

    Attributes
    ----------
    path
        Of the ``.magnitude`` file.
    rows, dim
        Vectors, and the dimensions of each.
    encoding_errors
        Keys that were no UTF-8: what is wrong in them was replaced.
    """

    path: Path
    rows: int
    dim: int
    encoding_errors: int


@dataclass(frozen=True)
class Conversion:
    """How to write a file; see `convert`."""

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


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: int = 7,
    subword: bool = True,
    ngrams: tuple[int, int] = (3, 6),
    approx: bool = False,
    trees: int | None = None,
    vocab: str | os.PathLike[str] | None = None,
    force: bool = False,
    log: bool = True,
) -> list[Converted]:
    """Make ``.magnitude`` files, laid out for streaming, of vector files or ELMo models.

    Parameters
    ----------
    source : str or os.PathLike
        word2vec text (``.txt``) or binary (``.bin``), GloVe (``.txt``), fastText (``.vec``), any
        of them compressed by gzip (``.gz``), ELMo weights (``.hdf5``, with the options beside
        them: ``X_options.json`` for ``X_weights.hdf5``, else ``X.json``), or a directory with such
        files.
    output : str or os.PathLike
        The file to write, a directory if the source is one.
    precision : int
        Decimal places kept of each component of the unit vectors, 1 to 9.
    subword : bool
        Whether keys outside the file will find similar ones by their n-grams (medium files).
    ngrams : tuple of int
        Characters in the shortest n-grams, and in the longest.
    approx : bool
        Whether to add an index for `most_similar_approx` (heavy files; needs the extra ``annoy``).
    trees : int, optional
        Of that index. Default: 50, and as many more as the file has more than 3,000,000 rows.
    vocab : str or os.PathLike, optional
        Of an ELMo model: keys that get stored vectors, each made of a sentence of that one word.
        A ``.magnitude`` file, or text with a key a line.
    force : bool
        Whether to replace files that exist.
    log : bool
        Whether to show progress, on a terminal.

    Returns
    -------
    list of Converted
        One for each file.

    Raises
    ------
    FormatError
        An input that is damaged or of another format; it says where.
    PathError, ExistsError, ArgumentError
        No such input; an output that exists; an argument that cannot be.
    OSError
        The output cannot be written, or the disk is full. No half-made file is left.

    Notes
    -----
    Memory is bounded whatever the size of the input, but for about 30 bytes a row. Equal inputs
    give equal files; with an approximate index, files that differ in that.
    """
    how = Conversion(precision, subword, ngrams, approx, trees, log)
    jobs = _jobs(Path(source), Path(output))
    return [_convert(one, target, how, vocab, force=force) for one, target in jobs]


def write_vectors(
    path: Path,
    source: VectorSource,
    how: Conversion,
    *,
    facts: Sequence[tuple[str, int]] = (),
    extra: Callable[[Builder], None] = lambda _: None,
) -> int:
    """Write the file of some vectors.

    Parameters
    ----------
    path
        To write to.
    source
        The vectors.
    how
        To write them.
    facts
        For the table ``magnitude_format``, beside the usual ones.
    extra
        Writes further tables.

    Returns
    -------
    int
        Rows.
    """
    batches = ahead(source.batches())
    first = next(batches, None)
    expected = 0
    if first is not None:
        share = max(1, first.position) / max(1, source.size)
        expected = int(len(first.keys) / share)
        if source.declared is not None:  # which need not be true
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
        quantizer = Quantizer(source.dim, how.precision)
        rows = _Rows(source, how, quantizer, keys)
        builder.table("magnitude", sql, rows.encoded(first, batches))
        entries = index_records(keys.sorted())
        builder.index(KEY_INDEX, "magnitude", KEY_INDEX_SQL, entries)
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
        builder.records("magnitude_format", FORMAT_SQL, enumerate(records, 1), front=True)
        write_front(builder, bytes(keys.lengths), KEY_INDEX)
        builder.finish(ORDER)
        check(path, len(keys), rows.samples)
        return len(keys)


class _Rows:
    """The rows of a source, encoded as they come."""

    def __init__(
        self, source: VectorSource, how: Conversion, quantizer: Quantizer, keys: Keys
    ) -> None:
        self._source, self._how = source, how
        self._quantizer, self._keys = quantizer, keys
        self.samples: dict[int, bytes] = {}

    def encoded(self, first: Batch | None, batches: Iterator[Batch]) -> Iterator[Rows]:
        """Encode batch by batch, and keep the keys and some records."""
        source = self._source
        with progress(source.name, source.size, unit=source.unit, log=self._how.log) as bar:
            batch = first
            while batch is not None:
                rows = self._quantizer.encode(batch.keys, batch.vectors, len(self._keys) + 1)
                self._keys.add(batch.keys)
                self._sample(rows)
                yield rows
                bar.update(batch.position - bar.n)
                batch = next(batches, None)

    def _sample(self, rows: Rows) -> None:
        if len(self.samples) < SAMPLES:
            at = (len(self.samples) * 7919) % len(rows.rowids)
            begin = int(rows.starts[at])
            record = rows.data[begin : begin + int(rows.sizes[at])].tobytes()
            self.samples[int(rows.rowids[at])] = record


def _write_dimension_index(builder: Builder, dim: int, dimension: int) -> None:
    pages = builder.pages()
    values, rowids = column(pages, Table(pages, builder.root("magnitude")), dim, dimension)
    order = np.argsort(values, kind="stable")
    name = f"magnitude_dim_{dimension}_idx"
    sql = f"CREATE INDEX {name} ON magnitude (dim_{dimension})"
    builder.index(name, "magnitude", sql, pair_records(values[order], rowids[order]))


def _jobs(source: Path, output: Path) -> list[tuple[Path, Path]]:
    """Pair inputs and outputs."""
    if not source.exists():
        raise PathError(f"{source}: no such file or directory")
    if not source.is_dir():
        return [(source, output)]
    inputs: dict[str, Path] = {}
    for path in sorted(source.iterdir()):
        if (stem := _stem(path)) is None:
            continue
        if stem in inputs:
            raise ArgumentError(
                f"{inputs[stem]} and {path} would both become {stem}{SUFFIX}: convert one of them "
                "by itself, or rename it"
            )
        inputs[stem] = path
    if not inputs:
        raise PathError(f"{source}: no file in it ends in {', '.join(INPUTS)} or {ZIPPED}")
    output.mkdir(exist_ok=True)
    return [(path, output / f"{stem}{SUFFIX}") for stem, path in inputs.items()]


def _stem(path: Path) -> str | None:
    """Give a file's name without what tells its format; None if it is none of these."""
    zipped = path.suffix.lower() == ZIPPED
    plain = Path(path.stem if zipped else path.name)
    known = plain.suffix.lower() in (VECTORS if zipped else INPUTS)
    return plain.stem if known and path.is_file() else None


def _convert(
    source: Path,
    target: Path,
    how: Conversion,
    vocab: str | os.PathLike[str] | None,
    *,
    force: bool,
) -> Converted:
    with unfinished(target, force=force) as path:
        if source.suffix.lower() == MODEL:
            from streamfile._convert_elmo import write_elmo

            rows, dim = write_elmo(path, source, vocab, how)
            return Converted(target, rows, dim, 0)
        if vocab is not None:
            raise ArgumentError(f"vocab is for ELMo models (.hdf5), and {source} is none")
        with closing(open_vectors(source)) as vectors:
            rows = write_vectors(path, vectors, how)
            return Converted(target, rows, vectors.dim, vectors.encoding_errors)
