"""Whether cases fit into the memory of the machine and of a GPU."""

from __future__ import annotations

from functools import cache
from math import prod

from resnet_xf.architecture.plan import plan
from resnet_xf.architecture.trace import trace
from resnet_xf.backend.fast import COMPILED
from resnet_xf.errors import BenchError
from resnet_xf.speed.bench.case import Case
from resnet_xf.support.environment import memory

HEADROOM = 1.5
"""Another process is started only if more memory is free than this many times the largest peak of the running ones."""

PROCESS = 2**30
"""Assumed bytes of host memory of a process whose peak is not known yet; its framework alone takes half of them."""

DEVICE = 2**31
"""About how many bytes of a GPU's memory a case takes besides its activations: kernels, workspaces, weights."""


@cache
def activations(case: Case) -> int:
    """Return how many bytes the activations of a case's batch take in float32, at least."""
    rows = trace(plan(case.spec), (1, case.spec.in_channels, *case.image_size))
    sizes = [prod(row.output_shape) for row in rows if row.kind in ("conv", "norm")]
    # Training keeps the output of every layer; inference the input and output of one.
    return 4 * (sum(sizes) if case.mode == "train" else 2 * max(sizes)) * case.batch


def check_memory(case: Case) -> None:
    """Refuse a batch whose activations alone do not fit into the free memory; checks nothing on a GPU.

    Raises:
        BenchError: with the memory that is needed, and a batch that fits.
    """
    available = memory()
    if available is None or case.device != "cpu":
        return
    needed, free = activations(case), available.free
    each = needed // case.batch
    if needed > free:
        raise BenchError(
            f"batch: to {case.mode} {case.spec.name} with {case.batch:,} images of "
            f"{case.image_size[0]}×{case.image_size[1]} takes at least {needed / 2**30:,.0f} GiB of memory, and "
            f"{free / 2**30:,.0f} are free; choose {f'less than {free // each:,}' if free > each else 'smaller images'}"
        )


def host_memory(case: Case) -> int:
    """Return about how many bytes of host memory a case's process needs. On the CPU, activations are included."""
    return PROCESS + (activations(case) if case.device == "cpu" else 0)


def device_memory(case: Case, peak: int | None, *, at_once: bool = False) -> int:
    """Return about how many bytes of a GPU's memory a case needs to start.

    Args:
        case: the case.
        peak: the peak memory of a case of the same network, mode, batch and precision; None if not known.
        at_once: True counts all of it. False counts half for a case that compiles: compilers take long, so few cases
            run their first batch at the same moment.
    """
    low = case.precision in ("bfloat16", "float16")
    needed = peak or DEVICE + activations(case) * (1 if low else 2) * 9 // 8
    return needed // 2 if case.preset in COMPILED and not at_once else needed
