"""Options of a model, from a JSON file as bilm-tf writes it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamfile.errors import FormatError, PathError

MOST_JSON = 1 << 20  # bytes
MOST_SIZE = 1 << 16  # limit of dimensions, of characters and of numbers of filters
MOST_LISTED = 64  # limit of the numbers of layers and of kinds of filters
LEAST_CHARACTERS = 4  # begin, one byte, end, padding
ALPHABET = 261  # 256 bytes, 4 boundaries, padding

Json = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """The sizes of a model (Peters et al., 2018, "Deep contextualized word representations").

    Attributes
    ----------
    dim
        Number of dimensions of an LSTM's memory cell.
    projection_dim
        Number of dimensions of an LSTM's output, and of layer 0.
    n_layers
        Number of LSTM layers in each direction.
    cell_clip, proj_clip
        Limits of the absolute values of memory cells and of outputs, None for no limit.
    use_skip_connections
        Whether the input of each LSTM layer but the lowest is added to its output.
    character_dim
        Number of dimensions of a character's vector.
    filters
        (width in characters, number of filters) of each kind of filter.
    n_highway
        Number of highway layers above the filters.
    activation
        Activation function of the filters, ``relu`` or ``tanh``.
    max_characters
        Greatest number of characters of a token, its two boundaries included.
    """

    dim: int
    projection_dim: int
    n_layers: int
    cell_clip: float | None
    proj_clip: float | None
    use_skip_connections: bool
    character_dim: int
    filters: tuple[tuple[int, int], ...]
    n_highway: int
    activation: str
    max_characters: int

    @property
    def n_filters(self) -> int:
        """Number of filters of all kinds together."""
        return sum(count for _, count in self.filters)


def read_options(path: Path) -> Options:
    """Read and check an options file.

    Parameters
    ----------
    path
        Path of a JSON file.

    Raises
    ------
    FormatError
        The file is no JSON, or an option is missing or has an impossible value.
    PathError
        The file does not exist.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_JSON + 1)
    except FileNotFoundError as failure:
        raise PathError(f"no ELMo options file at {path}") from failure
    try:
        if len(data) > MOST_JSON:
            raise FormatError(f"more than {MOST_JSON} bytes, where a few hundred are expected")
        return _parse(data)
    except FormatError as failure:
        raise FormatError(f"{path} holds no options of an ELMo model: {failure}") from failure


def _parse(data: bytes) -> Options:
    try:
        options = json.loads(data)
    except (ValueError, RecursionError) as failure:
        raise FormatError(f"no JSON ({failure}); it begins with {data[:20]!r}") from failure
    lstm = _get(options, "lstm", dict)
    cnn = _get(options, "char_cnn", dict)
    max_characters = _size(cnn, "max_characters_per_token", LEAST_CHARACTERS)
    # bilm-tf's n_characters includes the mask when a trained model is used, but not in training.
    if (found := _size(cnn, "n_characters", 1)) not in (ALPHABET, ALPHABET + 1):
        raise FormatError(f"n_characters must be {ALPHABET + 1} or {ALPHABET}, not {found}")
    if (activation := _get(cnn, "activation", str)) not in ("relu", "tanh"):
        raise FormatError(f"activation must be 'relu' or 'tanh', not {activation!r:.40}")
    return Options(
        dim=_size(lstm, "dim", 1),
        projection_dim=_size(lstm, "projection_dim", 1),
        n_layers=_size(lstm, "n_layers", 1, MOST_LISTED),
        cell_clip=_clip(lstm, "cell_clip"),
        proj_clip=_clip(lstm, "proj_clip"),
        use_skip_connections=_get(lstm, "use_skip_connections", bool),
        character_dim=_size(_get(cnn, "embedding", dict), "dim", 1),
        filters=_filters(_get(cnn, "filters", list), max_characters),
        n_highway=_size(cnn, "n_highway", 0, MOST_LISTED),
        activation=activation,
        max_characters=max_characters,
    )


def _get(options: Any, name: str, kind: type) -> Any:
    if not isinstance(options, dict) or name not in options:
        raise FormatError(f"{name} is missing")
    if type(options[name]) is not kind:
        raise FormatError(f"{name} must be of type {kind.__name__}, not {options[name]!r:.40}")
    return options[name]


def _size(options: Json, name: str, least: int, most: int = MOST_SIZE) -> int:
    size: int = _get(options, name, int)
    if not least <= size <= most:
        raise FormatError(f"{name} must be from {least} to {most}, not {str(size)[:40]}")
    return size


def _clip(options: Json, name: str) -> float | None:
    clip = options.get(name)
    if clip is None or (type(clip) in (int, float) and clip == 0):
        return None
    if type(clip) not in (int, float) or not 0 < clip < math.inf:
        raise FormatError(f"{name} must be a positive number or null, not {clip!r:.40}")
    return float(clip)


def _filters(filters: list[Any], max_characters: int) -> tuple[tuple[int, int], ...]:
    if not 1 <= len(filters) <= MOST_LISTED:
        raise FormatError(f"filters must be 1 to {MOST_LISTED}, not {len(filters)}")
    found = []
    for entry in filters:
        if not isinstance(entry, list) or [type(number) for number in entry] != [int, int]:
            raise FormatError(f"each of filters must be [width, number], not {entry!r:.40}")
        width, count = entry
        if not (1 <= width <= max_characters and 1 <= count <= MOST_SIZE):
            raise FormatError(
                f"each of filters must be [1 to {max_characters} characters, 1 to {MOST_SIZE}], "
                f"not {entry!r:.40}"
            )
        found.append((width, count))
    return tuple(found)
