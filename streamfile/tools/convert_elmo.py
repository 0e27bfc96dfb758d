"""Conversion of ELMo models to ``.magnitude`` files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from streamfile.errors import FormatError, PathError
from streamfile.format.tables import ELMO_OPTIONS, ELMO_WEIGHTS
from streamfile.inputs.base import shown
from streamfile.inputs.open import Batch
from streamfile.readers.local import LocalReader
from streamfile.write.database import Builder
from streamfile.write.lz4_rows import frame_rows
from streamfile.write.magnitude_file import Conversion, write_vectors
from vfs.options import expanded

WORDS = 1024  # words of a batch
META = {name: f"CREATE TABLE {name} (meta_file BLOB)" for name in (ELMO_WEIGHTS, ELMO_OPTIONS)}


def write_elmo(
    path: Path, weights: Path, vocab: str | os.PathLike[str] | None, how: Conversion
) -> tuple[int, int]:
    """Write the ``.magnitude`` file of an ELMo model.

    Parameters
    ----------
    path
        Path of the output.
    weights
        Path of the weights, an HDF5 file; the options are beside it, see `options_of`.
    vocab, how
        Vocabulary and options, see `streamfile.convert`.

    Returns
    -------
    rows, dim
        Number of rows, and of dimensions.

    Raises
    ------
    PathError
        The options or the vocabulary do not exist.
    FormatError
        Options and weights do not fit each other.
    ImportError
        The extra ``elmo`` is not installed.
    """
    options = options_of(weights)
    keys = [] if vocab is None else list(read_keys(Path(expanded(vocab))))
    words = _Words(options, weights, keys)

    def extra(builder: Builder) -> None:
        for (name, sql), file in zip(META.items(), (weights, options), strict=True):
            builder.records(name, sql, enumerate(frame_rows(file), 1))

    return write_vectors(path, words, how, facts=[("elmo", 1)], extra=extra), words.dim


def options_of(weights: Path) -> Path:
    """Return the path of the options that belong to weights.

    Raises
    ------
    PathError
        There is no options file beside the weights.
    """
    stem = weights.name[: -len(weights.suffix)]
    name = stem.removesuffix("_weights")
    options = weights.with_name(f"{name}_options.json" if name != stem else f"{name}.json")
    if not options.is_file():
        raise PathError(f"{weights}: expected the model's options beside it, in {options}")
    return options


def read_keys(vocab: Path) -> Iterator[str]:
    """Yield the keys of a ``.magnitude`` file, or the lines of a text.

    Raises
    ------
    PathError
        The file does not exist.
    FormatError
        A line of the text is not UTF-8.
    """
    if not vocab.is_file():
        raise PathError(f"{vocab}: no such file: expected keys to give vectors to")
    if vocab.suffix.lower() == ".magnitude":
        with closing(LocalReader(str(vocab))) as known:
            size = known.contents.format.size
            for at in range(0, size, WORDS):
                yield from known.rows(np.arange(at, min(at + WORDS, size)) + 1).keys()
        return
    with vocab.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                key = line.rstrip(b"\r\n").decode()
            except UnicodeDecodeError:
                raise FormatError(
                    f"{vocab}: line {number:,}: expected a key in UTF-8, found {shown(line)}"
                ) from None
            yield key


class _Words:
    """Source of words and their vectors, each word in a sentence of its own."""

    unit = " keys"

    def __init__(self, options: Path, weights: Path, words: Sequence[str]) -> None:
        from streamfile.elmo import Encoder

        self.name = weights.name
        self._encoder = Encoder(options, weights)
        self._words = words
        self.dim = self._encoder.layers * self._encoder.dim
        self.size = self.declared = len(words)

    def batches(self) -> Iterator[Batch]:
        for begin in range(0, len(self._words), WORDS):
            words = self._words[begin : begin + WORDS]
            vectors = [vector[0] for vector in self._encoder.embed([word] for word in words)]
            keys = [word.encode() for word in words]
            yield Batch(keys, np.stack(vectors), begin + len(words))
