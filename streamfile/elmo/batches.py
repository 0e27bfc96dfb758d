"""Batches of sentences of similar length, packed without padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from streamfile._arrays import Ints

BATCH = 2048  # tokens of a batch, boundaries of sentences included
WINDOW = 4 * BATCH  # tokens
BOUNDARIES = 2  # boundaries of each sentence

T = TypeVar("T")


def windows(sentences: Iterable[Sequence[T]]) -> Iterator[list[Sequence[T]]]:
    """Yield lists of consecutive sentences with about `WINDOW` tokens each."""
    window: list[Sequence[T]] = []
    size = 0
    for sentence in sentences:
        window.append(sentence)
        size += len(sentence) + BOUNDARIES
        if size >= WINDOW:
            yield window
            window, size = [], 0
    if window:
        yield window


def batches(sentences: Sequence[Sequence[T]]) -> Iterator[list[int]]:
    """Divide sentences into batches of similar length, the longest sentences first.

    Yields
    ------
    list of int
        Positions of the sentences of a batch. A long sentence is a batch of its own. Sentences
        without tokens are in no batch.
    """
    batch: list[int] = []
    size = 0
    for at in sorted(range(len(sentences)), key=lambda at: -len(sentences[at])):
        length = len(sentences[at]) + BOUNDARIES
        if batch and size + length > BATCH:
            yield batch
            batch, size = [], 0
        if length > BOUNDARIES:
            batch.append(at)
            size += length
    if batch:
        yield batch


@dataclass(frozen=True)
class Packing:
    """The order in which an LSTM reads the tokens of a batch: one token of each sentence a step.

    Attributes
    ----------
    order
        Positions of the sentences, the longest first, int64, shape (sentences,).
    sizes
        Number of sentences that have a token at each step.
    tokens
        For each direction, the position of each row's token in the concatenated sentences, int64,
        shape (rows,). The backward direction begins each sentence at its last token.
    last
        Row of each sentence's last step, int64, shape (sentences,), in the order of `order`.
    """

    order: Ints
    sizes: list[int]
    tokens: tuple[Ints, Ints]
    last: Ints


def pack(lengths: Sequence[int]) -> Packing:
    """Compute the packing of a batch.

    Parameters
    ----------
    lengths
        Number of tokens of each sentence, at least 1.
    """
    given = np.asarray(lengths, np.int64)
    starts = np.cumsum(given) - given
    order = np.argsort(-given, kind="stable")
    lengths_, starts = given[order], starts[order]
    steps = np.arange(lengths_[0])[:, None]
    going = steps < lengths_
    sizes = going.sum(axis=1)
    forward = (starts + steps)[going]
    backward = (starts + lengths_ - 1 - steps)[going]
    begins = np.cumsum(sizes) - sizes
    last = begins[lengths_ - 1] + np.arange(len(order))
    return Packing(order, sizes.tolist(), (forward, backward), last)
