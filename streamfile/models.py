"""The ELMo models that are published as ``.magnitude`` files.

The names are those of the list in pymagnitude's ELMo.md.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MODELS", "Model"]

GOOGLE_NEWS = "Google News"
NEWS = "1 Billion Word Benchmark"
WIKIPEDIA = "Wikipedia + WMT 2008-2012"
LAYERS = 3  # that of characters, and two LSTMs'


@dataclass(frozen=True)
class Model:
    """A published file.

    Attributes
    ----------
    name : str
        What `streamfile.Magnitude` takes.
    flavour : str
        ``light``, ``medium`` or ``heavy``: those with a vocabulary search by spelling from
        ``medium`` on, and have an approximate index if ``heavy``.
    size : str
        ``small``, ``medium`` or ``original``.
    corpus : str
        What the model was trained on.
    vocabulary : str or None
        Whose words the file has vectors of; None: it holds the model alone.
    dim : int
        Dimensions of a vector, all layers together.
    layers : int
        Layers of a vector.
    """

    name: str
    flavour: str
    size: str
    corpus: str
    vocabulary: str | None
    dim: int
    layers: int = LAYERS


# Size, corpus, dimensions, and what the file is named after.
_TRAINED = (
    ("small", NEWS, 768, "2x1024_128_2048cnn_1xhighway"),
    ("medium", NEWS, 1536, "2x2048_256_2048cnn_1xhighway"),
    ("original", NEWS, 3072, "2x4096_512_2048cnn_2xhighway"),
    ("original", WIKIPEDIA, 3072, "2x4096_512_2048cnn_2xhighway_5.5B"),
)

MODELS: tuple[Model, ...] = tuple(
    Model(f"elmo/{flavour}/elmo_{stem}_weights{suffix}", flavour, size, corpus, vocabulary, dim)
    for size, corpus, dim, stem in _TRAINED
    for vocabulary, suffix in ((None, ""), (GOOGLE_NEWS, "_GoogleNews_vocab"))
    for flavour in ("light", "medium", "heavy")
)
