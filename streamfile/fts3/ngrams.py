"""Vectorised extraction of the n-grams that the subword table stores for keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Flags, Ints

EDGE = "\uf000"
NOT_SEARCHED = re.compile("[\0-/:-@[-`{-\x7f]")
# The lower case of FINAL depends on its neighbours, the lower case of DOTTED has two characters.
FINAL, DOTTED = "Σ", "İ"
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio, for hashing
WORD = 8  # bytes

Words = npt.NDArray[np.uint64]

# Translation between UTF-8 and the code of `Rows`.
_SHORT_EDGE, _LONG_EDGE = b"\xef", b"\xf0\x80\x80"
_TO_CODE = bytes((*range(0xEF), *range(0xF0, 0xF6), *range(0xF5, 0x100)))
_FROM_CODE = bytes((*range(0xF0), *range(0xEF, 0xF5), *range(0xF6, 0x100)))
_SEARCHED = np.ones(0x100, bool)
_SEARCHED[[at for at in range(0x80) if NOT_SEARCHED.match(chr(at))]] = False

_FIRST = np.array([(1 << 64) - (1 << 64 - 8 * size) for size in range(WORD + 1)], np.uint64)
_SPACE = np.array([0x20 << 56 - 8 * size if size < WORD else 0 for size in range(WORD + 1)], "u8")
_NEW_LINE = np.uint64(ord("\n") << 56)
LAST_BYTE = np.uint64(0xFF)


@dataclass(frozen=True)
class Rows:
    """N-grams as rows of 64-bit words, which sort in the order of the UTF-8 bytes.

    The code of an n-gram is its UTF-8, in which one byte replaces the three bytes of `EDGE`.

    Attributes
    ----------
    words
        First word of each n-gram: its first eight bytes, big-endian, padded with zeros, uint64,
        shape (n,).
    rest
        Further words of the n-grams whose first word is full, in order, uint64, shape (m, width).
    """

    words: Words
    rest: Words

    @property
    def full(self) -> Ints:
        """Positions of the first words that have no padding, int64, shape (m,)."""
        return np.flatnonzero(self.words & LAST_BYTE)

    def joined(self) -> bytes:
        """Join the n-grams in UTF-8, each with a space behind it; an empty one is a new line."""
        # The exponent of the lowest bit tells the number of zero bytes at the end.
        lowest = (self.words & -self.words).astype(np.float64)
        sizes = WORD - (np.frexp(lowest)[1] - 1) // 8
        empty = np.flatnonzero(self.words == 0)
        sizes[empty] = 0
        words = self.words | _SPACE[sizes]
        words[empty] = _NEW_LINE
        full = self.full
        if len(full):
            rest = np.column_stack([self.rest, np.full(len(full), _SPACE[0])])
            words = np.insert(words, np.repeat(full + 1, rest.shape[1]), rest.ravel())
        text: bytes = words.astype(">u8").tobytes().translate(None, b"\0")
        return text.replace(_SHORT_EDGE, _LONG_EDGE).translate(_FROM_CODE)


def rows_of(grams: Sequence[bytes], width: int) -> Rows:
    """Encode n-grams.

    Parameters
    ----------
    grams
        N-grams in UTF-8, each of at most ``8 * (1 + width)`` bytes in the code.
    width
        Number of words for an n-gram behind its first word.
    """
    codes = _code(b" ".join(grams)).split(b" ") if grams else []
    data = np.array(codes, f"S{WORD * (1 + width)}")
    words = data.view(">u8").astype(np.uint64).reshape(-1, 1 + width)
    return Rows(words[:, 0].copy(), words[(words[:, 0] & LAST_BYTE) != 0, 1:])


def searched(
    keys: Sequence[str], shortest: int, longest: int, width: int
) -> tuple[Rows, Ints, Ints]:
    """Extract the n-grams that the subword table stores for keys.

    Parameters
    ----------
    keys
        Keys, at least one, in any case.
    shortest, longest
        Number of characters in the shortest and in the longest n-grams.
    width
        Number of words for an n-gram behind its first word.

    Returns
    -------
    rows
        For each key, its different lower-case n-grams of searched characters (letters, digits and
        characters outside ASCII), in the order of the subword table, short ones first; then one
        empty n-gram.
    ends
        Position in `rows` of the empty n-gram of each key, int64, shape (n,).
    counts
        Number of different n-grams of each key, n-grams of other characters included, int64, shape
        (n,).
    """
    whole = EDGE + (EDGE + EDGE).join(keys) + EDGE
    code = _code(whole.replace(DOTTED, "i").lower().encode())
    data = np.frombuffer(code + bytes(WORD * (1 + width)), np.uint8)
    # Offsets of characters, and of the zeros behind the text: UTF-8 continues a character with
    # bytes from 0x80 to 0xbf.
    places = np.flatnonzero((data[: len(code) + 1] & 0xC0) != 0x80)
    at_byte = np.ndarray(len(code) + 1, ">u8", data, strides=(1,))
    at_character = at_byte[places].astype(np.uint64)
    lengths = np.fromiter(map(len, keys), np.int64, len(keys)) + 2
    begins = np.cumsum(lengths) - lengths

    odd = _repetitive(at_character, places, begins, lengths, shortest)
    if FINAL in whole or DOTTED in whole:
        odd |= np.array([FINAL in key or DOTTED in key for key in keys])
    spans = np.arange(shortest, longest + 1)
    windows = np.ones((len(keys), len(spans) + 1), np.int64)  # the last column: the empty n-gram
    windows[:, :-1] = np.maximum(lengths[:, None] + 1 - spans, 0)
    windows[odd, :-1] = 0
    counts = windows[:, :-1].sum(axis=1)
    each = windows.ravel()
    starts = ranges(np.repeat(begins, windows.shape[1]), each)
    ends = starts + np.repeat(np.tile(np.append(spans, 0), len(keys)), each)
    left_out = np.append(0, np.cumsum(~_SEARCHED[data[places]]))
    if left_out[-2]:  # the last entry is of the zeros behind the text
        kept = np.flatnonzero(left_out[starts] == left_out[ends])
        starts, ends = starts[kept], ends[kept]
    sizes = places[ends] - places[starts]
    rows = Rows(*_words(at_character, at_byte, places, starts, sizes, width))
    lasts = np.flatnonzero(sizes == 0)
    if not odd.any():
        return rows, lasts, counts

    one_by_one = np.flatnonzero(odd)
    found = [_different(EDGE + keys[at] + EDGE, spans.tolist()) for at in one_by_one.tolist()]
    counts[odd] = [len(each) for each in found]
    pieces = [[gram for gram in each if not NOT_SEARCHED.search(gram)] for each in found]
    others = rows_of([gram.encode() for each in pieces for gram in each], width)
    more = np.fromiter(map(len, pieces), np.int64, len(pieces))
    before = np.repeat(lasts[one_by_one], more)
    words = np.insert(rows.words, before, others.words)
    rest = np.insert(
        rows.rest, np.searchsorted(rows.full, before[others.full]), others.rest, axis=0
    )
    shift = np.zeros(len(keys), np.int64)
    shift[one_by_one] = more
    return Rows(words, rest), lasts + np.cumsum(shift), counts


def ranges(starts: Ints, sizes: Ints) -> Ints:
    """Concatenate the ranges from each start, of each size, int64, shape (sum of sizes,)."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    numbers: Ints = np.arange(total) + np.repeat(starts - (ends - sizes), sizes)
    return numbers


