"""Vector files to ``.magnitude`` files."""

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

SUFFIX = ".magnitude"
MODEL = ".hdf5"
VECTORS = (".txt", ".vec", ".bin")
INPUTS = (*VECTORS, MODEL)
ZIPPED = ".gz"


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
    ImportError
        An extra that it takes is not installed.
    OSError
        The output cannot be written, or the disk is full. No half-made file is left.

    Notes
    -----
    Memory is bounded whatever the size of the input, but for about 30 bytes a row. Equal inputs
    give equal files; with an approximate index, files that differ in that.
    """
    how = Conversion(precision, subword, ngrams, approx, trees, log)
    if approx:
        import_annoy()  # or fail now, not after the vectors
    jobs = _jobs(Path(source), Path(output))
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
            from streamfile.tools.convert_elmo import write_elmo

            rows, dim = write_elmo(path, source, vocab, how)
            return Converted(target, rows, dim, 0)
        if vocab is not None:
            raise ArgumentError(f"vocab is for ELMo models (.hdf5), and {source} is none")
        with closing(open_vectors(source)) as vectors:
            rows = write_vectors(path, vectors, how)
            return Converted(target, rows, vectors.dim, vectors.encoding_errors)
