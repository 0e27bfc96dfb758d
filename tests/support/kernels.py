"""Machine code of kernels, for tests of what is compiled."""

import needed

from streamfile._jit import compiled
from vfs.cache.kept_files import KeptFiles


def machine_code(kernel, folder):
    """Compile a kernel, once for each folder."""
    needed.module("numba")
    function = compiled(kernel, KeptFiles(folder / "cache", 64 << 20))
    assert function is not None
    return function
