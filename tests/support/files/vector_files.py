"""Writes files of word vectors, as word2vec, GloVe and fastText do."""

import numpy as np


def text_file(keys, vectors, *, header=True, separator=b" "):
    """Give a line for each row, its numbers exact."""
    lines = [
        separator.join([key, *(b"%r" % float(number) for number in vector)])
        for key, vector in zip(map(encoded, keys), vectors, strict=True)
    ]
    if header:
        lines.insert(0, b"%d %d" % np.shape(vectors))
    return b"".join(line + b"\n" for line in lines)


def binary_file(keys, vectors, *, newline=True):
    """Give word2vec's binary form."""
    rows = (
        encoded(key) + b" " + np.asarray(vector, "<f4").tobytes() + b"\n" * newline
        for key, vector in zip(keys, vectors, strict=True)
    )
    return b"%d %d\n" % np.shape(vectors) + b"".join(rows)


def encoded(key):
    return key if isinstance(key, bytes) else key.encode()
