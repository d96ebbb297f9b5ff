"""MXNet on NVIDIA GPUs: load the libraries of its CUDA wheel, list the GPUs, and say which ones the wheel supports.

The wheel ``mxnet-cu117`` needs the libraries of CUDA 11 and does not contain them. NVIDIA's wheels contain them, in
folders that the system does not search. MXNet uses a library that is already loaded in the process.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from resnet_xf.errors import BackendError

DISTRIBUTIONS = ("mxnet", "mxnet-cu117")
"""MXNet for the CPU, and MXNet for NVIDIA GPUs. Both install a package ``mxnet``."""

DRIVER = "libcuda.so.1"

LIBRARIES = (
    "cuda_runtime/lib/libcudart.so.11.0",
    "cublas/lib/libcublasLt.so.11",
    "cublas/lib/libcublas.so.11",
    "cusparse/lib/libcusparse.so.11",
    "cusolver/lib/libcusolver.so.11",
    "cufft/lib/libcufft.so.10",
    "curand/lib/libcurand.so.10",
    "cuda_nvrtc/lib/libnvrtc.so.11.2",
    "cudnn/lib/libcudnn.so.8",
    "nccl/lib/libnccl.so.2",
    "nvtx/lib/libnvToolsExt.so.1",
)
"""Paths in the folder ``nvidia`` of NVIDIA's wheels. Each library comes after those that it needs."""

MAJORS = range(5, 9)
"""Major compute capabilities of supported GPUs. The wheel has machine code for 5.0, 6.0, 7.0, 8.0 and 8.6. That code
runs on later GPUs of the same major version. The wheel has no PTX, which a driver could compile for other GPUs."""


class Gpu(NamedTuple):
    """Name and compute capability of a GPU, from the driver."""

    name: str
    capability: tuple[int, int]


def prepare() -> None:
    """Load the libraries of MXNet's CUDA wheel, if that is installed. Call this before importing MXNet.

    Raises:
        BackendError: if the driver or a library is missing, or MXNet is installed twice.
    """
    installed = [name for name in DISTRIBUTIONS if any(distributions(name=name))]
    if len(installed) > 1:
        raise BackendError(
            f"{' and '.join(installed)} are both installed, and one has overwritten the other's files; keep the first "
            "for the CPU alone, or the second for GPUs as well",
            how_to_install("mxnet-cu117"),
        )
    if installed == ["mxnet-cu117"]:
        try:
            ctypes.CDLL(DRIVER)
        except OSError as error:
            raise BackendError(
                f"MXNet's CUDA build needs the NVIDIA driver ({error}); install that, or MXNet's CPU build",
                how_to_install("mxnet"),
            ) from error
        load_libraries(LIBRARIES, sys.path)


def load_libraries(libraries: Sequence[str], folders: Sequence[str]) -> None:
    """Load shared libraries in order: each from the first folder with ``nvidia/<library>``, or else by its file name.

    They are not loaded into the global scope, because PyTorch may use the same libraries of another CUDA version.

    Raises:
        BackendError: if any of them cannot be loaded.
    """
    broken = []
    for library in libraries:
        candidates = (Path(folder, "nvidia", library) for folder in folders)
        path = next(filter(Path.is_file, candidates), PurePosixPath(library).name)
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            broken.append(str(error))
    if broken:
        problem = f"MXNet's CUDA build needs libraries that cannot be loaded ({'; '.join(broken)})"
        raise BackendError(problem, how_to_install("mxnet-cu117"))


def gpus() -> list[Gpu]:
    """Return the driver's GPUs in MXNet's order; an empty list without a driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    return [_describe(driver, index) for index in range(count.value)]


def no_code_for(gpu: Gpu) -> str | None:
    """Return why MXNet's CUDA wheel does not support a GPU and what to choose instead, or None if it does."""
    if gpu.capability[0] in MAJORS:
        return None
    return (
        f"MXNet's last wheel has machine code for compute capabilities 5.0 to 8.9, and this GPU ({gpu.name}) has "
        f"{gpu.capability[0]}.{gpu.capability[1]}; choose --device cpu, or move the network to PyTorch with "
        "resnet-xf convert"
    )


def how_to_install(distribution: str) -> str:
    """Return the command that replaces any installed MXNet with a distribution."""
    pinned = f"pip install --no-deps {distribution}==1.9.1 && " if sys.version_info >= (3, 13) else ""
    return f"pip uninstall -y {' '.join(DISTRIBUTIONS)} && {pinned}pip install 'resnet-xf[{distribution}]'"


def _describe(driver: ctypes.CDLL, index: int) -> Gpu:
    device, name, value = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    capability = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    return Gpu(name.value.decode(), (capability[0], capability[1]))
