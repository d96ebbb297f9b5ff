"""A network at its fastest in inference: one neutral call for every backend."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, sqrt
from typing import Any

import numpy as np

from resnet_xf.architecture.measures import EPSILON, relative_error
from resnet_xf.architecture.nodes import Node
from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.rewrite import fold_norms
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.architecture.trace import trace
from resnet_xf.architecture.weights import Array, draw_weights, plain, require_memory, without_counters
from resnet_xf.backend.contract import Backend, Optimizes, require
from resnet_xf.backend.fast import PRECISIONS, PRESETS, Fast, FastTask, no_gradients
from resnet_xf.backend.registry import get_backend
from resnet_xf.data import sample_images
from resnet_xf.errors import BackendError, ShapeError

CHECKED = 2
"""Images on which a fast network is held against float64 before it is handed out."""


class Optimized:
    """A network that is fast in inference, and for nothing else; :func:`optimize` makes it.

    Called with images ``(N, C, H, W)`` it gives the outputs ``(N, classes)`` in float32: a NumPy array for an array,
    and the framework's own for the framework's own, on its device.

    Attributes:
        backend, precision, device: where and how it runs.
        image_shape: channels, height and width of the images that it takes.
        steps: what was done to it, in order.
        error: of its outputs for up to two real images against float64, relative to the largest.
    """

    def __init__(
        self,
        fast: Fast,
        backend: str,
        precision: str,
        image_shape: tuple[int, ...],
        steps: tuple[str, ...],
        error: float,
    ) -> None:
        self._fast = fast
        self.backend, self.precision, self.device = backend, precision, fast.device
        self.image_shape, self.steps, self.error = image_shape, steps, error

    def __call__(self, images: Any) -> Any:
        """See the class; raises BackendError where gradients are asked for, ShapeError for other images."""
        shape = tuple(images.shape)
        if len(shape) != 4 or not shape[0] or shape[1:] != self.image_shape:
            wanted = ", ".join(map(str, self.image_shape))
            raise ShapeError(f"images: this network was optimised for (N, {wanted}), N at least 1; got {shape}")
        return self._fast(images)

    def __repr__(self) -> str:
        return f"<Optimized: {self.backend}, {self.precision}, {self.device}, {', '.join(self.steps)}>"

    def eval(self) -> Optimized:
        """Itself: it has no other mode."""
        return self

    def train(self, mode: bool = True) -> Optimized:
        """Refuse, unless ``mode`` is False."""
        return no_gradients() if mode else self


def optimize(
    network: Plan | ResNetSpec | str,
    backend: str | Backend | None = None,
    *,
    weights: Mapping[str, Array] | None = None,
    seed: int = 0,
    precision: str = "float32",
    batch: int = 1,
    image_size: tuple[int, int] | None = None,
    device: str = "cpu",
    preset: str = "best",
    calibration: Array | None = None,
) -> Optimized:
    """Make a network as fast in inference as its backend can, and hold it against float64 before it is handed out.

    Norms are folded into their convolutions in the plan (:func:`fold_norms`). The rest is each
    backend's own: PyTorch's ``channels_last``, ``torch.compile`` with frozen weights and low precision; Gluon's static
    ``hybridize``, oneDNN's fused subgraphs and quantisation.

    Args:
        network: a plan, a spec, or the name of one.
        backend: as :func:`resnet_xf.get_backend` chooses it.
        weights: arrays by name, as ``get_backend(…).dump(module)`` gives them or, after its spec,
            :func:`resnet_xf.load_weights`; if None they are drawn from ``seed``.
        seed: for that draw.
        precision: ``float32``, ``bfloat16`` or ``int8``; on a GPU also ``float16`` and ``tf32``.
        batch: how many images it is tuned for; others are cut into such batches, of which the last is filled up.
        image_size: height and width; the spec's own if None, or those of ``calibration``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        preset: ``best``, whose compilers take seconds to a minute; ``tuned`` or ``eager``, which need none
            (:data:`resnet_xf.backend.fast.PRESETS`).
        calibration: real images ``(N, C, H, W)`` like those to come, normalised, by which int8's ranges are set and the
            error is measured; scikit-learn's photographs or digits if None.

    Raises:
        BackendError: if this backend or device has no such precision, a compiler is missing, or the outputs are not the
            network's.
        SpecError, ShapeError, WeightsError: for what makes no network.
    """
    if precision not in PRECISIONS:
        raise BackendError(f"no precision is called {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if preset not in PRESETS:
        raise BackendError(f"no preset is called {preset!r}; choose one of {', '.join(PRESETS)}")
    if batch < 1:
        raise ShapeError(f"batch: at least one image must be shown at a time, got {batch}")
    chosen = get_backend(backend)
    bench = require(chosen, Optimizes).bench
    planned = plan(network)
    require_memory(planned)
    size = image_size or planned.spec.image_size
    images = (
        sample_images(planned.spec.in_channels, size, None) if calibration is None else plain(calibration, "float32")
    )
    if images.ndim != 4 or not len(images):
        raise ShapeError(f"calibration: expected images (N, C, H, W), N at least 1; got {images.shape}")
    trace(planned, (batch, *images.shape[1:]))  # refuses images that do not fit, by the layer's name
    arrays = draw_weights(planned, seed) if weights is None else without_counters(weights)
    whole = images[np.arange(ceil(len(images) / batch) * batch) % len(images)]  # batches, the last filled up
    native, before = native_of(chosen, planned, arrays, preset)
    fast = bench.fast(FastTask(native, precision, preset, device, (batch, *images.shape[1:]), whole))
    error = _error(chosen, planned, arrays, fast, whole[:batch], precision)
    return Optimized(fast, chosen.name, precision, images.shape[1:], (*before, *fast.steps), error)


def native_of(
    backend: Backend, planned: Plan, weights: Mapping[str, Array], preset: str
) -> tuple[Any, tuple[str, ...]]:
    """The native network that a backend makes fast, in float32, and what the preset has done to it before."""
    node: Node = planned.root
    steps: tuple[str, ...] = ()
    if preset == "best":
        node, weights = fold_norms(node, weights)
        steps = ("folded norms",)
    native = backend.build(node)
    backend.load(native, {name: array.astype(np.float32, copy=False) for name, array in weights.items()})
    return native, steps


def tolerance(precision: str) -> float:
    """How far outputs may be from float64's: of a sound result half the digits are right.

    int8 has no such law, and is judged by what it is used for; but zeros are off by 1.
    """
    return sqrt(EPSILON[precision]) if precision in EPSILON else 0.5


def _error(
    backend: Backend, planned: Plan, weights: Mapping[str, Array], fast: Fast, images: Array, precision: str
) -> float:
    """The relative error against the plan's own float64 network; raises BackendError where that is no rounding."""
    referee = backend.build(planned.root, "float64")
    backend.load(referee, {name: array.astype(np.float64) for name, array in weights.items()})
    error = relative_error(fast(images)[:CHECKED], backend.forward(referee, images[:CHECKED]))
    limit = tolerance(precision)
    if not error <= limit:
        raise BackendError(
            f"{backend.name} in {precision}: the optimised network's outputs are off by {error:.2g} of the largest, "
            f"which is no rounding (at most {limit:.2g} would be); choose another precision or preset"
        )
    return error
