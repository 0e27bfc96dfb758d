"""Sentences in batches: cut by length, packed so that padding costs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from streamfile._arrays import Ints

BATCH = 2048  # tokens, boundaries of sentences included
WINDOW = 4 * BATCH
BOUNDARIES = 2  # of a sentence

T = TypeVar("T")


def windows(sentences: Iterable[Sequence[T]]) -> Iterator[list[Sequence[T]]]:
    """Take sentences by the thousand tokens, in order."""
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
    """Part sentences by length, longest first, so that those of a batch are about as long.

    Yields
    ------
    list of int
        Positions of the sentences of a batch. A long sentence is a batch of its own; those
        without tokens are in none.
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
    """The order in which an LSTM takes the tokens of a batch: step by step, all sentences at once.

    Parameters
    ----------
    order
        The sentences, longest first.
    sizes
        How many sentences still go on, at each step.
    tokens
        For each direction and row, the position of its token among those of all sentences on end.
        The backward direction begins each sentence at its last token.
    last
        The row of each sentence's last step.
    """

    order: Ints
    sizes: list[int]
    tokens: tuple[Ints, Ints]
    last: Ints


def pack(lengths: Sequence[int]) -> Packing:
    """Plan a batch.

    Parameters
    ----------
    lengths
        Tokens of each sentence, at least one.

    Returns
    -------
    Packing
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
