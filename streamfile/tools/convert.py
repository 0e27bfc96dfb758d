"""Conversion of vector files to ``.magnitude`` files."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from streamfile.errors import ArgumentError, PathError
from streamfile.inputs.open import open_vectors
from streamfile.write.annoy_index import import_annoy
from streamfile.write.magnitude_file import Conversion, write_vectors
from streamfile.write.output import unfinished
from vfs.options import expanded

SUFFIX = ".magnitude"
MODEL = ".hdf5"
VECTORS = (".txt", ".vec", ".bin")
INPUTS = (*VECTORS, MODEL)
ZIPPED = ".gz"


@dataclass(frozen=True)
class Converted:
    """Result of the conversion of a file.

    Attributes
    ----------
    path
        Path of the ``.magnitude`` file.
    rows, dim
        Number of vectors, and of dimensions of each vector.
    encoding_errors
        Number of keys that were not UTF-8, and in which U+FFFD replaces the malformed bytes.
    """

    __module__ = "streamfile"

    path: Path
    rows: int
    dim: int
    encoding_errors: int


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
    """Convert vector files or ELMo models to ``.magnitude`` files, laid out for streaming.

    Parameters
    ----------
    source : str or os.PathLike
        Path of a file of word2vec (text, ``.txt``, or binary, ``.bin``), GloVe (``.txt``) or
        fastText (``.vec``), which may be compressed by gzip (``.gz``); of ELMo weights
        (``.hdf5``); or of a directory with such files. The options of ELMo weights are beside
        them: ``X_options.json`` for ``X_weights.hdf5``, else ``X.json``.
    output : str or os.PathLike
        Path of the output file, or of an output directory if the source is a directory.
    precision : int
        Number of stored decimal places of each component of the unit vectors, 1 to 9.
    subword : bool
        Whether to add an index of n-grams, by which keys outside the file get vectors of similar
        keys (medium files).
    ngrams : tuple of int
        Number of characters in the shortest and in the longest n-grams.
    approx : bool
        Whether to add an index for `most_similar_approx` (heavy files; needs the extra ``annoy``).
    trees : int, optional
        Number of trees in that index. Default: 50, or one per 60,000 rows in a file of more than
        3,000,000 rows.
    vocab : str or os.PathLike, optional
        Keys that get stored vectors from an ELMo model, each vector from a sentence of this one
        word. The path of a ``.magnitude`` file, or of a text with one key in each line.
    force : bool
        Whether to replace files that exist.
    log : bool
        Whether to show progress, on a terminal.

    Returns
    -------
    list of Converted
        The result of each file.

    Raises
    ------
    FormatError
        An input is damaged or of another format; the message tells the place.
    PathError, ExistsError, ArgumentError
        The input does not exist; the output exists; an argument has an impossible value.
    ImportError
        An extra that the conversion needs is not installed.
    OSError
        The output cannot be written, or the disk is full. No incomplete file is left.

    Notes
    -----
    Memory is bounded, except for about 30 bytes per row. Equal inputs give equal files, except for
    the index of approximate neighbours.
    """
    how = Conversion(precision, subword, ngrams, approx, trees, log)
    if approx:
        import_annoy()  # a missing extra is an error now, not after the vectors are written
    jobs = _jobs(Path(expanded(source)), Path(expanded(output)))
    return [_convert(one, target, how, vocab, force=force) for one, target in jobs]


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
    """Return a file's name without its format's suffixes, None if it has no known suffix."""
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
            from streamfile.tools.convert_elmo import write_elmo

            rows, dim = write_elmo(path, source, vocab, how)
            return Converted(target, rows, dim, 0)
        if vocab is not None:
            raise ArgumentError(f"vocab is for ELMo models (.hdf5), and {source} is none")
        with closing(open_vectors(source)) as vectors:
            rows = write_vectors(path, vectors, how)
            return Converted(target, rows, vectors.dim, vectors.encoding_errors)
