"""Reading and writing MXNet's ``.params`` files with NumPy alone.

The format (``NDArray::Save`` and ``Load`` in MXNet's ``src/ndarray/ndarray.cc``), all little-endian: a magic number
and a reserved one (8 bytes each), a count and that many arrays, a count and that many names. An array begins with
a word for its version; arrays of the oldest version begin with the number of axes instead.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

from resnet_xf.architecture.weights import MOST_TENSORS, Array, Weights, widened
from resnet_xf.errors import WeightsError
from resnet_xf.support.files import atomic, open_regular, reading

MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
"""Versions of an array: of MXNet 0.11, of 0.12 and later, and of 1.5 and later with NumPy semantics."""

BFLOAT16 = 12
DTYPES = {
    0: "<f4", 1: "<f8", 2: "<f2", 3: "|u1", 4: "<i4", 5: "|i1", 6: "<i8", 7: "|b1", BFLOAT16: "<u2",
}  # fmt: skip
"""MXNet's numbers for element types; bfloat16 is read as its 16 bits."""

FLAGS = {np.dtype(name): flag for flag, name in DTYPES.items() if flag != BFLOAT16}
DEVICES = (1, 2, 3, 5)
"""CPU, GPU, and the CPU's pinned and shared memory; all are read alike."""

MOST_AXES = 32


class _Cursor:
    """A position in a file. No step goes beyond its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at, self.what = data, 0, "the header"

    def skip(self, count: int) -> int:
        """Advance by ``count`` bytes and return the position before."""
        left = len(self.data) - self.at
        if count > left:
            raise WeightsError(
                f"{self.what} claims {count:,} bytes at byte {self.at:,}, where {left:,} are left; "
                "the file is cut short or damaged"
            )
        self.at += count
        return self.at - count

    def unpack(self, layout: str) -> tuple[int, ...]:
        """Read little-endian numbers; ``layout`` is in ``struct``'s notation."""
        layout = f"<{layout}"
        return struct.unpack_from(layout, self.data, self.skip(struct.calcsize(layout)))


def read_params(path: str | Path) -> Weights:
    """The arrays of a ``.params`` file by the names in it, with their own dtypes (bfloat16 as float32).

    Raises:
        WeightsError: if the file cannot be read, is damaged, or has arrays that are sparse or without names.
    """
    with (
        reading(path, WeightsError, "MXNet's parameters"),
        open_regular(path) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        try:
            return _read(_Cursor(data))
        except WeightsError as error:
            raise WeightsError(f"{error}; copy it again, or write it again with save_parameters") from None


def _read(cursor: _Cursor) -> Weights:
    magic, reserved, count = cursor.unpack("QQQ")
    if (magic, reserved) != (MAGIC, 0):
        raise WeightsError(f"not a .params file: begins with {magic:#x} and {reserved:#x}, not {MAGIC:#x} and 0")
    if count > MOST_TENSORS:
        raise WeightsError(f"claims to hold {count:,} arrays; at most {MOST_TENSORS:,} are read")
    arrays = []
    for number in range(count):
        cursor.what = f"array {number + 1} of {count:,}"
        arrays.append(_read_array(cursor))
    cursor.what = "the list of names"
    (names_count,) = cursor.unpack("Q")
    if names_count != count:
        raise WeightsError(f"holds {count:,} arrays and {names_count:,} names; expected one name for each")
    names = []
    for _ in range(count):
        (length,) = cursor.unpack("Q")
        begin = cursor.skip(length)
        names.append(bytes(cursor.data[begin : begin + length]).decode("utf-8", "backslashreplace"))
    if cursor.at != len(cursor.data):
        raise WeightsError(f"{len(cursor.data) - cursor.at:,} bytes follow the last name; the file is damaged")
    if len(set(names)) != len(names):
        (twice, _), *_ = Counter(names).most_common(1)
        raise WeightsError(f"holds the name {twice!a} more than once")
    return dict(zip(names, arrays, strict=True))


def _read_array(cursor: _Cursor) -> Array:
    (version,) = cursor.unpack("I")
    if version in (V2, V3):
        (storage,) = cursor.unpack("i")
        if storage != 0:
            raise WeightsError(f"{cursor.what} is sparse (storage type {storage}); only dense arrays are weights")
    axes = cursor.unpack("I")[0] if version in (V1, V2, V3) else version
    if axes > MOST_AXES:
        raise WeightsError(f"{cursor.what} claims {axes:,} axes at byte {cursor.at - 4:,}; the file is damaged")
    if axes == 0 and version != V3:
        raise WeightsError(f"{cursor.what} has no shape; a weight has at least one axis")
    shape = cursor.unpack(f"{axes}{'q' if version in (V1, V2, V3) else 'I'}")
    if min(shape, default=0) < 0:
        raise WeightsError(f"{cursor.what} claims the shape {shape}; the file is damaged")
    device, _, flag = cursor.unpack("iii")  # the kind of device, its number, and the element type
    if device not in DEVICES:
        raise WeightsError(f"{cursor.what} was on a device of unknown kind {device}; the file is damaged")
    if flag not in DTYPES:
        raise WeightsError(f"{cursor.what} has the unknown element type {flag}; expected one of {sorted(DTYPES)}")
    dtype = np.dtype(DTYPES[flag])
    begin = cursor.skip(prod(shape) * dtype.itemsize)
    array = np.frombuffer(cursor.data, dtype, prod(shape), begin).reshape(shape).copy()
    return widened(array) if flag == BFLOAT16 else array


def write_params(path: str | Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name as MXNet 1.9.1's ``save`` does, atomically.

    Raises:
        WeightsError: if MXNet has no such dtype, or the file cannot be written.
    """
    for name, array in arrays.items():
        if array.dtype not in FLAGS or not array.ndim:
            raise WeightsError(f"{name}: MXNet has no arrays of dtype {array.dtype} with {array.ndim} axes")
    try:
        with atomic(path) as temporary, open(temporary, "wb") as file:
            file.write(struct.pack("<QQQ", MAGIC, 0, len(arrays)))
            for array in arrays.values():
                file.write(struct.pack(f"<Iii{array.ndim}q", V2, 0, array.ndim, *array.shape))
                file.write(struct.pack("<iii", 1, 0, FLAGS[array.dtype]))  # on the CPU, number 0
                file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
            file.write(struct.pack("<Q", len(arrays)))
            for name in arrays:
                text = name.encode()
                file.write(struct.pack("<Q", len(text)) + text)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written: {error.strerror or error}") from None
