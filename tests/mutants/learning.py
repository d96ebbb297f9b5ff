"""Defects of training: gradients, loss, optimiser, schedule, data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mutants.mutant import Mutant
from resnet_xf.architecture.nodes import STATISTICS
from resnet_xf.architecture.weights import Array
from resnet_xf.backend.learner import Learner, Task
from resnet_xf.ladder.short_run import TrainingStep

Shown = Callable[[Learner, Sequence[TrainingStep]], TrainingStep]


def held(F: Any, x: Any) -> Any:  # noqa: N803
    """The same numbers, through which no gradient passes."""
    return F.BlockGrad(x) if hasattr(F, "BlockGrad") else x.detach()


def steeper(F: Any, layer: Any, *inputs: Any) -> Any:  # noqa: N803
    """The same output, with gradients larger by a hundredth."""
    y = layer(*inputs)
    return y + (y - held(F, y)) * 0.01


def cut_shortcut(F: Any, layer: Any, body: Any, shortcut: Any) -> Any:  # noqa: N803
    kept = held(F, shortcut)
    return layer(body, kept + (shortcut - kept) * 0)


def on_targets(change: Callable[[Array], Array]) -> Shown:
    return lambda learner, steps: replace(steps[-1], targets=np.ascontiguousarray(change(steps[-1].targets)))


def on_images(change: Callable[[Array], Array]) -> Shown:
    return lambda learner, steps: replace(steps[-1], images=np.ascontiguousarray(change(steps[-1].images)))


def on_rate(change: Callable[[Sequence[float]], float]) -> Shown:
    """Change a step's rate, given all rates so far."""
    return lambda learner, steps: replace(steps[-1], learning_rate=change([step.learning_rate for step in steps]))


def smoothed_over_others(targets: Array) -> Array:
    """What is taken off the label's own class is spread over the others alone."""
    classes = targets.shape[1]
    even = targets.min() * classes / (classes - 1)
    label = targets == targets.max(axis=1, keepdims=True)
    return np.where(label, targets.sum(axis=1, keepdims=True) - even * (classes - 1), even)


def unsmoothed(targets: Array) -> Array:
    return np.where(targets == targets.max(axis=1, keepdims=True), 1 / len(targets), 0.0)


def decays(chosen: Callable[[str], bool]) -> dict[str, Any]:
    """A task in which only some of the arrays decay."""

    def change(task: Task) -> Task:
        return replace(task, decaying=frozenset(filter(chosen, task.decaying)))

    return {"task": change}


def of_a_norm(name: str) -> bool:
    return "bn" in name or name.startswith("layer2.0.downsample.1")


def with_rate_in_momentum(learner: Learner, steps: Sequence[TrainingStep]) -> TrainingStep:
    """MXNet's own law: the buffer holds rate · v, and is not rescaled where the rate changes."""
    if len(steps) > 1:
        _, velocity = learner.dump()
        ratio = steps[-2].learning_rate / steps[-1].learning_rate
        learner.load({}, {name: array * ratio for name, array in velocity.items()})
    return steps[-1]


def with_the_images_before(learner: Learner, steps: Sequence[TrainingStep]) -> TrainingStep:
    return replace(steps[-1], images=steps[max(0, len(steps) - 2)].images)


def dampened(learner: Any) -> None:
    for group in learner._optimizer.param_groups:
        group["dampening"] = 0.9


def rounded_weights(learner: Learner) -> None:
    """What is trained is kept in float32."""
    weights, _ = learner.dump()
    trained = {name: array for name, array in weights.items() if name.rpartition(".")[2] not in STATISTICS}
    learner.load({name: array.astype(np.float32).astype(array.dtype) for name, array in trained.items()}, {})


def late_drop(rates: Sequence[float]) -> float:
    return rates[-2] if len(rates) > 1 and rates[-1] < rates[-2] else rates[-1]


def late_climb(rates: Sequence[float]) -> float:
    return rates[-2] if len(rates) > 1 and rates[-1] > rates[-2] else rates[-1]


