"""ELMo's tokens a second, ours beside AllenNLP's: `python benchmarks/elmo.py [rounds]`.

Models have the sizes of the published ones and random weights. Sentences have 10 to 30 words of the
bundled sample, drawn as often as words are in text (Zipf's law). A round computes the same
sentences in each way; a number is the median of the rounds, a ratio that of the rounds' ratios.
*Fresh*: no token's layer 0 is known; *known*: every one is. Then, in processes of their own, the
time from the start to the first sentence's vectors, beside importing torch and reading the weights.
AllenNLP's wheel (no dependencies) is downloaded on the first run; it and the weights are kept in a
folder under the temporary directory.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamfile import Magnitude
from streamfile.elmo import Encoder

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
import allennlp_stubs
from elmo_files import published, write_model

FOLDER = Path(tempfile.gettempdir()) / "streamfile-benchmarks"
SAMPLE = Path(__file__).parents[1] / "streamfile/sample/glove.6B.50d.5k.magnitude"
ROUNDS = 7
SIZES = {"small, 2x1024_128": (1024, 128, 1), "original, 2x4096_512": (4096, 512, 2)}
# Model and sentences: least ratio with fresh tokens, and with known ones
TARGETS = {
    ("small, 2x1024_128", 1): (2.0, 4.5),
    ("small, 2x1024_128", 32): (5.0, 8.0),
    ("original, 2x4096_512", 1): (3.5, 4.3),
    ("original, 2x4096_512", 32): (4.0, 4.5),
}
# What is measured: the encoder.
WAYS = {
    "AllenNLP": "allennlp",
    "fresh": "float32",
    "known": "float32",
    "bfloat16, fresh": "bfloat16",
    "bfloat16, known": "bfloat16",
}
CALLS = 10  # with a sentence each
# Seconds of the same before, in which the threads of the library that was measured last go to
# sleep and the processor gets up to speed.
WARM = 0.2

READING = """
import sys, h5py, torch
with h5py.File(sys.argv[2]) as file:
    found = []
    file.visit(lambda name: found.append(file[name][()] if hasattr(file[name], "shape") else 0))
"""
ENCODING = """
import sys
from streamfile.elmo import Encoder
next(Encoder(*sys.argv[1:]).embed(["The cat sat on the mat and looked at the dog .".split()]))
"""

Sentences = list[list[str]]
Floats = NDArray[np.float32]


class Text:
    """Draws sentences.

    Parameters
    ----------
    words : sequence of str
        The most frequent ones first.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._random = np.random.default_rng(0)
        frequencies = 1 / np.arange(1, len(words) + 1)
        self._shares = frequencies / frequencies.sum()

    def draw(self, count: int) -> Sentences:
        """Give sentences whose lengths are 20 in the mean."""
        lengths = self._random.integers(10, 31, count) if count > 1 else [20]
        return [
            [self._words[at] for at in self._random.choice(len(self._words), size, p=self._shares)]
            for size in lengths
        ]


def forget(encoder: Encoder) -> None:
    """Make every token fresh again."""
    encoder._model._known = encoder._model._nothing_known()  # type: ignore[attr-defined]


def timed(encoder: Encoder, calls: list[Sentences], way: str) -> tuple[float, Floats]:
    """Compute, and give the seconds that it took and all vectors."""
    if way.endswith("known"):
        for sentences in calls:
            list(encoder.embed(sentences))
    warm = time.perf_counter() + WARM
    while time.perf_counter() < warm:
        list(encoder.embed(calls[0][:1]))
    found: list[Floats] = []
    start = time.perf_counter()
    for sentences in calls:
        if way.endswith("fresh"):
            forget(encoder)
        found += encoder.embed(sentences)
    return time.perf_counter() - start, np.concatenate(found)


def loss(vectors: Floats, right: Floats) -> tuple[float, float]:
    """Give the mean and the least cosine."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(right, axis=1)
    cosines = (vectors * right).sum(axis=1, dtype=np.float64) / norms
    return float(cosines.mean()), float(cosines.min())


def compare(size: str, count: int, encoders: dict[str, Encoder], text: Text, rounds: int) -> None:
    """Measure and print the rows of a model and a number of sentences."""
    times: dict[str, list[float]] = {}
    cosines, apart = [], 0.0
    for at in range(rounds + 1):
        calls = [text.draw(count) for _ in range(CALLS if count == 1 else 1)]
        tokens = sum(len(sentence) for sentences in calls for sentence in sentences)
        found: dict[str, Floats] = {}
        for way, name in WAYS.items():
            seconds, found[way] = timed(encoders[name], calls, way)
            if at:  # the first round is to warm up
                times.setdefault(way, []).append(tokens / seconds)
        apart = max(apart, float(np.abs(found["fresh"] - found["AllenNLP"]).max()))
        cosines.append(loss(found["bfloat16, known"], found["known"]))
    print(f"{size}, {count} sentence{'s' * (count > 1)}: furthest from AllenNLP {apart:.1e}")
    for way, rates in times.items():
        ratios = [a / b for a, b in zip(rates, times["AllenNLP"], strict=True)]
        line = f"    {way:16} {statistics.median(rates):8,.0f} tokens/s"
        if way != "AllenNLP":
            line += f"  {statistics.median(ratios):5.2f} x ({min(ratios):.2f} to {max(ratios):.2f}"
            if way in ("fresh", "known"):
                line += f"; target >= {TARGETS[size, count][way == 'known']}"
            line += ")"
        print(line, flush=True)
    print(
        f"    bfloat16's cosine with float32: mean {np.mean([mean for mean, _ in cosines]):.6f}, "
        f"least {min(least for _, least in cosines):.6f}"
    )


def first(size: str, paths: Sequence[Path], rounds: int) -> None:
    """Measure how long a new process takes, beside the least that it could do."""
    found: dict[str, list[float]] = {READING: [], ENCODING: []}
    for _ in range(rounds):
        for code, times in found.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True)
            times.append(time.perf_counter() - start)
    ratio = statistics.median(a / b for a, b in zip(found[ENCODING], found[READING], strict=True))
    print(
        f"{size}, a process to its first vectors: {statistics.median(found[ENCODING]):.2f} s; "
        f"one that imports torch and reads the weights: "
        f"{statistics.median(found[READING]):.2f} s; ratio {ratio:.2f} (target <= 2)"
    )


def main() -> None:
    """Print all rows."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    FOLDER.mkdir(exist_ok=True)
    warnings.filterwarnings("ignore", module="allennlp")
    allennlp_stubs.use(allennlp_stubs.install(FOLDER / f"allennlp-{allennlp_stubs.VERSION}"))
    with Magnitude(SAMPLE) as sample:
        text = Text([sample[at][0] for at in range(len(sample))])
    for size, numbers in SIZES.items():
        paths = write_model(FOLDER / f"elmo.{numbers[0]}", published(*numbers))
        encoders = {
            "allennlp": Encoder(*paths, backend="allennlp"),
            "float32": Encoder(*paths),
            "bfloat16": Encoder(*paths, precision="bfloat16"),
        }
        for count in (1, 32):
            compare(size, count, encoders, text, rounds)
        first(size, paths, rounds)


if __name__ == "__main__":
    main()
