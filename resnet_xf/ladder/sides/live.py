"""The side of a comparison that answers by running a backend here and now."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from math import ceil, sqrt
from typing import Any

import numpy as np

from resnet_xf.architecture.measures import EPSILON, layer_errors, layer_of, relative_error, rounding_bound, roundings
from resnet_xf.architecture.trace import ObservedTrace, Passed
from resnet_xf.architecture.weights import VELOCITY, Array, Weights
from resnet_xf.backend.contract import Backend, LayersAlone, Trains, cannot, require
from resnet_xf.backend.learner import Learner, Task
from resnet_xf.backend.observe import capture_layers, trace_network
from resnet_xf.errors import BackendError
from resnet_xf.ladder.lessons import Lesson
from resnet_xf.ladder.perturb import NUDGE, PIXEL_NUDGE, longest_sum, neighbours, noise, nudge, offset, repeated, terms
from resnet_xf.ladder.sides.side import (
    LOSS,
    Curve,
    Own,
    State,
    Step,
    fingerprint,
    loss_error,
    statistic_errors,
    statistics_of,
    trained,
)
from resnet_xf.ladder.subject import Subject, groups

LARGE = 2**26
"""Bytes of weights from which on memory counts for more than the tenth of a second that it takes to free it."""

NUDGED_RUNS = 2
"""How many nudged runs of each side the yardstick of rung 9 is made of."""

DRAWS = 3
"""How many float32 steps show each side's rounding of gradients: a single number may be right by chance."""

ELEMENTS = 16
"""Numbers of each channel that a layer alone is shown at least. What a norm hands on of a gradient is what is left when
its mean and its share of the output are taken off, and of two numbers that is nothing but rounding."""


