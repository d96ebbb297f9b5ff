"""MXNet on NVIDIA GPUs: the libraries of its CUDA wheel, the driver's GPUs, and those that the wheel has code for.

The wheel ``mxnet-cu117`` is linked with the libraries of CUDA 11 and brings none of them. NVIDIA's own wheels do, but
in folders where the system does not look. What is loaded by its path beforehand, MXNet finds by its name.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from resnet_xf.errors import BackendError

DISTRIBUTIONS = ("mxnet", "mxnet-cu117")
"""MXNet for the CPU and for NVIDIA GPUs; both install the same package ``mxnet``."""

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
"""Where NVIDIA's wheels have them below their folder ``nvidia``, each behind those that it needs itself."""

MAJORS = range(5, 9)
"""The wheel has machine code for 5.0, 6.0, 7.0, 8.0 and 8.6, which runs on what is later but of the same major, and no
PTX, from which a driver could make the code for other GPUs."""


class Gpu(NamedTuple):
    """A GPU, as the driver describes it."""

    name: str
    capability: tuple[int, int]


def prepare() -> None:
    """Load what MXNet's CUDA wheel is linked with, if that wheel is installed; to be called before the import.

    Raises:
        BackendError: if the driver or a library is missing, or MXNet is installed twice.
    """
    installed = [name for name in DISTRIBUTIONS if _is_installed(name)]
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
    """Load shared libraries in order, each from the first folder that has it below ``nvidia``, else by its bare name.

    They stay out of the global scope, so that PyTorch's own of another CUDA are not mixed with them.

    Raises:
        BackendError: if some cannot be loaded.
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
        raise BackendError(
            f"MXNet's CUDA build needs libraries that cannot be loaded ({'; '.join(broken)})",
            how_to_install("mxnet-cu117"),
        )


def gpus() -> list[Gpu]:
    """The driver's GPUs, in the order in which MXNet counts them; none where there is no driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    return [_describe(driver, index) for index in range(count.value)]


def no_code_for(gpu: Gpu) -> str | None:
    """Why MXNet's CUDA wheel cannot compute on a GPU, and what to choose instead; None if it can."""
    if gpu.capability[0] in MAJORS:
        return None
    return (
        f"MXNet's last wheel has machine code for compute capabilities 5.0 to 8.9, and this GPU ({gpu.name}) has "
        f"{gpu.capability[0]}.{gpu.capability[1]}; choose --device cpu, or move the network to PyTorch with "
        "resnet-xf convert"
    )


def how_to_install(distribution: str) -> str:
    """The line that installs one of MXNet's distributions in place of whichever is there."""
    pinned = f"pip install --no-deps {distribution}==1.9.1 && " if sys.version_info >= (3, 13) else ""
    return f"pip uninstall -y {' '.join(DISTRIBUTIONS)} && {pinned}pip install 'resnet-xf[{distribution}]'"


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _describe(driver: ctypes.CDLL, index: int) -> Gpu:
    device, name, number = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    capability = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        capability.append(number.value)
    return Gpu(name.value.decode(), (capability[0], capability[1]))
