"""ELMo models computed by AllenNLP, if it is installed (extra ``allennlp``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from allennlp.modules.elmo import _ElmoBiLm, batch_to_ids

from streamfile.elmo.options import Options
from streamfile.elmo.weights import open_weights
from streamfile.errors import ArgumentError

MOST_CHARACTERS = 50
BEGIN = 1  # tokens before a sentence's first token


class AllenNLPModel:
    """A model that AllenNLP computes, one batch at a time.

    Parameters
    ----------
    options_path, weights_path
        Paths of the options and of the weights.
    options
        Content of the options file.
    device
        Device that computes.

    Raises
    ------
    ArgumentError
        AllenNLP does not support such options.
    """

    def __init__(
        self, options_path: Path, weights_path: Path, options: Options, device: torch.device
    ) -> None:
        if not options.use_skip_connections or options.max_characters != MOST_CHARACTERS:
            raise ArgumentError(
                "AllenNLP wants use_skip_connections true and max_characters_per_token "
                f"{MOST_CHARACTERS}; use backend='torch'"
            )
        with open_weights(weights_path, options):
            pass
        self._model = _ElmoBiLm(str(options_path), str(weights_path)).to(device)
        self._device = device

    def encode(self, sentences: Sequence[Sequence[str]]) -> list[npt.NDArray[np.float32]]:
        """Compute the vectors of a batch, each sentence from zero states.

        Parameters
        ----------
        sentences
            Tokens of each sentence, at least one.

        Returns
        -------
        list of ndarray
            Vectors of each sentence, float32, shape (tokens, layers * dim).
        """
        self._model._elmo_lstm.reset_states()
        with torch.inference_mode():
            layers = self._model(batch_to_ids(sentences).to(self._device))["activations"]
            joined = torch.cat(layers, -1).cpu().numpy()
        return [
            found[BEGIN : BEGIN + len(sentence)].copy()
            for found, sentence in zip(joined, sentences, strict=True)
        ]
