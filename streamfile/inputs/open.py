"""The files of word vectors that can be converted."""

from __future__ import annotations

import os
from pathlib import Path

from streamfile.inputs.base import Batch, VectorFile
from streamfile.inputs.binary import BinaryVectors
from streamfile.inputs.text import TextVectors

__all__ = ["Batch", "VectorFile", "open_vectors"]

PACKED = ".gz"
BINARY = ".bin"


def open_vectors(path: str | os.PathLike[str]) -> VectorFile:
    """Open a file of word vectors.

    Parameters
    ----------
    path
        Of a file in word2vec's binary form where its name ends in ``.bin``, else of text:
        word2vec's, fastText's or GloVe's. ``.gz`` may follow; whether the file is compressed is
        seen from its first bytes.

    Raises
    ------
    PathError
        There is no such file.
    FormatError
        Its beginning is not what it should be.
    """
    path = Path(path)
    name = path.name.lower().removesuffix(PACKED)
    return BinaryVectors(path) if name.endswith(BINARY) else TextVectors(path)
