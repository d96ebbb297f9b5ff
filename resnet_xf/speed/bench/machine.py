"""What a measurement depends on besides its case: the machine and its software."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from resnet_xf.backend.registry import BUILT_IN
from resnet_xf.backend.workers import processors
from resnet_xf.support.version import __version__

PACKAGES = ("resnet-xf", "numpy", "torch", "torchvision", "torchao", "timm", "mxnet", "mxnet-cu117")

FLAGS = re.compile(r"avx|amx|vnni|bf16|f16c|fma|asimd|sve|neon")
"""Of the CPU's features, those that a network's speed depends on."""

QUERY = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")


def environment() -> dict[str, str]:
    """The machine and its software, each thing in words."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    found |= _processor()
    found["processors"] = str(processors())
    if there := memory():
        found["memory"] = f"{there[0] / 2**30:.1f} GiB"
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    found.setdefault("resnet-xf", __version__)
    for number, gpu in enumerate(gpus()):
        found[f"gpu {number}"] = gpu
    return found


def memory() -> tuple[int, int] | None:
    """Bytes of memory in all, and free for a new process; None where the system does not tell."""
    with suppress(OSError, KeyError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        total, free = sizes["MemTotal"], sizes["MemAvailable"]
        with suppress(OSError, ValueError):  # a container's limit, or "max"
            limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
            total, free = min(total, limit), min(free, limit - used)
        return total, free
    return None


def variables(backend: str, preset: str) -> dict[str, str]:
    """What the environment of a process holds in which a backend is measured at its best."""
    return dict(BUILT_IN[backend].variables) if preset == "best" and backend in BUILT_IN else {}


def _processor() -> dict[str, str]:
    """The CPU's name, features and clock, as Linux tells them."""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        first = dict(re.findall(r"^(\S[^:\t]*?)\s*: (.*)$", text.split("\n\n")[0], re.MULTILINE))
        features = (first.get("flags") or first.get("Features") or "").split()
        found = {
            "cpu": first.get("model name", platform.processor()),
            "cpu features": " ".join(flag for flag in features if FLAGS.search(flag)),
        }
        if "cpu MHz" in first:
            found["cpu clock"] = f"{float(first['cpu MHz']):.0f} MHz"
        return found
    return {"cpu": platform.processor()}


def gpus() -> list[str]:
    """NVIDIA's GPUs that this process may use, with driver and clocks, as ``nvidia-smi`` tells them."""
    if shutil.which("nvidia-smi") is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return []
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        return [
            ", ".join(f"{name} {value.strip()}" for name, value in zip(QUERY, line.split(","), strict=False))
            for line in said.splitlines()
        ]
    return []