class Live:
    """A backend's networks of the subject, one held at a time.

    Raises:
        BackendError: if the backend has no such device.
    """

    def __init__(self, subject: Subject, backend: Backend, device: str = "cpu") -> None:
        self.subject, self.backend, self.device = subject, backend, device
        self.name, self.version = backend.name, backend.version()
        self.unbiased_variance = getattr(backend, "unbiased_variance", False)  # asked for where it trains
        self.tell: Callable[[float], object] = lambda share: None
        self._network: dict[tuple[str, bool], Any] = {}
        self._outputs: dict[tuple[str, bool], Array] = {}
        self._steps: dict[str, Step] = {}

    def cannot(self, capability: str) -> str | None:
        """As :func:`resnet_xf.backend.contract.cannot`."""
        return cannot(self.backend, capability)

    def let_go(self) -> None:
        """Forget the network and the gradients at hand: large ones would fill the memory."""
        self._network.clear()
        self._steps.clear()

    def _make_room(self) -> None:
        """Free networks that nothing needs any more: Gluon's blocks refer to themselves, so Python does so late."""
        if sum(array.nbytes for array in self.subject.weights.values()) > LARGE:
            gc.collect()

    def empty(self, dtype: str) -> Any:
        """A new network as the framework initialises it."""
        return self.backend.build(self.subject.outline.root, dtype)  # type: ignore[arg-type]

    def fresh(self, dtype: str, *, probe: bool = False) -> Any:
        """A new network with the weights in it, on the device."""
        self._make_room()
        network = self.empty(dtype)
        self._load(network, probe=probe)
        return network if self.device == "cpu" else self.backend.move(network, self.device)

    def _load(self, network: Any, *, probe: bool = False) -> None:
        weights = self.subject.probe if probe else self.subject.weights
        assert weights is not None
        self.backend.load(network, weights)

    def network(self, dtype: str, *, probe: bool = False) -> Any:
        """The network with the weights in it: the one at hand, or else built anew."""
        if (dtype, probe) not in self._network:
            self.let_go()
            self._network[dtype, probe] = self.fresh(dtype, probe=probe)
        return self._network[dtype, probe]

    def trace(self) -> ObservedTrace:
        """What the layers show for one image."""
        return self._trace

    @cached_property
    def _trace(self) -> ObservedTrace:
        return trace_network(self.backend, self.empty("float32"), self.subject.images[:1])

    def held(self, dtype: str) -> dict[str, tuple[int, ...]]:
        """The shapes of a new network's arrays."""
        return {name: array.shape for name, array in self.backend.dump(self.empty(dtype)).items()}

    def returned(self, dtype: str) -> dict[str, str]:
        """The fingerprints of its arrays after the weights were put in."""
        self.let_go()
        return {name: fingerprint(array) for name, array in self.backend.dump(self.network(dtype)).items()}

    def twice(self) -> tuple[Array, Array]:
        """Two networks built, and run one after the other."""
        return self.output("float32"), self.backend.forward(self.fresh("float32"), self.subject.images)

    def output(self, precision: str, *, probe: bool = False) -> Array:
        """The output for the images, computed on first use."""
        key = precision, probe
        if key not in self._outputs:
            self._outputs[key] = self._output(precision, probe)
        return self._outputs[key]

    def _output(self, precision: str, probe: bool) -> Array:
        if precision in ("float32", "float64"):
            return self.backend.forward(self.network(precision, probe=probe), self.subject.images)
        if lack := self.cannot("train"):
            raise BackendError(lack)
        with self._learner(self.subject.lessons.task(precision, self.device)) as learner:
            learner.load(self.subject.weights, {})
            return learner.outputs(self.subject.images)

    @contextmanager
    def _learner(self, task: Task) -> Iterator[Learner]:
        """A learner for a task, closed afterwards."""
        self._make_room()
        learner = require(self.backend, Trains).learner(task)
        try:
            yield learner
        finally:
            learner.close()

    def lacks(self, precision: str) -> str | None:
        """Why the backend has no such precision on this device; None if it has it."""
        if lack := self.cannot("train"):
            return lack
        try:
            with self._learner(self.subject.lessons.task(precision, self.device)):
                return None
        except BackendError as lack:
            return str(lack)

    def gain(self) -> float:
        """Measured on the float64 network."""
        return self._gain

    @cached_property
    def _gain(self) -> float:
        output, network = self.output("float64"), self.network("float64")
        by_images = relative_error(self.backend.forward(network, self.nudged_images()), output)
        with self._nudged(network):
            by_weights = relative_error(self.backend.forward(network, self.subject.images), output)
        return max(by_images, by_weights / sqrt(roundings(self.subject.outline.rows))) / PIXEL_NUDGE

    @contextmanager
    def _nudged(self, network: Any) -> Iterator[None]:
        """A network's weights all moved a little, which moves what every layer makes of them at once."""
        weights = {name: nudge(array, PIXEL_NUDGE, name) for name, array in self.subject.weights.items()}
        self.backend.load(network, weights)
        try:
            yield
        finally:
            self._load(network)

    def nudged_images(self) -> Array:
        """The images with every pixel moved a little, by a share of the brightest: those that are black move too."""
        images = self.subject.images.astype(np.float64)
        moved: Array = images + PIXEL_NUDGE * np.abs(images).max() * noise("images", images.shape)
        return moved

    def passed(self, dtype: str, names: Sequence[str], *, probe: bool = False) -> dict[str, Passed]:
        """What goes into and comes out of the named layers."""
        return capture_layers(self.backend, self.network(dtype, probe=probe), self.subject.images, names)

    def gains(self, names: Sequence[str], passed: Mapping[str, Passed]) -> dict[str, float]:
        """Each layer's gain, measured on the float64 network."""
        network = self.network("float64")
        rows = self.subject.outline.rows
        steps = {row.name: roundings(rows[: place + 1]) for place, row in enumerate(rows)}
        nudged = capture_layers(self.backend, network, self.nudged_images(), names)
        found = {name: relative_error(nudged.pop(name).output, passed[name].output) for name in names}
        with self._nudged(network):
            nudged = self.passed("float64", names)
        for name in names:
            found[name] = max(found[name], relative_error(nudged[name].output, passed[name].output) / sqrt(steps[name]))
        return {name: error / PIXEL_NUDGE for name, error in found.items()}

    def apply(self, dtype: str, name: str, inputs: Sequence[Array]) -> Array:
        """One layer's output for inputs of its own."""
        return require(self.backend, LayersAlone).apply(self.network(dtype), name, inputs)

    def own_rounding(self) -> dict[str, Own]:
        """Each layer's own float32 rounding, measured on first use."""
        return self._own

    @cached_property
    def _own(self) -> dict[str, Own]:
        found = {}
        single, double = self.fresh("float32"), self.fresh("float64")
        for names in groups(self.subject, self.trace().layers, self.subject.outline.layers, 1):
            passed = self.passed("float64", names)
            for name in names:
                found[name] = self._own_of(name, passed.pop(name), single, double)
            self._load(single)  # differentiating has moved the norms' statistics
            self._load(double)
        return found

    def _own_of(self, name: str, passed: Passed, single: Any, double: Any) -> Own:
        """One layer in both precisions on the same float32 inputs, and with those inputs nudged.

        A layer that holds others, as a gate does, has its weights nudged too, and three times: a mean and a product in
        it may cancel out to a single number, of which a single nudge of the pixels shows little, and perhaps nothing.
        """
        times = ceil(ELEMENTS * passed.output.shape[1] / passed.output.size)
        inputs = [repeated(x, times, f"{name}/{n}").astype(np.float32) for n, x in enumerate(passed.inputs)]
        alone = require(self.backend, LayersAlone)
        run, back = alone.apply, alone.differentiate

        truth = run(double, name, inputs)
        cotangent = noise(name, truth.shape).astype(np.float32)
        forward = relative_error(run(single, name, inputs), truth)

        gradients = _by_place(back(double, name, inputs, cotangent))
        backward = max(layer_errors(_by_place(back(single, name, inputs, cotangent)), gradients).values())
        gain = sway = 0.0
        inner = {n: a for n, a in self.subject.weights.items() if layer_of(n).startswith(f"{name}.")}
        for draw in ("", "/1", "/2") if inner else ("",):
            moved = [nudge(x, NUDGE, f"{name}/{n}{draw}") for n, x in enumerate(inputs)]
            tilted = nudge(cotangent, NUDGE, f"{name}/cotangent{draw}")
            if inner:
                own = {n: nudge(a, NUDGE, f"{n}{draw}") for n, a in inner.items()}
                self.backend.load(double, self.subject.weights | own)
            gain = max(gain, relative_error(run(double, name, moved), truth) / NUDGE)
            swayed = layer_errors(_by_place(back(double, name, moved, tilted)), gradients)
            sway = max(sway, max(swayed.values()) / NUDGE)
        if inner:
            self._load(double)
        if settings := self.subject.outline.settings.get(name):
            sway = max(sway, offset(inputs[0], settings["eps"]))

        reach = longest_sum(self.subject.weights, name, passed)
        positions = truth.size / truth.shape[1]
        return Own(
            forward,
            rounding_bound("float32", terms(reach), gain),
            backward,
            rounding_bound("float32", terms(reach + positions), sway),
        )

    def step(self, dtype: str) -> Step:
        """The first lesson, taken on first use."""
        if dtype not in self._steps:
            self._steps[dtype] = self._step(dtype, self._first_weights(dtype))
        return self._steps[dtype]

    def _step(self, dtype: str, weights: Weights, moved: float = 0.0) -> Step:
        """One step from nothing: v is then the gradient itself; with images moved by so much."""
        lesson = next(iter(self.subject.lessons))
        images = nudge(lesson.images, moved, "lesson") if moved else lesson.images
        task = self.subject.lessons.task(dtype, self.device, weight_decay=0.0, nesterov=False)
        with self._learner(task) as learner:
            learner.load(weights, {})
            loss, _ = learner.step(images, lesson.targets, 0.0)()
            weights, velocity = learner.dump()
        return Step(loss, velocity, statistics_of(weights))

    def _first_weights(self, dtype: str, moved: float = 0.0) -> Weights:
        weights = {name: array.astype(dtype) for name, array in self.subject.weights.items()}
        return {name: nudge(array, moved, name) for name, array in weights.items()} if moved else weights

    def sensitivity(self) -> dict[str, float]:
        """Measured on first use."""
        return self._sensitivity

    @cached_property
    def _sensitivity(self) -> dict[str, float]:
        """Measured with weights and images nudged, or by what rounding does to float32, whichever is more.

        A nudge does not show what cancels out for any weights: the gradient of a convolution's bias that a norm takes
        off again is 0 however it is nudged, and rounding is all that there is of it. That is drawn ``DRAWS`` times, and
        counted as that of sums made in blocks, as float32's are, where float64's may be made one by one.
        """
        step = self.step("float64")
        moved = self._step("float64", self._first_weights("float64", NUDGE), NUDGE)
        found = _gain((moved.loss, moved.gradients | moved.statistics), (step.loss, step.gradients | step.statistics))
        typical = EPSILON["float32"] * sqrt(self.subject.lessons.path)
        singles = [self.step("float32")]
        singles += [self._step("float32", self._neighbours(self.subject.weights, run)) for run in range(1, DRAWS)]
        for single in singles:
            for layer, error in layer_errors(single.gradients, step.gradients).items():
                found[layer] = max(found[layer], error / typical)
        return found

    @staticmethod
    def _neighbours(weights: Weights, run: int) -> Weights:
        """Each weight moved to a number next to it."""
        return {name: neighbours(array, f"{run}/{name}") for name, array in weights.items()}

    def lockstep(self, *, measured: bool) -> Iterator[State]:
        """Every lesson in float64."""
        lessons = self.subject.lessons
        task = lessons.task("float64", self.device)
        with self._learner(task) as learner, self._learner(task) if measured else nullcontext() as shadow:
            learner.load(self._first_weights("float64"), {})
            if shadow is not None:
                shadow.load(self._first_weights("float64", NUDGE), {})
            for number, lesson in enumerate(lessons, start=1):
                loss, _ = learner.step(lesson.images, lesson.targets, lesson.rate)()
                arrays = _all(learner.dump())
                gain = {}
                if shadow is not None:
                    other, _ = shadow.step(lesson.images, lesson.targets, lesson.rate)()
                    gain = _gain((other, _all(shadow.dump())), (loss, arrays))
                self.tell(number / lessons.steps)
                yield State(loss, arrays, gain)

    def curve(self) -> Curve:
        """The losses of the course, and of ``NUDGED_RUNS`` more."""
        course = list(self.subject.course)
        plain, *nudged = (self._run(course, run) for run in range(1 + NUDGED_RUNS))
        return Curve(plain, tuple(nudged))

    def _run(self, course: Sequence[Lesson], run: int) -> tuple[float, ...]:
        """The losses of one run; all but the first are nudged."""
        weights = self.subject.start
        if run:
            weights = self._neighbours(weights, run)
        losses = []
        with self._learner(self.subject.course.task("float32", self.device)) as learner:
            learner.load(weights, {})
            for step, lesson in enumerate(course, start=1):
                losses.append(learner.step(lesson.images, lesson.targets, lesson.rate)()[0])
                self.tell((run + step / len(course)) / (1 + NUDGED_RUNS))
        return tuple(losses)

    def accuracies(self, trial: Any) -> tuple[tuple[float, ...], float]:
        """Nothing is recorded."""
        raise NotImplementedError


def _all(dumped: tuple[Weights, Weights]) -> Weights:
    weights, velocity = dumped
    return weights | {VELOCITY + name: array for name, array in velocity.items()}


def _gain(nudged: tuple[float, Weights], plain: tuple[float, Weights]) -> dict[str, float]:
    """What a nudge has become, as a multiple of it; see :class:`resnet_xf.ladder.sides.side.State`."""
    errors = layer_errors(trained(nudged[1]), trained(plain[1]))
    errors |= statistic_errors(statistics_of(nudged[1]), statistics_of(plain[1]))
    errors[LOSS] = loss_error(nudged[0], plain[0])
    return {name: error / NUDGE for name, error in errors.items()}


def _by_place(gradients: Weights) -> Weights:
    """Gradients for inputs apart from those for weights: each has its own scale."""
    return {f"{'inputs' if key.startswith('input') else 'weights'}.{key}": array for key, array in gradients.items()}
