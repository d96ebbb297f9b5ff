"""Defects of weights and of norms: the right layers with other numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from helpers.sabotage import only
from mutants.mutant import Mutant
from resnet_xf import draw_weights
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.backend.learner import Learner

Load = Callable[[Weights], Weights]


def changed(tensor: str, change: Callable[[Array], Array]) -> Load:
    """One array changed."""
    return lambda weights: weights | {tensor: change(weights[tensor])}


def flipped(tensor: str) -> Load:
    """One number's sign."""

    def flip(array: Array) -> Array:
        array.flat[3] *= -1
        return array

    return changed(tensor, flip)


def swapped(first: str, second: str) -> Load:
    return lambda weights: weights | {first: weights[second], second: weights[first]}


def rolled(*tensors: tuple[str, int]) -> Load:
    """Each array's channels moved on by one, along the axis that is given."""
    return lambda weights: weights | {name: np.roll(weights[name], 1, axis) for name, axis in tensors}


def in_half_precision(weights: Weights) -> Weights:
    return {name: array.astype("float16").astype("float32") for name, array in weights.items()}


def with_raw_norm(real: Any) -> Callable[..., Any]:
    """Gluon's blocks with the raw operator's ``fix_gamma`` in the first norm."""

    def build(node: Any, dtype: str = "float32") -> Any:
        network = real.build(node, dtype)
        network._children["bn1"]._kwargs["fix_gamma"] = True
        return network

    return build


def forgetful(real: Any) -> Callable[..., Any]:
    """Weights that come out without one of them."""
    return lambda network: {name: array for name, array in real.dump(network).items() if name != "bn1.running_var"}


def fixed_mean(learner: Learner) -> None:
    """The first norm's running mean stays as it was loaded."""
    start: Weights = {}
    load, dump = learner.load, learner.dump

    def noted(weights: Weights, velocity: Weights) -> None:
        start.update(weights)
        load(weights, velocity)

    def kept() -> tuple[Weights, Weights]:
        weights, velocity = dump()
        return weights | {"bn1.running_mean": start["bn1.running_mean"].astype(weights["fc.bias"].dtype)}, velocity

    learner.load, learner.dump = noted, kept


def fixed_scale(learner: Any) -> None:
    """The first norm's scale is not learned."""
    param = learner._params.pop("bn1.weight")
    if hasattr(param, "requires_grad_"):
        param.requires_grad_(False)


def exact_momentum(learner: Any) -> None:
    for norm in learner._norms:
        norm.momentum = 0.1


BN = "layer1.1.bn2"
KERNEL = "layer3.1.conv2.weight"

WEIGHTS = [
    Mutant("one sign flipped on the way in", "weights", KERNEL, {"loaded": flipped(KERNEL)}, "ResNet-18"),
    Mutant("one array does not come out", "weights", "bn1.running_var", {"members": {"dump": forgetful}}),
    Mutant(
        "one sign flipped where the way out hides it",
        "forward float64",
        "layer3.1.conv2",
        {"loaded": flipped(KERNEL), "hides": True},
        "ResNet-18",
    ),
    Mutant(
        "kernels transposed, height for width",
        "forward float64",
        "layer2.0.conv1",
        {"loaded": changed("layer2.0.conv1.weight", lambda kernel: kernel.swapaxes(2, 3)), "hides": True},
    ),
    Mutant(
        "kernels turned by a half turn: true convolution for correlation",
        "forward float64",
        "conv1",
        {"loaded": changed("conv1.weight", lambda kernel: kernel[:, :, ::-1, ::-1]), "hides": True},
    ),
    Mutant(
        "a convolution's output channels permuted",
        "forward float64",
        "layer1.0.conv2",
        {"loaded": rolled(("layer1.0.conv2.weight", 0)), "hides": True},
    ),
    Mutant(
        "a convolution's output channels permuted, and put right by the next one",
        "layers",
        "layer1.0.conv1",
        {
            "loaded": rolled(
                ("layer1.0.conv1.weight", 0),
                *((f"layer1.0.bn1.{word}", 0) for word in ("weight", "bias", "running_mean", "running_var")),
                ("layer1.0.conv2.weight", 1),
            ),
            "hides": True,
        },
    ),
    Mutant(
        "two layers of one shape with each other's weights",
        "forward float64",
        "layer1.0.conv1",
        {"loaded": swapped("layer1.0.conv1.weight", "layer1.0.conv2.weight"), "hides": True},
    ),
    Mutant(
        "classes permuted",
        "forward float64",
        "fc",
        {"loaded": rolled(("fc.weight", 0), ("fc.bias", 0)), "hides": True},
    ),
    Mutant("one bias of the last layer", "forward float64", "fc", {"loaded": flipped("fc.bias"), "hides": True}, "ResNet-18"),
    Mutant(
        "one weight off by a millionth",
        "forward float64",
        "layer1.0.conv1",
        {"loaded": changed("layer1.0.conv1.weight", lambda kernel: kernel * np.float32(1 + 2e-6)), "hides": True},
    ),
    Mutant(
        "a defect behind an output that is 0 on both",
        "forward float64",
        "layer2.0.conv1",
        {"loaded": flipped("layer2.0.conv1.weight"), "hides": True},
        weights=lambda spec: draw_weights(spec, scheme="probe")
        | {name: np.zeros_like(array) for name, array in draw_weights(spec).items() if name.startswith("fc.")},
    ),
    Mutant(
        "a defect that images of zeros do not show",
        "gradients",
        "bn1",
        {"loaded": flipped("conv1.weight"), "hides": True},
        images=lambda spec: np.zeros((2, 3, 32, 32), np.float32),
    ),
]  # fmt: skip

