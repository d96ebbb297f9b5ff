"""A measurement's network at work: built, checked against a float64 referee, warmed up, and run."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from resnet_xf.architecture.measures import relative_error
from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.weights import Array, Weights, draw_weights
from resnet_xf.backend.contract import Backend, BuildsPeers, Optimizes, Trains, require
from resnet_xf.backend.fast import FastTask
from resnet_xf.backend.learner import Learner
from resnet_xf.backend.registry import get_backend
from resnet_xf.data import sample_images
from resnet_xf.errors import BackendError, BenchError
from resnet_xf.formats.convert import gluon_layout
from resnet_xf.formats.layouts import renamed
from resnet_xf.speed.bench.case import OURS, Case
from resnet_xf.speed.bench.statistics import steady
from resnet_xf.speed.optimize import native_of, tolerance
from resnet_xf.training.evaluation import task_of
from resnet_xf.training.recipe import Optimizer, Recipe, targets

CHECKED, FEW = 32, 8
"""Images that inference is checked on, and how many a batch for training holds at least."""

RATE, DECAY = 1e-6, 1e-4
"""The learning rate and the decay of a measured step: the weights stay where they are, however long it is measured."""

TRIES = 20
"""Steps after which float16's scale, which is halved where a gradient overflows, must have let one pass."""

ROUND, WARM_UP = 0.25, 10.0
"""Seconds of a round of the warm-up, and after which no further one is begun."""

PRODUCT = {"cpu": 2048, "cuda": 8192}
"""Rows of the square matrices whose product is the machine's ceiling."""


class WrongError(BenchError):
    """A network gives false results."""


class Round(msgspec.Struct, frozen=True, tag=True):
    """Some images and how long they took; ``processors`` were busy on the mean."""

    images: int
    seconds: float
    processors: float


