"""List of the ELMo models that are published as ``.magnitude`` files.

The names are from the list in pymagnitude's ELMo.md.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MODELS", "Model"]

GOOGLE_NEWS = "Google News"
NEWS = "1 Billion Word Benchmark"
WIKIPEDIA = "Wikipedia + WMT 2008-2012"
LAYERS = 3  # the character layer and two LSTM layers


@dataclass(frozen=True)
class Model:
    """A published ELMo model.

    Attributes
    ----------
    name : str
        Name of the model, an argument for `streamfile.Magnitude`.
    flavour : str
        ``light``, ``medium`` or ``heavy``. With a vocabulary, a ``medium`` or ``heavy`` file has
        an index of n-grams, and a ``heavy`` file an index of approximate neighbours too.
    size : str
        Size of the model: ``small``, ``medium`` or ``original``.
    corpus : str
        Corpus that the model was trained on.
    vocabulary : str or None
        Name of the vocabulary whose words have stored vectors; None if the file has only the
        model.
    dim : int
        Number of dimensions of a vector, all layers together.
    layers : int
        Number of layers of a vector.
    """

    name: str
    flavour: str
    size: str
    corpus: str
    vocabulary: str | None
    dim: int
    layers: int = LAYERS


# Size, corpus, dimensions, and the part of the file name that is the model's.
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