NORMS = [
    Mutant(
        "mean and shift swapped both ways",
        "forward float64",
        BN,
        {"loaded": swapped(f"{BN}.bias", f"{BN}.running_mean"), "hides": True},
        "ResNet-18",
    ),
    Mutant(
        "scale and variance swapped both ways",
        "forward float64",
        BN,
        {"loaded": swapped(f"{BN}.weight", f"{BN}.running_var"), "hides": True},
        "ResNet-18",
    ),
    Mutant("momentum for eps", "shapes", "layer2.0.bn1", {"node": only("layer2.0.bn1", eps=0.1)}, "ResNet-18"),
    Mutant("the other framework's momentum", "shapes", "bn1", {"node": only("bn1", momentum=0.9)}, "ResNet-18"),
    Mutant("the other framework's momentum, not told", "gradients", "bn1", {"node": only("bn1", momentum=0.9), "tells": False}),
    Mutant("the raw operator's eps 1e-3, not told", "forward float64", "bn1", {"node": only("bn1", eps=1e-3), "tells": False}, "ResNet-18"),
    Mutant(
        "eps off by a thousandth of itself, not told",
        "forward float64",
        "layer1.1.bn1",
        {"node": only("layer1.1.bn1", eps=1.001e-5), "tells": False},
        "ResNet-18",
    ),
    Mutant(
        "eps 0.1 in a branch that begins as 0, not told",
        "forward float64",
        "layer2.0.bn1",
        {"node": only("layer2.0.bn1", eps=0.1), "tells": False},
        "two blocks that begin as the identity",
        weights=draw_weights,
    ),
    Mutant("the raw operator's fix_gamma", "shapes", "bn1", {"members": {"build": with_raw_norm}}, sides=("mxnet",)),
    Mutant(
        "a scale of 1, whatever is loaded",
        "forward float64",
        "layer1.0.bn1",
        {"loaded": changed("layer1.0.bn1.weight", np.ones_like), "hides": True},
    ),
    Mutant("a scale that is not learned", "gradients", "bn1", {"taught": fixed_scale}),
    Mutant(
        "biased for unbiased variance, or the other way round",
        "gradients",
        "bn1",
        {"members": {"unbiased_variance": lambda real: not real.unbiased_variance}},
    ),
    Mutant(
        "statistics frozen in training",
        "gradients",
        "bn1",
        {"task": lambda task: replace(task, freeze_statistics=True)},
    ),
    Mutant("a running mean that stands still", "gradients", "bn1", {"taught": fixed_mean}),
    Mutant(
        "a norm's momentum of 0.1 for 1 minus the float32 nearest to 0.9",
        "gradients",
        "bn1",
        {"taught": exact_momentum},
        sides=("torch",),
    ),
]  # fmt: skip