def _code(text: bytes) -> bytes:
    return text.translate(_TO_CODE).replace(_LONG_EDGE, _SHORT_EDGE)


def _words(
    at_character: Words, at_byte: Words, places: Ints, starts: Ints, sizes: Ints, width: int
) -> tuple[Words, Words]:
    """Cut n-grams out of the text, and return the fields of `Rows`.

    Parameters
    ----------
    at_character, at_byte
        The word at each character, and the word at each byte.
    places
        Offset of each character in bytes.
    starts, sizes
        First character of each n-gram, and its length in bytes.
    width
        Number of words for an n-gram behind its first word.
    """
    words = at_character[starts] & _FIRST[np.minimum(sizes, WORD)]
    full = np.flatnonzero(sizes >= WORD)
    rest = np.empty((len(full), width), np.uint64)
    for at in range(width):
        left = np.clip(sizes[full] - WORD * (at + 1), 0, WORD)
        behind = np.minimum(places[starts[full]] + WORD * (at + 1), len(at_byte) - 1)
        rest[:, at] = at_byte[behind].astype(np.uint64) & _FIRST[left]
    return words, rest


def _different(text: str, spans: Sequence[int]) -> dict[str, None]:
    """Return the n-grams of one key in order, as keys of a dict; each is lower-cased by itself."""
    return {
        text[at : at + span].lower(): None for span in spans for at in range(len(text) - span + 1)
    }


def _repetitive(
    at_character: Words, places: Ints, begins: Ints, lengths: Ints, shortest: int
) -> Flags:
    """Tell which keys may have an n-gram twice, because they seem to have a shortest one twice."""
    windows = np.maximum(lengths - shortest + 1, 0)
    starts = ranges(begins, windows)
    documents = np.repeat(np.arange(len(lengths)), windows)
    sizes = np.minimum(places[starts + shortest] - places[starts], WORD)
    hashes = at_character[starts] & _FIRST[sizes]
    hashes += documents.astype(np.uint64) * FACTOR
    ordered = np.sort(hashes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    repetitive = np.zeros(len(lengths), bool)
    if len(twice):
        repetitive[documents[np.isin(hashes, twice)]] = True
    return repetitive
