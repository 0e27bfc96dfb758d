"""Choice of the reader for a file of word vectors."""

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
        Path of the file. A name that ends in ``.bin`` or ``.bin.gz`` is word2vec's binary format.
        Any other name is text of word2vec, fastText or GloVe. The first bytes, not the name, tell
        whether the file is compressed with gzip.

    Raises
    ------
    PathError
        The file does not exist.
    FormatError
        The beginning of the file is malformed.
    """
    path = Path(path)
    name = path.name.lower().removesuffix(PACKED)
    return BinaryVectors(path) if name.endswith(BINARY) else TextVectors(path)
