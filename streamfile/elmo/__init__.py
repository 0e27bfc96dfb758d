"""ELMo models: vectors of words in context, from an options file and a weights file.

torch and h5py (extra ``elmo``) are imported only when an `Encoder` is made.
"""

from __future__ import annotations

from streamfile.elmo.encoder import Encoder, check_choices, require
from streamfile.elmo.options import read_options

__all__ = ["Encoder", "check_choices", "read_options", "require"]
