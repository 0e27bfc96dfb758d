"""Characters of tokens: the bytes of their UTF-8, between boundaries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# The byte b is the character b + 1. Character 0 is bilm-tf's mask, which is not used here.
BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, PADDING = range(257, 262)
BOUNDARIES = 2  # boundaries of each word
# UTF-8 never has the byte 255, so that no word has these spellings.
SENTENCE_BEGIN, SENTENCE_END = b"\xff<S>", b"\xff</S>"
SPECIAL = {"<S>": SENTENCE_BEGIN, "</S>": SENTENCE_END}
SINGLE = {SENTENCE_BEGIN: BEGIN_SENTENCE, SENTENCE_END: END_SENTENCE}

Ids = npt.NDArray[np.int64]


def spelling(token: str, max_characters: int) -> bytes:
    """Return the spelling of a token, on which layer 0 depends.

    Parameters
    ----------
    token
        A token. Lone surrogates, which UTF-8 cannot encode, are dropped. ``<S>`` and ``</S>`` are
        the boundaries of a sentence.
    max_characters
        Greatest number of characters of a token, its two boundaries included. Longer tokens are
        truncated.
    """
    special = SPECIAL.get(token)
    return special or token.encode("utf-8", "ignore")[: max_characters - BOUNDARIES]


def spelt_length(spelt: bytes) -> int:
    """Count the characters of a spelling, boundaries included."""
    return BOUNDARIES + (1 if spelt in SINGLE else len(spelt))


def character_ids(spellings: Sequence[bytes], width: int) -> Ids:
    """Encode spellings as characters.

    Parameters
    ----------
    spellings
        Spellings from `spelling`.
    width
        Number of characters in each row, at least the length of the longest spelling.

    Returns
    -------
    ndarray
        Characters, padded with `PADDING`, int64, shape (spellings, width).
    """
    ids = np.full((len(spellings), width), PADDING, np.int64)
    ids[:, 0] = BEGIN_WORD
    for row, spelt in zip(ids, spellings, strict=True):
        end = spelt_length(spelt) - 1
        row[1:end] = SINGLE.get(spelt) or np.frombuffer(spelt, np.uint8).astype(np.int64) + 1
        row[end] = END_WORD
    return ids
