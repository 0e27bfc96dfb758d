"""Word vectors of ``.magnitude`` files, local or streamed from any web server."""

from __future__ import annotations

from streamfile import models
from streamfile.errors import (
    ArgumentError,
    ExistsError,
    FormatError,
    NoIndexError,
    PathError,
    StreamfileError,
)
from streamfile.magnitude.featurizer import FeaturizerMagnitude
from streamfile.magnitude.magnitude import Magnitude
from streamfile.magnitude.utils import MagnitudeUtils
from streamfile.tools.convert import Converted, convert
from streamfile.tools.info import Info, info
from streamfile.tools.repack import repack
from streamfile.tools.route import route

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
