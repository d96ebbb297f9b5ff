"""Rungs 4 and 5: networks have equal outputs in float64; in other precisions these differ by rounding errors only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import sqrt

from resnet_xf.architecture.measures import relative_error, rounding_bound, roundings
from resnet_xf.architecture.weights import Array
from resnet_xf.backend.contract import DTYPES
from resnet_xf.backend.observe import Passed, capture_layers
from resnet_xf.errors import BackendError, EvidenceError
from resnet_xf.ladder.capture.script import sketch
from resnet_xf.ladder.perturb import PIXEL_PERTURBATION, perturb_pixels
from resnet_xf.ladder.rungs.rung import Finding, Rung
from resnet_xf.ladder.rungs.shapes import observe
from resnet_xf.ladder.sides.live import Live, WeightSet
from resnet_xf.ladder.sides.side import Side, measured
from resnet_xf.ladder.subject import Subject, batches_of_layers


@measured("output/{precision}/{weights}")
def output(live: Live, precision: str, weights: WeightSet = "given") -> Array:
    """Return the output for the images of the comparison, in a precision, with the given or the probe weights.

    Precisions other than float32 and float64 run in a learner, with the given weights.
    """
    if precision in DTYPES:
        return live.backend.forward(live.network(precision, weights), live.subject.images)
    task = live.subject.lockstep_run.task(precision, live.device)
    with live.learner(task, live.subject.weights) as learner:
        return learner.outputs(live.subject.images)


@measured("gain")
def gain(live: Live) -> float:
    """Return how much larger a small relative error becomes in the float64 output.

    It is measured twice, and the larger value is returned: with the images perturbed, and with all weights perturbed at
    random. Perturbed weights act as one independent error for each rounding, so their effect is divided by the square
    root of the number of roundings.
    """
    exact, network = output(live, "float64"), live.network("float64")
    by_images = relative_error(live.backend.forward(network, perturb_pixels(live.subject.images)), exact)
    with live.perturbed_weights(network):
        by_weights = relative_error(live.backend.forward(network, live.subject.images), exact)
    return max(by_images, by_weights / sqrt(roundings(live.subject.outline.rows))) / PIXEL_PERTURBATION


@measured("inside/{dtype}/{weights}/{each}")
def inside(live: Live, names: Sequence[str], dtype: str, weights: WeightSet = "given") -> Iterator[Passed]:
    """Yield the inputs and the output of each layer in ``names``, from a forward pass in a dtype."""
    passed = capture_layers(live.backend, live.network(dtype, weights), live.subject.images, names)
    return (passed.pop(name) for name in names)


def capture_inside(side: Side, names: Sequence[str], dtype: str, weights: WeightSet = "given") -> dict[str, Passed]:
    """Return the inputs and the output of each layer in ``names``, by name, from a forward pass in a dtype.

    A capture (saved measurements) has only float64; other dtypes raise EvidenceError. An original network that was
    recorded elsewhere has sketches of outputs and no inputs, and layers that were not recorded are left out.
    """
    found = zip(names, inside(side, names, dtype, weights), strict=True)
    return {name: passed for name, passed in found if passed is not None}


def layer_error(passed: Passed, expected: Passed) -> float:
    """Return the relative error of a layer's output.

    If ``passed`` has no inputs, its output is a sketch (a few values), to be compared with a sketch of ``expected``'s.
    """
    return relative_error(passed.output, expected.output if passed.inputs else sketch(expected.output))


def measure_float64(subject: Subject, side: Side) -> None:
    """Let a side measure and save its float64 outputs, and how much its network magnifies errors."""
    for weights in _weight_sets(subject):
        output(side, "float64", weights)
    gain(side)


def judge_float64(subject: Subject, sides: Sequence[Side]) -> Finding:
    """Compare the float64 output of every side (network) with the first side's, with given and with probe weights."""
    first, *others = sides
    bound = _bound(subject, first, "float64")
    worst = 0.0
    for weights in _weight_sets(subject):
        for other in others:
            error, where = _compare(subject, (other, "float64"), first, bound, weights)
            if where is not None:
                under = ", under weights that hide nothing" if weights == "probe" else ""
                return Finding(error, bound, f"{other.name} is not {first.name}{under}", where)
            worst = max(worst, error)
    also = ", also under weights that hide nothing" if subject.probe is not None else ""
    return Finding(worst, bound, f"outputs {output(first, 'float64').shape}{also}")


def in_precision(precision: str) -> Rung:
    """Return rung 5 for a precision, which compares all networks' outputs in it with the first's float64 output."""

    def measure(subject: Subject, side: Side) -> None:
        output(side, precision)

    def judge(subject: Subject, sides: Sequence[Side]) -> Finding:
        referee = sides[0]  # the rung before has shown that all float64 outputs are the same
        bound = _bound(subject, referee, precision)
        errors: dict[str, float] = {}
        lacking: dict[str, BackendError] = {}
        for side in sides:
            try:
                error, where = _compare(subject, (side, precision), referee, bound)
            except BackendError as lack:
                lacking[side.name] = lack
                continue
            if where is not None:
                return Finding(error, bound, f"{side.name} in {precision} is not the float64 result", where)
            errors[side.name] = error
        if not errors:
            raise next(iter(lacking.values()))
        details = [f"{name} {error:.1e}" for name, error in errors.items()]
        details += [f"{name} has no {precision}" for name in lacking]
        return Finding(max(errors.values()), bound, ", ".join(details))

    return Rung(5, f"forward {precision}", "relative error", measure, judge)


def _weight_sets(subject: Subject) -> tuple[WeightSet, ...]:
    return ("given",) if subject.probe is None else ("given", "probe")


def _bound(subject: Subject, referee: Side, precision: str) -> float:
    return rounding_bound(precision, roundings(subject.outline.rows), gain(referee))


def _compare(
    subject: Subject, compared: tuple[Side, str], referee: Side, bound: float, weights: WeightSet = "given"
) -> tuple[float, str | None]:
    """Compare the output of ``compared`` (a side and a precision) with the float64 output of the side ``referee``.

    Return the relative error, and None if it is within the bound, or else the first layer that differs by more.
    """
    side, precision = compared
    error = relative_error(output(side, precision, weights), output(referee, "float64", weights))
    if error <= bound:
        return error, None
    if precision in DTYPES:
        # A capture holds layers in float64 and under the given weights alone; and many images need much memory.
        with suppress(EvidenceError, MemoryError):
            return error, _first_divergence(subject, compared, referee, bound, weights)
    return error, "the whole network"


def _first_divergence(
    subject: Subject, compared: tuple[Side, str], referee: Side, bound: float, weights: WeightSet
) -> str:
    """Return the first layer whose output differs by more than ``bound``, in the order in which layers run.

    The search goes down the tree of containers, one level at a time. If all layers in a container agree and its own
    output does not, the container is named. For ``compared`` and ``referee`` see :func:`_compare`.
    """
    (side, precision), name = compared, ""
    while names := subject.outline.inner(name):
        for batch in batches_of_layers(subject, observe(referee).layers, names, copies=2):
            ours = capture_inside(side, batch, precision, weights)
            theirs = capture_inside(referee, list(ours), "float64", weights)
            wrong = [layer for layer, passed in ours.items() if not layer_error(passed, theirs[layer]) <= bound]
            if wrong:
                name = wrong[0]
                break
        else:
            break
    return name or "the whole network"


FLOAT64 = Rung(4, "forward float64", "relative error", measure_float64, judge_float64)
FLOAT32 = in_precision("float32")
