"""Arrays of an agent: numbers and truth values only, in memory of the size of the file.

A header says how large an array is; it is believed only where the bytes are there. Values may be
NaN or infinite: that is for the caller to look at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlagents.envs.sandbox.files import UnsafeFile
from rlagents.envs.sandbox.reading.archives import Limits, unzip
from rlagents.envs.sandbox.reading.documents import json_value

if TYPE_CHECKING:
    import numpy as np

_HEADER_BYTES = 2**20
_MAX_DIMENSIONS = 32
_NPY = re.compile(
    r"\{'descr': '([<>|=]?)([biufc])(\d{1,2})', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), ?\}\s*"
)
"""What every NumPy since 1.0 writes for plain types. It is no Python to us, because a header of
brackets exhausts the memory or the stack of Python's own parser."""
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}
_TENSORS = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U64": "u8",
    "U32": "u4",
    "U16": "u2",
    "U8": "u1",
    "BOOL": "b1",
    "C64": "c8",
    "BF16": "u2",
}


def npy(data: bytes) -> np.ndarray:
    """The array of a `.npy` file, read-only.

    Raises:
        UnsafeFile: broken, other than as long as its header says, or of objects, structures,
            texts or dates.
    """
    version, width = data[6:8], 2 if data[6:7] == b"\1" else 4
    if data[:6] != b"\x93NUMPY" or version not in (b"\1\0", b"\2\0", b"\3\0"):
        raise UnsafeFile("not a .npy file")
    begin = 8 + width
    end = begin + int.from_bytes(data[8:begin], "little")
    if len(data) < begin or end > len(data) or end - begin > 10_000:
        raise UnsafeFile("a .npy file with a broken header")
    header = _NPY.fullmatch(data[begin:end].decode("latin-1"))
    if header is None:
        raise UnsafeFile("a .npy file that is not of plain numbers, or with a broken header")
    order, kind, size, fortran, numbers = header.groups()
    if int(size) not in _SIZES[kind]:
        raise UnsafeFile(f"a .npy file of an unknown type {kind}{size}")
    shape = [int(n) for n in numbers.replace(",", " ").split()]
    return _array(data[end:], f"{order}{kind}{size}", shape, fortran == "True")


def npz(data: bytes, limits: Limits | None = None) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file, each without its `.npy`.

    Args:
        limits: of the archive; by default as many zeros as deflate can say in a byte.

    Raises:
        UnsafeFile: as `npy` and `unzip` do, or something else is in it.
    """
    found = {}
    for name, content in unzip(data, limits or Limits(members=1000, ratio=1100.0)).items():
        if not name.endswith(".npy"):
            raise UnsafeFile(f"{name!r}: not an array, in a .npz file")
        found[name.removesuffix(".npy")] = npy(content)
    return found


def safetensors(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a `.safetensors` file, read-only; bfloat16 comes as float32.

    Raises:
        UnsafeFile: broken, with room between or after its tensors, or of 4- or 8-bit floats.
    """
    import numpy as np
    from safetensors import SafetensorError, deserialize

    end = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or end > len(data) or end - 8 > _HEADER_BYTES:
        raise UnsafeFile("a .safetensors file with a broken header")
    # Because the library takes the last of two equal names.
    json_value(data[8:end], limit=_HEADER_BYTES, depth=4)
    try:
        tensors = deserialize(data)
    except (SafetensorError, ValueError, OverflowError) as error:
        raise UnsafeFile(f"a broken .safetensors file: {error}") from None
    found = {}
    for name, told in tensors:
        if (kind := _TENSORS.get(told["dtype"])) is None:
            raise UnsafeFile(f"{name!r}: a tensor of type {told['dtype']}")
        array = _array(bytes(told["data"]), kind, told["shape"])
        if told["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
            array.flags.writeable = False
        found[name] = array
    return found


def _array(data: bytes, kind: str, shape: Sequence[int], fortran: bool = False) -> np.ndarray:
    """All of the bytes as an array."""
    import numpy as np

    dtype = np.dtype(kind)
    if len(shape) > _MAX_DIMENSIONS or math.prod(shape) * dtype.itemsize != len(data):
        raise UnsafeFile(f"an array of {len(data):,} bytes that says it is {kind} of {shape}")
    if dtype.kind == "b":  # a byte that is neither 0 nor 1 is no truth value to NumPy
        flat = np.frombuffer(data, np.uint8) != 0
        flat.flags.writeable = False
    else:
        flat = np.frombuffer(data, dtype)
    try:
        return flat.reshape(shape, order="F" if fortran else "C")
    except (ValueError, OverflowError) as error:  # nothing, in more dimensions than can be counted
        raise UnsafeFile(f"an array of the shape {shape}: {error}") from None