GRADIENTS = [
    Mutant("a convolution's gradients larger by a hundredth", "gradients", "layer1.0.conv2", {"altered": {"layer1.0.conv2": steeper}}),
    Mutant("a shortcut that passes no gradient", "gradients", "layer2.0.downsample.1", {"altered": {"layer2.0.add": cut_shortcut}}),
    Mutant(
        "a convolution's gradients larger by a hundredth in float32 alone",
        "gradients",
        "layer1.0.conv2",
        {"altered": {"layer1.0.conv2": steeper}, "precisions": ("float32",)},
    ),
]  # fmt: skip

LOSS = [
    Mutant("label smoothing over the other classes alone", "gradients", "the loss", {"shown": on_targets(smoothed_over_others)}),
    Mutant("no label smoothing", "gradients", "the loss", {"shown": on_targets(unsmoothed)}),
    Mutant("a mean that is divided twice", "gradients", "the loss", {"shown": on_targets(lambda targets: targets / len(targets))}),
    Mutant("a sum for a mean", "gradients", "the loss", {"shown": on_targets(lambda targets: targets * len(targets))}),
    Mutant("labels off by a class", "gradients", "the loss", {"shown": on_targets(lambda targets: np.roll(targets, 1, axis=1))}),
]  # fmt: skip

OPTIMISER = [
    Mutant("no momentum", "gradients", "the optimiser", {"task": lambda task: replace(task, momentum=0.0)}),
    Mutant("momentum 0.8 for 0.9", "lock-step", "the optimiser, step 2", {"task": lambda task: replace(task, momentum=0.8)}),
    Mutant(
        "a momentum of 0.9 for the float32 nearest to it",
        "lock-step",
        "the optimiser, step 2",
        {"task": lambda task: replace(task, momentum=0.9)},
        sides=("torch",),
    ),
    Mutant("Nesterov's momentum", "lock-step", "the optimiser, step 1", {"task": lambda task: replace(task, nesterov=True)}),
    Mutant("dampened momentum", "lock-step", "the optimiser, step 2", {"taught": dampened}, sides=("torch",)),
    Mutant("no decay", "lock-step", "the optimiser, step 1", {"task": lambda task: replace(task, weight_decay=0.0)}),
    Mutant("decay on biases and shifts alone", "lock-step", "conv1.weight, step 1", decays(lambda name: name.endswith("bias"))),
    Mutant("no decay on biases and shifts", "lock-step", "bn1.bias, step 1", decays(lambda name: not name.endswith("bias"))),
    Mutant("no decay on norms", "lock-step", "bn1.weight, step 1", decays(lambda name: not of_a_norm(name))),
    Mutant(
        "a momentum buffer that is not rescaled where the rate changes: MXNet's own law",
        "lock-step",
        "the optimiser, step 2",
        {"shown": with_rate_in_momentum},
    ),
    Mutant("float64 weights rounded to float32 after each step", "lock-step", "the optimiser, step 1", {"after": rounded_weights}),
]  # fmt: skip

SCHEDULE = [
    Mutant("a drop of the rate one step late", "lock-step", "the optimiser, step 16", {"shown": on_rate(late_drop)}),
    Mutant("a warm-up one step late", "lock-step", "the optimiser, step 2", {"shown": on_rate(late_climb)}),
    Mutant(
        "a rate half a float32 rounding off: one that is held as float64",
        "lock-step",
        "conv1.weight, step 1",
        {"shown": on_rate(lambda rates: rates[-1] * (1 + 2.0**-24))},
    ),
]  # fmt: skip

DATA = [
    Mutant("a batch's images in another order than its labels", "gradients", "the loss", {"shown": on_images(lambda images: images[::-1])}),
    Mutant("images mirrored", "gradients", "bn1", {"shown": on_images(lambda images: images[..., ::-1])}),
    Mutant("channels in the other order", "gradients", "bn1", {"shown": on_images(lambda images: images[:, ::-1])}),
    Mutant("images cropped one pixel aside", "gradients", "bn1", {"shown": on_images(lambda images: np.roll(images, 1, axis=3))}),
    Mutant("another mean taken off", "gradients", "bn1", {"shown": on_images(lambda images: images - np.float32(1e-3))}),
    Mutant("the images of the step before", "lock-step", "the loss, step 2", {"shown": with_the_images_before}),
]  # fmt: skip
