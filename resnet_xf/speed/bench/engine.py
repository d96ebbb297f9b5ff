"""The network of one case: built, checked against a float64 reference, warmed up, and run for measurement."""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, NamedTuple

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
from resnet_xf.formats.layouts import renamed
from resnet_xf.formats.loads import gluon_layout
from resnet_xf.speed.bench.case import OURS, Case
from resnet_xf.speed.bench.report import Prepared
from resnet_xf.speed.bench.statistics import steady
from resnet_xf.speed.optimize import native_of, tolerance
from resnet_xf.training.evaluation import task_of
from resnet_xf.training.recipe import Optimizer, Recipe, targets

CHECKED, FEW = 32, 8
"""On how many images inference is checked; and the least number of distinct images in a training batch."""

RATE, DECAY = 1e-6, 1e-4
"""Learning rate and weight decay of a measured training step: so small that the weights hardly change."""

TRIES = 20
"""The most training steps until no gradient overflows in float16. Each overflow halves the loss scale."""

SETTLING = 4
"""Training steps on a GPU before a case tells how much memory it holds. In them a CUDA graph is recorded."""

ROUND, WARM_UP = 0.25, 10.0
"""Seconds of one round of the warm-up; and seconds after which it ends even if the network still gets faster."""

MATRIX_SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices whose product gives the machine's ceiling."""


class WrongError(BenchError):
    """A network computes wrong outputs or gradients."""


class Round(msgspec.Struct, frozen=True, tag=True):
    """A message: how many images were computed in how many seconds, and how many processors were busy on average."""

    images: int
    seconds: float
    processors: float


