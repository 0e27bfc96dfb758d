"""Types of numpy arrays, and scaling of vectors to unit length."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def unit(vectors: Doubles) -> Doubles:
    """Scale vectors to unit length; vectors of length 0 stay the same."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    answer: Doubles = vectors / np.where(lengths == 0, 1, lengths)
    return answer