def sample_crops(channels: int, size: tuple[int, int], count: int) -> Array:
    """Real images ``(count, channels, H, W)``, windows of digits for one channel, else of two photographs.

    The first of them are the same whatever the count.
    """
    height, width = size
    whole = sample_images(channels, (height + height // 2, width + width // 2))
    corners = np.random.default_rng(0).random((count, 2)) * (height // 2 + 1, width // 2 + 1)
    shown = [
        whole[n % len(whole), :, top : top + height, left : left + width]
        for n, (top, left) in enumerate(corners.astype(int))
    ]
    return np.ascontiguousarray(np.stack(shown))


def distinct_images(batch: int) -> int:
    """How many different images a batch for training holds, each as often as any other.

    A norm's statistics are then those of the few, which is all that the referee need be shown. They are the largest
    divisor that is not above ``CHECKED``, and all of the batch where that is less than ``FEW``.
    """
    found = max(n for n in range(1, min(batch, CHECKED) + 1) if batch % n == 0)
    return found if found >= FEW else batch


def reference_outputs(case: Case) -> Array:
    """The outputs that the case's network should have, ``(N, classes)``: computed in float64, without optimisation."""
    planned, weights = plan(case.spec), _weights(case)
    images = sample_crops(case.spec.in_channels, case.image_size, max(CHECKED, distinct_images(case.batch)))
    if case.mode == "train":
        images = images[: distinct_images(case.batch)]
        learner = _learner(msgspec.structs.replace(case, precision="float64", preset="eager"), planned, None, weights)
        outputs = learner.step(images, _targets(case, len(images)), RATE)()[1]
    else:
        backend = get_backend(case.backend)
        network = backend.build(planned.root, "float64")
        backend.load(network, {name: array.astype(np.float64) for name, array in weights.items()})
        parts = (images[n : n + FEW] for n in range(0, CHECKED, FEW))
        outputs = np.concatenate([backend.forward(network, part) for part in parts])
    return outputs


def _weights(case: Case) -> Weights:
    """Weights of which each one changes the outputs; initial ones hide a missing norm, whose scale is 1 and shift 0."""
    return draw_weights(plan(case.spec), case.seed, "probe")


def _targets(case: Case, count: int) -> Array:
    """What that many images are held against; those that are equal have one label."""
    labels = np.arange(count) % distinct_images(case.batch) % case.spec.num_classes
    return targets(labels, case.spec.num_classes, 0.0, count)


def _learner(case: Case, planned: Plan, native: Any, weights: Weights) -> Learner:
    """What trains the network, a peer's if one is given; it has the weights."""
    recipe = Recipe(
        name="bench",
        epochs=1,
        batch_size=case.batch,
        optimizer=Optimizer(learning_rate=RATE, momentum=0.9, weight_decay=DECAY),
    )
    task = replace(task_of(planned, recipe, case.device, preset=case.preset), precision=case.precision)
    if native is not None:
        task = replace(task, network=native, decaying=frozenset(weights))
    learner = require(get_backend(case.backend), Trains).learner(task)
    learner.load(weights, {})
    return learner


class Engine:
    """A case at work.

    Raises:
        ResNetXFError, MemoryError: if there is nothing to measure.
    """

    def __init__(self, case: Case, wanted: Array) -> None:
        self.case, self.wanted = case, wanted
        self.planned = plan(case.spec)
        self.backend: Backend = get_backend(case.backend)
        self.bench = require(self.backend, Optimizes).bench
        weights = _weights(case)
        images = sample_crops(case.spec.in_channels, case.image_size, max(2 * CHECKED, distinct_images(case.batch)))
        start = time.perf_counter()
        native, self.steps = self._native(weights)
        self.build = time.perf_counter() - start
        self.step = self._infer(native, images) if case.mode == "infer" else self._train(native, weights, images)
        if not self.error <= (limit := tolerance(case.precision)):
            raise WrongError(
                f"its outputs are off by {self.error:.2g} of the largest; sound ones by at most {limit:.2g}"
            )
        start = time.perf_counter()
        self._warm_up()
        self.warm_up = time.perf_counter() - start

    def _native(self, weights: Weights) -> tuple[Any, tuple[str, ...]]:
        """The network before its backend makes it fast; None where a learner builds it itself."""
        case = self.case
        if case.library == OURS:
            return native_of(self.backend, self.planned, weights, case.preset) if case.mode == "infer" else (None, ())
        model = case.spec.name
        if case.library == "gluon":
            layout, own = gluon_layout(self.planned)
            if own is None:
                raise BackendError(f"the Gluon model zoo has no {model}, whose like there is {model}_v1")
            model, weights = own, renamed(layout, weights)
        peers = require(self.backend, BuildsPeers)
        native = peers.peer(case.library, model, case.spec.num_classes, case.spec.in_channels)
        self.backend.load(native, weights)  # raises unless it is the same network
        return native, ()

    def _infer(self, native: Any, images: Array) -> Callable[[], object]:
        case = self.case
        shape = (case.batch, *images.shape[1:])
        judged, others = (
            images[:CHECKED],
            images[CHECKED : 2 * CHECKED],
        )  # int8 is calibrated on others than it is checked on
        whole = np.resize(others, (-(-CHECKED // case.batch) * case.batch, *images.shape[1:]))
        start = time.perf_counter()
        fast = self.bench.fast(FastTask(native, case.precision, case.preset, case.device, shape, whole))
        self.first = time.perf_counter() - start  # it has run a batch
        self.device, self.steps = fast.device, (*self.steps, *fast.steps)
        self._judge(fast(judged))
        batch = fast.put(np.resize(judged, shape))
        return lambda: fast(batch)

    def _train(self, native: Any, weights: Weights, images: Array) -> Callable[[], object]:
        case = self.case
        if case.precision == "int8":
            raise BackendError("no network is trained in int8; choose bfloat16")
        named = weights if native is None else self.backend.dump(native)
        start = time.perf_counter()
        learner = _learner(case, self.planned, native, named)
        self.device, self.steps = learner.device, learner.steps
        few = images[: distinct_images(case.batch)]
        batch = learner.put(np.tile(few, (case.batch // len(few), 1, 1, 1)))
        wanted = _targets(case, case.batch)
        _, outputs = learner.step(batch, wanted, RATE)()
        self.first = time.perf_counter() - start
        self._judge(outputs[: len(few)])
        for _ in range(TRIES):
            _, velocity = learner.dump()
            if any(array.any() for array in velocity.values()):
                break
            learner.step(batch, wanted, RATE)()
        # After the first step that is taken, v is the gradient and the decay's share of the weight.
        still = [name for name, array in named.items() if array.ndim > 1 and _no_gradient(velocity.get(name), array)]
        if still:
            raise WrongError(f"{len(still)} of its gradients are zero, the first is that of {still[0]}")
        return lambda: learner.step(batch, wanted, RATE)

    def _judge(self, outputs: Array) -> None:
        self.error = relative_error(outputs, self.wanted)
        self.agreement = float((outputs.argmax(1) == self.wanted.argmax(1)).mean())

    def run(self, steps: int) -> Round:
        """Some steps, until the device has done them all."""
        busy, start = time.process_time(), time.perf_counter()
        for _ in range(steps):
            self.step()
        self.bench.wait(self.device)
        seconds = time.perf_counter() - start
        return Round(steps * self.case.batch, seconds, (time.process_time() - busy) / seconds)

    def _warm_up(self) -> None:
        """Run until it gets no faster."""
        rates: list[float] = []
        self.pace = self.run(1).seconds
        start = time.perf_counter()
        while not steady(rates) and (time.perf_counter() - start < WARM_UP or len(rates) < 1):
            done = self.run(self.steps_in(ROUND))
            self.pace = done.seconds * self.case.batch / done.images
            rates.append(1 / self.pace)

    def steps_in(self, seconds: float) -> int:
        """How many steps take about that long, one at least."""
        return max(1, round(seconds / self.pace))

    def ceiling(self) -> float | None:
        """Flops a second of a large product of matrices, the best of several; None where there is no such product."""
        size = PRODUCT[self.device.partition(":")[0]]
        taken = []
        with suppress(RuntimeError, MemoryError):
            for multiply in self.bench.products(size, self.case.precision, self.device):
                multiply()
                for _ in range(7):
                    start = time.perf_counter()
                    multiply()
                    taken.append(time.perf_counter() - start)
        return 2 * size**3 / min(taken) if taken else None


def _no_gradient(velocity: Array | None, weight: Array) -> bool:
    """Whether nothing but decay is in the first step's v."""
    decay = np.float32(DECAY) * weight
    return velocity is None or bool(np.abs(velocity - decay).max() <= 1e-5 * np.abs(decay).max())
