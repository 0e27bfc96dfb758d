"""Word vectors of ``.magnitude`` files, local or streamed from any web server."""

from __future__ import annotations

from streamfile import models
from streamfile._featurizer import FeaturizerMagnitude
from streamfile._magnitude import Magnitude
from streamfile._utils import MagnitudeUtils
from streamfile.errors import (
    ArgumentError,
    FormatError,
    NoIndexError,
    PathError,
    StreamfileError,
)

__all__ = [
    "ArgumentError",
    "FeaturizerMagnitude",
    "FormatError",
    "Magnitude",
    "MagnitudeUtils",
    "NoIndexError",
    "PathError",
    "StreamfileError",
    "models",
]

__version__ = "0.1.0"