def sample_crops(channels: int, size: tuple[int, int], count: int) -> Array:
    """Return real images ``(count, channels, H, W)``, float32: random crops of digits, or of photographs if in colour.

    The first images are the same for every ``count``.
    """
    height, width = size
    images = sample_images(channels, (height + height // 2, width + width // 2))
    corners = np.random.default_rng(0).random((count, 2)) * (height // 2 + 1, width // 2 + 1)
    crops = [
        images[n % len(images), :, top : top + height, left : left + width]
        for n, (top, left) in enumerate(corners.astype(int))
    ]
    return np.ascontiguousarray(np.stack(crops))


def distinct_images(batch: int) -> int:
    """Return how many distinct images a training batch has: its largest divisor up to 32, or all if that is below 8.

    Each is repeated equally often, so batch norm computes the same statistics as for the distinct images alone. The
    reference outputs are computed on these alone.
    """
    divisor = max(n for n in range(1, min(batch, CHECKED) + 1) if batch % n == 0)
    return divisor if divisor >= FEW else batch


def reference_name(case: Case) -> str:
    """Return a name that is equal for cases of one network with equal reference outputs: ``infer``, or ``train-32``."""
    return case.mode if case.mode == "infer" else f"{case.mode}-{distinct_images(case.batch)}"


def reference_outputs(case: Case) -> Array:
    """Return the outputs that the case's network should have, ``(N, classes)``, computed in float64 and not optimised.

    They are computed on the case's device, or on the CPU if that fails.
    """
    try:
        return _reference_outputs(case)
    except Exception:
        if case.device == "cpu":
            raise
        return _reference_outputs(msgspec.structs.replace(case, device="cpu"))


def _reference_outputs(case: Case) -> Array:
    planned, weights = plan(case.spec), draw_weights(case.spec, case.seed, "probe")
    images = sample_crops(case.spec.in_channels, case.image_size, max(CHECKED, distinct_images(case.batch)))
    if case.mode == "train":
        images = images[: distinct_images(case.batch)]
        learner = _learner(msgspec.structs.replace(case, precision="float64", preset="eager"), planned, None, weights)
        outputs = learner.step(images, _targets(case, planned.outputs, len(images)), RATE)()[1]
    else:
        backend = get_backend(case.backend)
        network = backend.build(planned.root, "float64")
        backend.load(network, {name: array.astype(np.float64) for name, array in weights.items()})
        network = backend.move(network, case.device)
        parts = (images[n : n + FEW] for n in range(0, CHECKED, FEW))
        outputs = np.concatenate([backend.forward(network, part) for part in parts])
    return outputs


def _targets(case: Case, classes: int, count: int) -> Array:
    """Return target probabilities ``(count, classes)`` for a training batch; repeated images have the same label."""
    labels = np.arange(count) % distinct_images(case.batch) % classes
    return targets(labels, classes, 0.0, count)


def _learner(case: Case, planned: Plan, native: Any, weights: Weights) -> Learner:
    """Return a learner with these weights that trains the case's network (``planned``), or ``native`` if not None."""
    optimizer = Optimizer(learning_rate=RATE, momentum=0.9, weight_decay=DECAY)
    recipe = Recipe(name="bench", epochs=1, batch_size=case.batch, optimizer=optimizer)
    task = replace(task_of(planned, recipe, case.device, preset=case.preset), precision=case.precision)
    if native is not None:
        task = replace(task, network=native, decaying=frozenset(weights))
    learner = require(get_backend(case.backend), Trains).learner(task)
    learner.load(weights, {})
    return learner


class _Started(NamedTuple):
    """A network that has run its first batch.

    ``device``: where it runs. ``steps``: what was done to make it fast. ``first``: the seconds until the first batch
    was done. ``outputs``: those to be checked. ``step``: runs another batch.
    """

    device: str
    steps: tuple[str, ...]
    first: float
    outputs: Array
    step: Callable[[], object]


class Engine:
    """The network of a case: built, then started (:meth:`start`), warmed up (:meth:`warm_up`) and timed (:meth:`run`).

    Building uses the CPU alone, so that many processes can do it at the same time.

    Args:
        case: what to measure.

    Attributes:
        device: where the network runs.

    Raises:
        ResNetXFError, MemoryError: if it cannot be measured.
    """

    def __init__(self, case: Case) -> None:
        self.case, self.device = case, case.device
        self.planned = plan(case.spec)
        self.backend: Backend = get_backend(case.backend)
        self.bench = require(self.backend, Optimizes).bench
        # With "he", a missing batch norm would change little.
        self._weights = draw_weights(self.planned, case.seed, "probe")
        crops = max(2 * CHECKED, distinct_images(case.batch))
        self._images = sample_crops(case.spec.in_channels, case.image_size, crops)
        start = time.perf_counter()
        self._built: tuple[Any, tuple[str, ...]] | None = self._build()
        self._build_seconds, self._failed_seconds = time.perf_counter() - start, 0.0
        self._released = False

    def start(self, reference: Array) -> Prepared:
        """Compile the network, run its first batch, and check the outputs; this can be tried again.

        Args:
            reference: the outputs that it should have, of :func:`reference_outputs`.

        Raises:
            WrongError: if its outputs or gradients are wrong.
            ResNetXFError, MemoryError: if it cannot be measured for another reason.
        """
        start = time.perf_counter()
        native, folded = self._built or self._build()
        self._built = None  # starting changes it
        try:
            started = (self._infer if self.case.mode == "infer" else self._train)(native)
        except Exception:
            self._failed_seconds += time.perf_counter() - start
            raise
        self.device, self._step = started.device, started.step
        error = relative_error(started.outputs, reference)
        if not error <= (limit := tolerance(self.case.precision)):
            raise WrongError(f"its outputs are off by {error:.2g} of the largest; sound ones by at most {limit:.2g}")
        return Prepared(
            version=self.backend.version(),
            steps=(*folded, *started.steps),
            build=self._build_seconds,
            first=self._failed_seconds + started.first,
            error=error,
            agreement=float((started.outputs.argmax(1) == reference.argmax(1)).mean()),
            threads=self.bench.threads(),
        )

    def release(self) -> tuple[int, int] | None:
        """Give cached memory back to a GPU. Return the bytes that are kept there, and those free; None on the CPU."""
        self._released = True
        return self.bench.release(self.device)

    def _build(self) -> tuple[Any, tuple[str, ...]]:
        """Build the network in its framework; return it, and what was done to its plan before, such as folded norms.

        The network is None if the learner will build it.
        """
        case, weights = self.case, self._weights
        if case.library == OURS:
            return native_of(self.backend, self.planned, weights, case.preset) if case.mode == "infer" else (None, ())
        model = case.spec.name
        if case.library == "gluon":
            layout, gluon_name = gluon_layout(self.planned)
            if gluon_name is None:
                raise BackendError(f"the Gluon model zoo has no {model}, whose like there is {model}_v1")
            model, weights = gluon_name, renamed(layout, weights)
        peers = require(self.backend, BuildsPeers)
        native = peers.peer(case.library, model, case.spec.num_classes, case.spec.in_channels)
        self.backend.load(native, weights)  # raises unless the layers are the same
        return native, ()

    def _infer(self, native: Any) -> _Started:
        """Make the network fast, run it, and return it with its outputs for the first ``CHECKED`` images."""
        case, images = self.case, self._images
        shape = (case.batch, *images.shape[1:])
        # int8 is calibrated on other images than those it is checked on.
        checked, others = images[:CHECKED], images[CHECKED : 2 * CHECKED]
        calibration = np.resize(others, (-(-CHECKED // case.batch) * case.batch, *images.shape[1:]))
        start = time.perf_counter()
        fast = self.bench.fast(FastTask(native, case.precision, case.preset, case.device, shape, calibration))
        first = time.perf_counter() - start  # it has run a batch
        batch = fast.put(np.resize(checked, shape))
        return _Started(fast.device, fast.steps, first, fast(checked), lambda: fast(batch))

    def _train(self, native: Any) -> _Started:
        """Build the learner, take a step, check the gradients, and return it with its outputs for distinct images.

        ``native`` is another library's network, or None for this project's. Raises WrongError if a gradient is zero.
        """
        case = self.case
        if case.precision == "int8":
            raise BackendError("no network is trained in int8; choose bfloat16")
        named = self._weights if native is None else self.backend.dump(native)
        start = time.perf_counter()
        learner = _learner(case, self.planned, native, named)
        distinct = self._images[: distinct_images(case.batch)]
        batch = learner.put(np.tile(distinct, (case.batch // len(distinct), 1, 1, 1)))
        labels = _targets(case, self.planned.outputs, case.batch)
        _, outputs = learner.step(batch, labels, RATE)()
        first = time.perf_counter() - start
        for _ in range(TRIES):
            _, velocity = learner.dump()
            if any(array.any() for array in velocity.values()):
                break
            learner.step(batch, labels, RATE)()
        zero = [name for name, array in named.items() if array.ndim > 1 and _no_gradient(velocity.get(name), array)]
        if zero:
            raise WrongError(f"{len(zero)} of its gradients are zero, the first is that of {zero[0]}")
        step = partial(learner.step, batch, labels, RATE)
        for _ in range(0 if learner.device == "cpu" else SETTLING):
            step()()
        return _Started(learner.device, learner.steps, first, outputs[: len(distinct)], step)

    def run(self, steps: int) -> Round:
        """Run ``steps`` batches, or training steps if the case trains, wait for the device, and return the time."""
        if self._released and self.device != "cpu":  # a step that is not timed allocates the memory again
            self._step()
            self.bench.wait(self.device)
        self._released = False
        busy, start = time.process_time(), time.perf_counter()
        for _ in range(steps):
            self._step()
        self.bench.wait(self.device)
        seconds = time.perf_counter() - start
        return Round(steps * self.case.batch, seconds, (time.process_time() - busy) / seconds)

    def warm_up(self, longest: float = inf) -> float:
        """Run until the network gets no faster, at most ``longest`` or ``WARM_UP`` seconds; return the seconds it took.

        Set ``pace`` to the seconds that one step takes.
        """
        rates: list[float] = []
        begin = time.perf_counter()
        self.pace = self.run(1).seconds
        start = time.perf_counter()
        while not steady(rates) and (time.perf_counter() - start < min(WARM_UP, longest) or not rates):
            done = self.run(self.steps_in(ROUND))
            self.pace = done.seconds * self.case.batch / done.images
            rates.append(1 / self.pace)
        return time.perf_counter() - begin

    def steps_in(self, seconds: float) -> int:
        """Return how many steps take about ``seconds`` seconds; at least one."""
        return max(1, round(seconds / self.pace))

    def ceiling(self) -> float | None:
        """Return operations per second of a large matrix product in the case's precision; None if there is none."""
        size = MATRIX_SIZE[self.device.partition(":")[0]]
        times: list[float] = []
        with suppress(RuntimeError, MemoryError):
            for multiply in self.bench.products(size, self.case.precision, self.device):
                multiply()
                times += timeit.repeat(multiply, number=1, repeat=7)
        return 2 * size**3 / min(times) if times else None


def _no_gradient(velocity: Array | None, weight: Array) -> bool:
    """Return whether a weight's gradient is zero, from its momentum buffer ``velocity`` after one step.

    The buffer then is the gradient plus the weight decay's part. None: there is no buffer, so there is no gradient.
    """
    decay = np.float32(DECAY) * weight
    return velocity is None or bool(np.abs(velocity - decay).max() <= 1e-5 * np.abs(decay).max())
