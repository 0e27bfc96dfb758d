"""Words and sentences for small ELMo files, and how their vectors are compared."""

import numpy as np

KEYS = ["the", "cat", "sat", "Dog", "mat", "cats"]
SENTENCE = ["the", "quick", "cat", "sat", "down"]
BATCH = [SENTENCE, ["dog"], ["the", "mat", "quick"]]
LAYERS, LAYER_DIM = 3, 16
DIM = LAYERS * LAYER_DIM


def close(got, expected, *, atol=1e-5):
    """Compare vectors: what a sentence is batched with changes them by rounding."""
    assert got.dtype == np.float32
    assert got.shape == np.shape(expected)
    np.testing.assert_allclose(got, expected, atol=atol, rtol=0)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
