"""Word vectors of ``.magnitude`` files, local or streamed from any web server."""

from __future__ import annotations

from streamfile._magnitude import Magnitude
from streamfile.errors import ArgumentError, FormatError, PathError, StreamfileError

__all__ = ["ArgumentError", "FormatError", "Magnitude", "PathError", "StreamfileError"]

__version__ = "0.1.0"
