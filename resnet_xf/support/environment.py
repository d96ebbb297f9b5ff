"""The machine and its software: what results depend on, and how much memory and how many processors there are."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from resnet_xf.support.version import __version__

PACKAGES = ("numpy", "torch", "torchvision", "torchao", "timm", "onnx", "onnxruntime", "mxnet", "mxnet-cu117")

CPU_FLAGS = re.compile(r"avx|amx|vnni|bf16|f16c|fma|asimd|sve|neon")
"""The CPU features on which a network's speed depends."""

M_MMAP_THRESHOLD = -3
"""The number of glibc's setting: larger blocks of memory are mapped, one by one."""

GPU_FIELDS = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")


class Memory(NamedTuple):
    """Bytes of memory that the machine or its container has, and those that a new process can use."""

    total: int
    free: int


def memory() -> Memory | None:
    """How much memory there is; None where the system does not tell. Where it tells the total alone, all is free."""
    try:
        total = free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    with suppress(OSError, IndexError):
        free = int(re.findall(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[0]) * 1024
    with suppress(OSError, ValueError):  # a container's limit, or "max"
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        cached = re.findall(r"active_file (\d+)", Path("/sys/fs/cgroup/memory.stat").read_text())  # and inactive_file
        total, free = min(total, limit), min(free, limit - used + sum(map(int, cached)))
    return Memory(total, free)


def peak_memory() -> int:
    """The most memory that this process has used so far, in bytes."""
    with suppress(OSError):  # on Linux, getrusage begins with the parent's peak
        return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def free_memory() -> None:
    """Free what only refers to itself, and give memory that the C library keeps back to the system."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def process_age() -> float:
    """Return for how many seconds this process has lived; 0 where the system does not tell."""
    with suppress(OSError, AttributeError, ValueError, IndexError):
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return 0.0


@contextmanager
def without_collection() -> Iterator[None]:
    """Let no garbage collection run meanwhile: an import makes so many objects that it would run again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def free_at_once() -> None:
    """Make the C library give every large array back to the system when it is freed: it takes time and saves memory."""
    with suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**22)


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, str]:
    """Return the versions of Python, of the system, and of the libraries that results depend on."""
    versions = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    versions["resnet_xf"] = __version__
    return versions | _versions()


@cache
def _versions() -> dict[str, str]:
    """Return the versions of the installed packages. They are read once, because each parity report has them."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def hardware() -> dict[str, str]:
    """Describe the hardware that measurements depend on: CPU, processors, memory, GPUs."""
    parts = _cpu() | {"processors": str(processors())}
    if available := memory():
        parts["memory"] = f"{available.total / 2**30:.1f} GiB"
    return parts | {f"gpu {number}": gpu for number, gpu in enumerate(gpus())}


def _cpu() -> dict[str, str]:
    """Return the CPU's name, features and clock, from ``/proc/cpuinfo`` on Linux."""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        first = dict(re.findall(r"^(\S[^:\t]*?)\s*: (.*)$", text.split("\n\n")[0], re.MULTILINE))
        features = (first.get("flags") or first.get("Features") or "").split()
        cpu = {
            "cpu": first.get("model name", platform.processor()),
            "cpu features": " ".join(flag for flag in features if CPU_FLAGS.search(flag)),
        }
        if "cpu MHz" in first:
            cpu["cpu clock"] = f"{float(first['cpu MHz']):.0f} MHz"
        return cpu
    return {"cpu": platform.processor()}


def gpus() -> list[str]:
    """The machine's NVIDIA GPUs, with driver and clocks, as ``nvidia-smi`` tells them; none if CUDA is told of none."""
    if shutil.which("nvidia-smi") is None or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return []
    command = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        return [
            ", ".join(f"{name} {value.strip()}" for name, value in zip(GPU_FIELDS, line.split(","), strict=False))
            for line in output.splitlines()
        ]
    return []
