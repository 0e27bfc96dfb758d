"""The n-grams of keys that the subword table has, of many keys at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

EDGE = "\uf000"
NOT_SEARCHED = re.compile("[\0-/:-@[-`{-\x7f]")
FINAL = "Σ"  # the only letter whose lower case depends on those around it
SPACE = ord(" ")
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd and without pattern, for hashing

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Characters = npt.NDArray[np.uint32]

_SEARCHED = np.ones(0x110000, bool)
_SEARCHED[[at for at in range(0x80) if NOT_SEARCHED.match(chr(at))]] = False


@dataclass(frozen=True)
class Grams:
    """N-grams: pieces of a text.

    Attributes
    ----------
    characters
        The text, code points.
    starts, sizes
        Where each n-gram begins in it and how many characters it has, shape (n,).
    documents
        The number of the key that each belongs to, rising, shape (n,). Those of one key differ
        and are in the order of the subword table: the short ones first.
    """

    characters: Characters
    starts: Ints
    sizes: Ints
    documents: Ints

    def joined(self) -> str:
        """Give all of them with a space behind each."""
        sizes = self.sizes + 1
        text = self.characters[np.minimum(ranges(self.starts, sizes), len(self.characters) - 1)]
        text[np.cumsum(sizes) - 1] = SPACE
        return text.tobytes().decode("utf-32-le")

    def joined_by_document(self, count: int) -> list[str]:
        """Give those of each of so many keys with spaces between them."""
        text, sizes = self.joined(), np.append(0, np.cumsum(self.sizes + 1))
        each = np.cumsum(np.bincount(self.documents, minlength=count))
        ends = sizes[each].tolist()
        return [text[a : max(a, b - 1)] for a, b in zip([0, *ends], ends, strict=False)]


def searched(keys: Sequence[str], shortest: int, longest: int) -> tuple[Grams, Ints]:
    """Find what the subword table has of keys.

    Parameters
    ----------
    keys
        In any case.
    shortest, longest
        Characters of an n-gram.

    Returns
    -------
    grams
        The different n-grams of letters and digits, lower-cased.
    counts
        How many different ones there are with the others, for each key, int64, shape (n,).
    """
    texts = [EDGE + key + EDGE for key in keys]
    lowered = [text.lower() for text in texts]
    spans = range(shortest, longest + 1)
    together = zip(lowered, texts, strict=True)
    odd = np.array([len(a) != len(b) or FINAL in b for a, b in together], bool)
    characters = _code_points("".join(lowered))
    lengths = np.fromiter(map(len, lowered), np.int64, len(lowered))
    begins = np.cumsum(lengths) - lengths
    odd |= _repetitive(characters, begins, lengths, shortest)

    windows = np.maximum(lengths[:, None] + 1 - np.arange(shortest, longest + 1), 0)
    windows[odd] = 0
    counts = windows.sum(axis=1)
    each = windows.ravel()
    starts = ranges(np.repeat(begins, len(spans)), each)
    sizes = np.repeat(np.tile(np.arange(shortest, longest + 1), len(keys)), each)
    documents = np.repeat(np.arange(len(keys)), counts)
    left_out = np.append(0, np.cumsum(~_SEARCHED[characters]))
    kept = left_out[starts] == left_out[starts + sizes]
    grams = Grams(characters, starts[kept], sizes[kept], documents[kept])
    if not odd.any():
        return grams, counts

    one_by_one = np.flatnonzero(odd)
    found = [_different(texts[at], spans) for at in one_by_one.tolist()]
    counts[odd] = [len(each) for each in found]
    pieces = [[gram for gram in each if not NOT_SEARCHED.search(gram)] for each in found]
    others = np.fromiter((len(gram) for each in pieces for gram in each), np.int64)
    starts = np.cumsum(others) - others + len(characters)
    text = _code_points("".join(gram for each in pieces for gram in each))
    documents = np.repeat(one_by_one, [len(each) for each in pieces])
    documents = np.concatenate([grams.documents, documents])
    order = np.argsort(documents, kind="stable")
    return Grams(
        np.concatenate([characters, text]),
        np.concatenate([grams.starts, starts])[order],
        np.concatenate([grams.sizes, others])[order],
        documents[order],
    ), counts


def ranges(starts: Ints, sizes: Ints) -> Ints:
    """List the numbers of ranges, one range behind the other."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    numbers: Ints = np.arange(total) + np.repeat(starts - (ends - sizes), sizes)
    return numbers


def _different(text: str, spans: range) -> dict[str, None]:
    """Give the n-grams of one key, each lower-cased by itself."""
    return {
        text[at : at + span].lower(): None for span in spans for at in range(len(text) - span + 1)
    }


def _repetitive(characters: Characters, begins: Ints, lengths: Ints, shortest: int) -> Flags:
    """Tell which keys may have an n-gram twice: those that have one of the shortest twice."""
    windows = np.maximum(lengths - shortest + 1, 0)
    starts = ranges(begins, windows)
    documents = np.repeat(np.arange(len(lengths)), windows)
    hashes = documents.astype(np.uint64)
    for at in range(shortest):
        hashes = hashes * FACTOR + characters[starts + at]
        hashes ^= hashes >> np.uint64(29)
    ordered = np.sort(hashes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    repetitive = np.zeros(len(lengths), bool)
    if len(twice):
        repetitive[documents[np.isin(hashes, twice)]] = True
    return repetitive


def _code_points(text: str) -> Characters:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")
