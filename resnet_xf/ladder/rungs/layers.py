"""Rung 6: compares every layer, in the whole network and alone on the same inputs, in float64 and in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, prod, sqrt
from typing import Any

import numpy as np

from resnet_xf.architecture.measures import layer_errors, layer_of, relative_error, rounding_bound, roundings
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.backend.contract import GradientsAlone, LayersAlone, cannot, require
from resnet_xf.backend.observe import Passed, capture_layers
from resnet_xf.ladder.perturb import (
    PERTURBATION,
    PIXEL_PERTURBATION,
    largest_mean,
    longest_sum,
    noise,
    perturb,
    perturb_pixels,
    roundings_of_sum,
    tile,
)
from resnet_xf.ladder.report.report import LayerError
from resnet_xf.ladder.report.wording import beyond
from resnet_xf.ladder.rungs.forward import capture_inside, layer_error
from resnet_xf.ladder.rungs.rung import Finding, Rung
from resnet_xf.ladder.rungs.shapes import observe
from resnet_xf.ladder.sides.live import Live
from resnet_xf.ladder.sides.side import Side, measured
from resnet_xf.ladder.subject import Subject, batches_of_layers

ELEMENTS = 16
"""Smallest number of values per channel in a single-layer test, and in the norms inside it. With two, BatchNorm's input
gradient is pure rounding error: BatchNorm subtracts its mean and its component along the output, and nothing is left.
"""


KINKED = ("relu", "leakyrelu", "prelu", "clip")
"""Kinds of layers whose gradient has a jump. A rounding error of the input near it changes the gradient completely."""


@dataclass(frozen=True, slots=True)
class LayerRounding:
    """For one layer of one side: the relative errors of its float32 results against float64, and their bounds.

    ``forward`` is the error of the output, ``backward`` of the gradients, or 0 if these are not measured.
    """

    forward: float
    forward_bound: float
    backward: float
    backward_bound: float


@measured("gain/{each}")
def gains(live: Live, names: Sequence[str], passed: Mapping[str, Passed]) -> Iterator[float]:
    """Yield how many times larger a small relative error becomes in the float64 output of each layer in ``names``.

    It is measured as by :func:`resnet_xf.ladder.rungs.forward.gain`, with images or weights perturbed. ``passed`` has
    the unperturbed outputs, by layer.
    """
    network, rows = live.network("float64"), live.subject.outline.rows
    steps = {row.name: roundings(rows[: place + 1]) for place, row in enumerate(rows)}
    perturbed = capture_layers(live.backend, network, perturb_pixels(live.subject.images), names)
    by_images = {name: relative_error(perturbed.pop(name).output, passed[name].output) for name in names}
    with live.perturbed_weights(network):
        perturbed = capture_layers(live.backend, network, live.subject.images, names)
    for name in names:
        by_weights = relative_error(perturbed[name].output, passed[name].output) / sqrt(steps[name])
        yield max(by_images[name], by_weights) / PIXEL_PERTURBATION


@measured("rounding")
def rounding(live: Live) -> dict[str, LayerRounding]:
    """Return each layer's rounding errors in float32. It is run alone, in float32 and float64, on equal inputs."""
    found = {}
    single, double = live.network("float32"), live.network("float64")
    for names in batches_of_layers(live.subject, observe(live).layers, live.subject.outline.layers, 1):
        passed = capture_inside(live, names, "float64")
        for name in names:
            found[name] = _rounding_of(live, name, passed.pop(name), single, double)
        live.load(single)  # training mode has updated the running statistics
        live.load(double)
    del single, double
    live.make_room()
    return found


