"""Word vectors of ``.magnitude`` files, local or streamed from a web server."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamfile.errors import (
    ArgumentError,
    ExistsError,
    FormatError,
    NoIndexError,
    PathError,
    StreamfileError,
)

if TYPE_CHECKING:
    from streamfile import models
    from streamfile.magnitude.concatenated import ConcatenatedMagnitude
    from streamfile.magnitude.featurizer import FeaturizerMagnitude
    from streamfile.magnitude.magnitude import Magnitude
    from streamfile.magnitude.model import VectorModel
    from streamfile.magnitude.utils import MagnitudeUtils
    from streamfile.tools.convert import Converted, convert
    from streamfile.tools.info import Info, info
    from streamfile.tools.repack import repack
    from streamfile.tools.route import route

__all__ = [
    "ArgumentError",
    "ConcatenatedMagnitude",
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
    "VectorModel",
    "convert",
    "info",
    "models",
    "repack",
    "route",
]

__version__ = "0.1.0"

_MODULES = {
    "ConcatenatedMagnitude": "streamfile.magnitude.concatenated",
    "Converted": "streamfile.tools.convert",
    "FeaturizerMagnitude": "streamfile.magnitude.featurizer",
    "Info": "streamfile.tools.info",
    "Magnitude": "streamfile.magnitude.magnitude",
    "MagnitudeUtils": "streamfile.magnitude.utils",
    "VectorModel": "streamfile.magnitude.model",
    "convert": "streamfile.tools.convert",
    "info": "streamfile.tools.info",
    "repack": "streamfile.tools.repack",
    "route": "streamfile.tools.route",
}


def __getattr__(name: str) -> Any:
    """Import the module of a public name when the name is first used (PEP 562)."""
    if name == "models":
        return import_module("streamfile.models")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_MODULES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
