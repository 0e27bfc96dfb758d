"""Machine code for the longest loops, if numba is installed (extra ``fast``).

numba compiles a function once, and the cache directory keeps the machine code. Later processes
load it with llvmlite in milliseconds and do not import numba, whose import takes longer than most
scans. Without numba, numpy code does the same work.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vfs.cache.directory import default_kept_files
from vfs.cache.kept_file import KeptFile
from vfs.cache.kept_files import KeptFiles
from vfs.cache.locks import Patience
from vfs.cache.unfinished_file import Part
from vfs.deadline import carried, current
from vfs.errors import VFSError
from vfs.forks import ForkLock, native

log = logging.getLogger(__name__)

NUMBERS: dict[str, Any] = {
    "int64": ctypes.c_int64,
    "float32": ctypes.c_float,
    "float64": ctypes.c_double,
}

_lock = ForkLock()
_known: dict[str, Callable[..., int] | None] = {}


class Kernel:
    """A function that can be compiled to machine code.

    Parameters
    ----------
    function
        Function of pointers and numbers that returns an integer. It depends only on its module.
    arguments
        Types of the arguments, in numba's names; a pointer's type ends with a star.
    helpers
        Functions of the module that `function` calls.
    """

    def __init__(
        self,
        function: Callable[..., int],
        *arguments: str,
        helpers: tuple[Callable[..., Any], ...] = (),
    ) -> None:
        self.function, self.arguments, self.helpers = function, arguments, helpers

    @property
    def source(self) -> bytes:
        """Source text of the function's module and of this module."""
        paths = (inspect.getfile(self.function), __file__)
        return b"".join(Path(path).read_bytes() for path in paths)


def compiled(kernel: Kernel, files: KeptFiles | None) -> Callable[..., int] | None:
    """Load the machine code of a kernel; compile the kernel first if the code is not kept.

    Parameters
    ----------
    kernel
        The kernel.
    files
        Kept files that the machine code belongs to; if None, nothing is compiled.

    Returns
    -------
    callable or None
        The compiled function, which takes addresses in place of pointers; None if it cannot be
        compiled or loaded.
    """
    if files is None:
        return None
    with _lock:
        try:
            import llvmlite.binding as llvm
        except ImportError:
            return None
        machine = (llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())
        told = repr((kernel.source, machine, llvm.llvm_version_info, llvm.get_process_triple()))
        name = hashlib.sha256(told.encode()).digest()[:16]
        if name.hex() not in _known:
            try:
                # Without machine code the call goes on too: it does not wait for a stopped process.
                with (
                    carried(Patience(current())),
                    files.make(name, 0, lambda part: _build(kernel, part)) as file,
                    native,
                ):
                    _known[name.hex()] = _load(kernel, file)
            except (ImportError, VFSError, OSError) as failure:
                log.info("no compiled code: %s", failure)
                _known[name.hex()] = None
        return _known[name.hex()]


def compiled_by_default(kernel: Kernel) -> Callable[..., int] | None:
    """Load machine code from the default cache directory, see `compiled`."""
    try:
        return compiled(kernel, default_kept_files())
    except VFSError as failure:  # the same error is raised when a file is opened
        log.info("no compiled code: %s", failure)
        return None


def _load(kernel: Kernel, file: KeptFile) -> Callable[..., int] | None:
    import llvmlite.binding as llvm

    if file.others_can_write():
        log.warning("%s: not run: others could have written it", file.path)
        return None
    name, code = file.read().split(b"\0", 1)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    kinds = (NUMBERS.get(argument, ctypes.c_void_p) for argument in kernel.arguments)
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)
    function: Any = prototype(engine.get_function_address(name.decode()))
    function.engine = engine  # the engine owns the code
    return function  # type: ignore[no-any-return]


def _build(kernel: Kernel, part: Part) -> None:
    with native:  # LLVM has locks of its own
        content = _compile(kernel)
    part.reserve(len(content))
    part.write(content, 0)


def _compile(kernel: Kernel) -> bytes:
    """Compile a kernel to the name of its function, a NUL and the machine code."""
    import llvmlite.binding as llvm
    import numba
    from numba.extending import register_jitable

    for helper in kernel.helpers:
        register_jitable(helper)
    types: Any = numba.types
    arguments = [
        types.CPointer(getattr(types, argument[:-1]))
        if argument.endswith("*")
        else getattr(types, argument)
        for argument in kernel.arguments
    ]
    function: Any = numba.cfunc(types.int64(*arguments), error_model="numpy")(kernel.function)
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="small",
    )
    code = machine.emit_object(llvm.parse_assembly(function.inspect_llvm()))
    return bytes(function._wrapper_name.encode() + b"\0" + code)