def _rounding_of(live: Live, name: str, passed: Passed, single: Any, double: Any) -> LayerRounding:
    """Return the float32 rounding errors of one layer, and their bounds.

    It is run alone: in float32 and float64, and in float64 on perturbed inputs to see how much it magnifies an error.
    ``passed`` has its inputs and output in the network; ``single`` and ``double`` are the float32 and float64 networks.

    A layer with weights inside it (a gate) is perturbed three times, weights included: one perturbation may cancel out
    by chance. Gradients are not measured for layers with dropout or with a ReLU inside: its input may be above 0 in
    float32 and below 0 in float64. The layers inside are measured one by one. If the backend cannot differentiate
    single layers, only outputs are measured.
    """
    inside = [row for row in live.subject.outline.rows if row.name.startswith(f"{name}.")]
    values = [prod(passed.output.shape[2:])]
    values += [prod(row.output_shape[2:]) for row in inside if row.kind == "norm"]
    times = ceil(ELEMENTS / (len(passed.output) * min(values)))
    inputs = [tile(x, times, f"{name}/{n}").astype(np.float32) for n, x in enumerate(passed.inputs)]
    run = require(live.backend, LayersAlone).apply
    jumps = any(f"{layer}.".startswith(f"{name}.") for layer in live.subject.outline.dropouts)
    jumps = jumps or any(row.kind in KINKED for row in inside)
    forward_only = jumps or cannot(live.backend, "differentiate layers alone")

    def differentiate(network: Any, inputs: Sequence[Array], cotangent: Array) -> Weights:
        if forward_only:
            return {}
        gradients = require(live.backend, GradientsAlone).differentiate(network, name, inputs, cotangent)
        return _by_kind(gradients)

    output = run(double, name, inputs)
    cotangent = noise(name, output.shape).astype(np.float32)
    forward = relative_error(run(single, name, inputs), output)
    gradients = differentiate(double, inputs, cotangent)
    backward = max(layer_errors(differentiate(single, inputs, cotangent), gradients).values(), default=0.0)

    gain = gradient_gain = 0.0
    inner = {n: a for n, a in live.subject.weights.items() if layer_of(n).startswith(f"{name}.")}
    for draw in ("", "/1", "/2") if inner else ("",):
        perturbed = [perturb(x, PERTURBATION, f"{name}/{n}{draw}") for n, x in enumerate(inputs)]
        perturbed_cotangent = perturb(cotangent, PERTURBATION, f"{name}/cotangent{draw}")
        if inner:
            weights = {n: perturb(a, PERTURBATION, f"{n}{draw}") for n, a in inner.items()}
            live.backend.load(double, live.subject.weights | weights)
        gain = max(gain, relative_error(run(double, name, perturbed), output) / PERTURBATION)
        errors = layer_errors(differentiate(double, perturbed, perturbed_cotangent), gradients)
        gradient_gain = max(gradient_gain, max(errors.values(), default=0.0) / PERTURBATION)
    if inner:  # training mode has updated the running statistics in it too
        live.load(single)
        live.load(double)
    if settings := live.subject.outline.norms.get(name):
        gradient_gain = max(gradient_gain, largest_mean(inputs[0], settings["eps"]))

    terms = longest_sum(live.subject.weights, name, passed)
    elements = output.size / output.shape[1]
    return LayerRounding(
        forward,
        rounding_bound("float32", roundings_of_sum(terms), gain),
        backward,
        rounding_bound("float32", roundings_of_sum(terms + elements), gradient_gain),
    )


def _by_kind(gradients: Weights) -> Weights:
    """Prefix names of gradients with ``inputs.`` or ``weights.``: each group then counts as a layer with its scale."""
    return {f"{'inputs' if key.startswith('input') else 'weights'}.{key}": array for key, array in gradients.items()}


def measure(subject: Subject, side: Side) -> None:
    """Let a side measure and save what this rung needs, and outputs of containers, as rung 4 may need them."""
    rounding(side)
    layers, containers = subject.outline.layers, [row.name for row in subject.outline.rows if row.name]
    for names in batches_of_layers(subject, observe(side).layers, containers, 2):
        passed = capture_inside(side, names, "float64")
        list(gains(side, [name for name in names if name in layers], passed))


