"""Defects of one precision alone, and of what the comparators are given to compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from helpers.sabotage import Alteration, only
from mutants.arrays import in_half_precision
from mutants.learning import on_rate
from mutants.mutant import Mutant
from resnet_xf import ResNetSpec, draw_weights, get_backend
from resnet_xf.architecture.weights import Array, Weights


def rounded_to(bits: int) -> Alteration:
    """A layer's float32 output with so many bits less (Veltkamp 1968); the gradient is as it was."""
    factor = 2.0**bits + 1

    def change(F: Any, layer: Any, *inputs: Any) -> Any:  # noqa: N803
        y = layer(*inputs)
        large = y * factor
        return large - (large - y)

    return change


def moody(real: Any) -> Callable[..., Array]:
    """Outputs that grow a little with each call."""
    calls = iter(range(1, 1000))
    return lambda network, images: real.forward(network, images) * np.float32(1 + next(calls) * 2**-20)


def silent(real: Any) -> Callable[..., Array]:
    def forward(network: Any, images: Array) -> Array:
        raise RuntimeError("out of luck\nand more")

    return forward


def borrowed(real: Any) -> Callable[..., Array]:
    """The outputs of the other side."""
    from mutants.mutant import NETWORKS, SMALL
    from resnet_xf import plan

    other = get_backend("torch" if real.name == "mxnet" else "mxnet")

    def forward(network: Any, images: Array) -> Array:
        dumped = real.dump(network)
        twin = other.build(plan(NETWORKS[SMALL][0]).root, str(dumped["fc.bias"].dtype))
        other.load(twin, dumped)
        return other.forward(twin, images)

    return forward


def overflowing(*kernels: str) -> Callable[[ResNetSpec], Weights]:
    """Weights so large in some kernels that their sums overflow on both sides."""

    def drawn(spec: ResNetSpec) -> Weights:
        weights = draw_weights(spec, scheme="probe")
        return {name: np.full_like(a, 3e38) if name.endswith(kernels) else a for name, a in weights.items()}

    return drawn


SINGLE = ("float32",)

PRECISION = [
    Mutant(
        "float32 weights rounded to half precision, hidden",
        "forward float32",
        "conv1",
        {"loaded": in_half_precision, "hides": True, "precisions": SINGLE},
    ),
    Mutant("a float32 layer that computes in bfloat16", "forward float32", "layer1.0.conv2", {"altered": {"layer1.0.conv2": rounded_to(16)}, "precisions": SINGLE}),
    Mutant("a float32 layer that rounds as TF32 does", "forward float32", "layer2.0.conv1", {"altered": {"layer2.0.conv1": rounded_to(13)}, "precisions": SINGLE}),
    Mutant("a float32 layer of 16 bits", "layers", "layer1.0.conv1", {"altered": {"layer1.0.conv1": rounded_to(8)}, "precisions": SINGLE}),
    Mutant(
        "a float32 layer that computes in bfloat16, behind a scale of 0",
        "layers",
        "layer2.0.conv2",
        {"altered": {"layer2.0.conv2": rounded_to(16)}, "precisions": SINGLE},
        "two blocks that begin as the identity",
        weights=draw_weights,
    ),
    Mutant("a float32 norm of another eps", "forward float32", "bn1", {"node": only("bn1", eps=1e-3), "precisions": SINGLE, "tells": False}),
    Mutant("a float64 layer that computes in float32", "forward float64", "layer1.0.conv1", {"altered": {"layer1.0.conv1": rounded_to(29)}, "precisions": ("float64",)}),
    Mutant("a learning rate ten times as high in float32", "learning curves", "the losses", {"shown": on_rate(lambda rates: 10 * rates[-1]), "precisions": SINGLE}, level="full"),
    Mutant("a momentum of 0.5 in float32", "learning curves", "the losses", {"task": lambda task: replace(task, momentum=0.5), "precisions": SINGLE}, level="full"),
]  # fmt: skip

COMPARATORS = [
    Mutant("outputs that vary from call to call", "determinism", "the whole network", {"members": {"forward": moody}}),
    Mutant("a network that breaks", "determinism", "the whole network", {"members": {"forward": silent}}),
    Mutant("numbers beyond float32 on both sides", "forward float32", "conv1", sides=(), weights=overflowing("conv1.weight")),
    Mutant("numbers beyond float64 on both sides", "forward float64", "layer2.1.conv1", network="the book's ResNet-18", sides=(), weights=overflowing("conv1.weight", "conv2.weight")),
    Mutant("the other side's outputs for its own", "layers", "bn1", {"members": {"forward": borrowed}, "node": only("bn1", eps=1e-3), "tells": False}),
    Mutant("layers that show nothing", "layers", "the whole network", {"members": {"watch": lambda real: lambda network, images, look, names=None: names is None and real.watch(network, images, look)}}),
    Mutant("a learner that does not learn", "lock-step", "the optimiser, step 1", {"shown": on_rate(lambda rates: 0.0)}),
]  # fmt: skip
