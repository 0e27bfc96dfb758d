"""Word vectors of ``.magnitude`` files, local or streamed from any web server."""

from __future__ import annotations

from streamfile import models
from streamfile._convert import Converted, convert
from streamfile._featurizer import FeaturizerMagnitude
from streamfile._info import Info, info
from streamfile._magnitude import Magnitude
from streamfile._repack import repack
from streamfile._route import route
from streamfile._utils import MagnitudeUtils
from streamfile.errors import (
    ArgumentError,
    ExistsError,
    FormatError,
    NoIndexError,
    PathError,
    StreamfileError,
)

__all__ = [
    "ArgumentError",
    "Converted",
    "ExistsError",
    "FeaturizerMagnitude",
    "FormatError",
    "Info",
    "Magnitude",
    "MagnitudeUtils",
    "NoIndexError",
    "PathError",
    "StreamfileError",
    "convert",
    "info",
    "models",
    "repack",
    "route",
]

__version__ = "0.1.0"