def judge(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Compare every layer of all sides (networks) in float64, and each side's float32 results with its float64 ones.

    A layer has two errors in float64, both against the other side's layer. The inherited error is the error of its
    output in the whole network. The own error is the error of its output when it gets the other side's inputs. If a
    layer's own error is too large, this layer is the cause.
    """
    first = sides[0]
    for side in sides:
        rounding(side)  # before other large arrays are held
    layers: list[LayerError] = []
    longest = 1.0
    for names in batches_of_layers(subject, observe(first).layers, subject.outline.layers, len(sides) + 1):
        found, longest = _compare(subject, sides, names, longest)
        layers += found
    wrong = [(layer, *excess) for layer in layers if (excess := layer.excess())]
    wrong.sort(key=lambda one: not beyond(one[0].own, one[0].own_bound))
    if wrong:
        layer, value, bound, detail = wrong[0]
        return Finding(value, bound, detail, layer.name, layers=tuple(layers))
    worst = max(layers, key=lambda layer: layer.inherited / layer.inherited_bound)
    detail = f"{len(layers)} layers"
    if alone := [layer for layer in layers if layer.own is not None]:
        top = max(alone, key=lambda layer: layer.own or 0.0)
        detail += f"; given the other's input at most {top.own:.1e} ({top.name})"
    elif any(isinstance(side, Live) for side in sides):
        detail += "; the other's inputs were not recorded"
    else:
        detail += "; no side is here to be given the other's input"
    compared = {layer.name for layer in layers}
    if left := [name for name in subject.outline.layers if name not in compared]:
        detail += f"; not recorded: {', '.join(left[:3])}{', …' if len(left) > 3 else ''}"
    single = max(max(layer.float32.values(), default=0.0) for layer in layers)
    detail += f"; float32 of its own at most {single:.1e}"
    return Finding(worst.inherited, worst.inherited_bound, detail, layers=tuple(layers))


def _compare(
    subject: Subject, sides: Sequence[Side], names: Sequence[str], longest: float
) -> tuple[list[LayerError], float]:
    """Compare the layers in ``names``. Return their errors, and the longest sum up to the last of them.

    ``longest`` is the number of terms in the longest sum of the layers before, whose rounding errors are inherited.
    Layers that another side did not record are left out.
    """
    first, *others = sides
    passed = {side.name: capture_inside(side, names, "float64") for side in sides}
    rows = subject.outline.rows
    places = {row.name: place for place, row in enumerate(rows)}
    alone = {side.name: rounding(side) for side in sides}
    found = []
    for name, gain in zip(names, gains(first, names, passed[first.name]), strict=True):
        ours, theirs = passed[first.name][name], [passed[other.name].get(name) for other in others]
        longest = max(longest, longest_sum(subject.weights, name, ours))
        if None in theirs:
            continue
        steps = roundings(rows[: places[name] + 1]) + longest / 12
        own = [error for other in others if (error := _own_error(subject, first, other, name, passed))]
        worst = max(own, key=lambda pair: pair[0] / pair[1]) if own else (None, None)
        single = {side: layers[name] for side, layers in alone.items() if name in layers}
        found.append(
            LayerError(
                name=name,
                kind=subject.outline.kinds[name],
                inherited=max(layer_error(one, ours) for one in theirs if one),
                inherited_bound=rounding_bound("float64", steps, gain),
                own=worst[0],
                own_bound=worst[1],
                float32={side: one.forward for side, one in single.items()},
                float32_bound=min(one.forward_bound for one in single.values()),
            )
        )
    return found, longest


def _own_error(
    subject: Subject, first: Side, other: Side, name: str, passed: Mapping[str, Mapping[str, Passed]]
) -> tuple[float, float] | None:
    """Run a layer of one side alone on the inputs of the same layer of the other side.

    ``passed`` has the inputs and outputs in the whole network, by side and layer. Return the relative error against
    the other side's output, and its bound; None if neither side runs here, or no inputs were recorded.
    """
    running, given = (other, first) if isinstance(other, Live) else (first, other)
    expected = passed[given.name][name]
    if not isinstance(running, Live) or not expected.inputs:
        return None
    alone = require(running.backend, LayersAlone)
    run = partial(alone.apply, running.network("float64"), name)
    output = run(expected.inputs)
    perturbed = [perturb(x, PERTURBATION, f"{name}/{n}") for n, x in enumerate(expected.inputs)]
    gain = relative_error(run(perturbed), output) / PERTURBATION
    bound = rounding_bound("float64", roundings_of_sum(longest_sum(subject.weights, name, expected)), gain)
    return relative_error(output, expected.output), bound


RUNG = Rung(6, "layers", "relative error", measure, judge, "standard", ("run layers alone",))
