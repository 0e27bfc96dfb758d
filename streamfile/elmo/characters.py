"""Tokens as characters: the bytes of their UTF-8, between boundaries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# A byte b is character b + 1; 0 would be a mask, which the model does not need.
BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, PADDING = range(257, 262)
BOUNDARIES = 2  # of a word
# No UTF-8 has the byte 255, so that no word is spelt like these.
SENTENCE_BEGIN, SENTENCE_END = b"\xff<S>", b"\xff</S>"
SPECIAL = {"<S>": SENTENCE_BEGIN, "</S>": SENTENCE_END}
SINGLE = {SENTENCE_BEGIN: BEGIN_SENTENCE, SENTENCE_END: END_SENTENCE}

Ids = npt.NDArray[np.int64]


def spelling(token: str, max_characters: int) -> bytes:
    """Give all that layer 0 depends on: tokens spelt alike have the same vector there.

    Parameters
    ----------
    token
        Lone surrogates, which UTF-8 cannot express, are dropped. ``<S>`` and ``</S>`` are the
        boundaries of a sentence.
    max_characters
        Of a token, its two boundaries included; the rest is cut off.
    """
    special = SPECIAL.get(token)
    return special or token.encode("utf-8", "ignore")[: max_characters - BOUNDARIES]


def spelt_length(spelt: bytes) -> int:
    """Count the characters of a spelling, boundaries included."""
    return BOUNDARIES + (1 if spelt in SINGLE else len(spelt))


def character_ids(spellings: Sequence[bytes], width: int) -> Ids:
    """Turn spellings into characters.

    Parameters
    ----------
    spellings
        See `spelling`.
    width
        Characters of a row; not less than the longest has.

    Returns
    -------
    array of int64, (spellings, width)
        Padded.
    """
    ids = np.full((len(spellings), width), PADDING, np.int64)
    ids[:, 0] = BEGIN_WORD
    for row, spelt in zip(ids, spellings, strict=True):
        end = spelt_length(spelt) - 1
        row[1:end] = SINGLE.get(spelt) or np.frombuffer(spelt, np.uint8).astype(np.int64) + 1
        row[end] = END_WORD
    return ids
