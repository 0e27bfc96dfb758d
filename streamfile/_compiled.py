"""A compiled decoder of the usual leaf pages, where numba is installed (extra ``fast``).

numba compiles it once, and only for that it is imported: that takes longer than most scans. The
machine code is kept in the cache directory; llvmlite, which numba is made with, loads it in
milliseconds. What the compiled decoder does not take (rows that overflow their page, integers of
more than four bytes, all that is malformed) it refuses, and numpy decodes it.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from streamfile._decode import Bytes, Ints, Keys, Scratch
from streamfile._format import Floats
from vfs import KeptFile, KeptFiles, Part, VFSError

log = logging.getLogger(__name__)

Decoded = tuple[Ints, Floats, Keys]
POINTER, INTEGER = ctypes.c_void_p, ctypes.c_int64
SIGNATURE = (
    *(INTEGER, POINTER, INTEGER, POINTER, INTEGER, INTEGER, INTEGER, ctypes.c_float),
    *(POINTER, INTEGER, POINTER, POINTER, POINTER),
)
LEAST_ROW = 4  # bytes of a row without its dimensions

_lock = threading.Lock()
_known: dict[str, Callable[..., int] | None] = {}


class CompiledDecoder:
    """Decodes vectors of unit length.

    Parameters
    ----------
    function
        The machine code.
    usable
        Bytes of a page that may hold cells.
    dim, precision
        See `Format`.
    """

    def __init__(self, function: Callable[..., int], usable: int, dim: int, precision: int) -> None:
        self._function = function
        self._usable, self._dim = usable, dim
        self._scale = float(np.float32(10**precision))

    def decode(self, data: Bytes, starts: Ints, scratch: Scratch) -> Decoded | None:
        """Decode leaf pages.

        Parameters
        ----------
        data, starts
            See `Pages.block`.
        scratch
            For the vectors.

        Returns
        -------
        tuple or None
            Row ids that follow each other, vectors and keys; None if anything is unusual.
        """
        room = len(starts) * self._usable // (self._dim + LEAST_ROW)
        vectors = scratch.array("vectors", (room, self._dim), "f4")
        rowids, begins, ends = scratch.array("rows", (3, room), "i8")
        starts = np.ascontiguousarray(starts, np.int64)
        count = self._function(
            *(data.ctypes.data, len(data), starts.ctypes.data, len(starts)),
            *(self._usable, self._dim, self._scale, vectors.ctypes.data, room),
            *(rowids.ctypes.data, begins.ctypes.data, ends.ctypes.data),
        )
        if count <= 0:
            return None
        return rowids[:count], vectors[:count], Keys(data, begins[:count], ends[:count])


def compiled(files: KeptFiles | None) -> Callable[..., int] | None:
    """Load the machine code.

    Parameters
    ----------
    files
        Where it is kept; without such a place nothing is compiled.

    Returns
    -------
    callable or None
        `_decode_pages` for pointers; None if that is not possible.
    """
    if files is None:
        return None
    with _lock:
        try:
            import llvmlite.binding as llvm
        except ImportError:
            return None
        source = Path(__file__).read_bytes()
        machine = (llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())
        told = repr((source, machine, llvm.llvm_version_info, llvm.get_process_triple()))
        name = hashlib.sha256(told.encode()).digest()[:16]
        if name.hex() not in _known:
            try:
                with files.make(name, 0, _build) as file:
                    _known[name.hex()] = _load(file)
            except (ImportError, VFSError, OSError) as failure:
                log.info("no compiled decoder: %s", failure)
                _known[name.hex()] = None
        return _known[name.hex()]


def _load(file: KeptFile) -> Callable[..., int] | None:
    import llvmlite.binding as llvm

    told = file.path.stat()
    if told.st_uid != os.getuid() or stat.S_IMODE(told.st_mode) & 0o022:
        log.warning("%s: not run: others could have written it", file.path)
        return None
    name, code = file.path.read_bytes().split(b"\0", 1)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    function: Any = ctypes.CFUNCTYPE(*SIGNATURE)(engine.get_function_address(name.decode()))
    function.engine = engine  # it owns the code
    return function  # type: ignore[no-any-return]


def _build(part: Part) -> None:
    import llvmlite.binding as llvm
    import numba
    from numba.extending import register_jitable

    register_jitable(_read_varint)
    types: Any = numba.types
    bytes_, longs = types.CPointer(types.uint8), types.CPointer(types.int64)
    signature = types.int64(
        *(bytes_, types.int64, longs, types.int64, types.int64, types.int64, types.float32),
        *(types.CPointer(types.float32), types.int64, longs, longs, longs),
    )
    function: Any = numba.cfunc(signature, error_model="numpy")(_decode_pages)
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="small",
    )
    code = machine.emit_object(llvm.parse_assembly(function.inspect_llvm()))
    content = function._wrapper_name.encode() + b"\0" + code
    part.reserve(len(content))
    os.pwrite(part.file, content, 0)


def _read_varint(data: Any, at: int) -> tuple[int, int]:
    """Decode a varint of up to eight bytes; a longer one gives -1."""
    value = 0
    for _ in range(8):
        byte = data[at]
        at += 1
        value = value << 7 | byte & 127
        if byte < 128:
            return value, at
    return -1, at


def _decode_pages(
    data: Any,
    size: int,
    starts: Any,
    pages: int,
    usable: int,
    dim: int,
    scale: float,
    vectors: Any,
    room: int,
    rowids: Any,
    begins: Any,
    ends: Any,
) -> int:
    """Decode leaf pages, given as pointers: the number of rows, or -1 for anything unusual."""
    count = 0
    for page in range(pages):
        base = starts[page]
        if base < 0 or base + usable > size - 18 or data[base] != 13:
            return -1
        cells = data[base + 3] << 8 | data[base + 4]
        if 8 + 2 * cells > usable:
            return -1
        edge = base + usable  # each cell ends where the one before it begins, or earlier
        for cell in range(cells):
            pointer = base + 8 + 2 * cell
            begin = base + (data[pointer] << 8 | data[pointer + 1])
            if begin + 4 > edge or count >= room:
                return -1
            length, at = _read_varint(data, begin)
            if length < 0 or length > usable - 35:
                return -1
            rowid, start = _read_varint(data, at)
            end = start + length
            if rowid < 0 or end > edge or (count and rowid != rowids[count - 1] + 1):
                return -1
            header, at = _read_varint(data, start)
            key_type, at = _read_varint(data, at)
            body = start + header
            if at + dim + 1 != body or key_type < 13 or key_type % 2 == 0:
                return -1
            value = body + (key_type - 13) // 2
            kind = data[body - 1]
            if value > end or kind > 9:
                return -1
            rowids[count] = rowid
            begins[count] = body
            ends[count] = value
            last = end
            if kind < 5:
                last -= kind
            elif kind == 5:
                last -= 6
            elif kind < 8:
                last -= 8
            total, constants, unusual = 0, 0, 0
            for column in range(dim):
                code = data[at + column]
                constant = (code == 8) | (code == 9)
                constants |= constant
                unusual |= ((code < 1) | (code > 4)) & (not constant)
                total += 0 if constant else code
            if unusual or value + total != last:
                return -1
            out = count * dim
            for column in range(dim):
                code = data[at + column]
                if constants and code >= 8:
                    vectors[out + column] = np.float32(code - 8)
                    continue
                word = (  # one load of eight bytes
                    data[value] << 56
                    | data[value + 1] << 48
                    | data[value + 2] << 40
                    | data[value + 3] << 32
                    | data[value + 4] << 24
                    | data[value + 5] << 16
                    | data[value + 6] << 8
                    | data[value + 7]
                )
                vectors[out + column] = np.float32(np.int64(word) >> np.int64(64 - 8 * code))
                value += code
            for column in range(out, out + dim):  # many at once, unlike those before it
                vectors[column] /= scale
            edge = begin
            count += 1
    return count
