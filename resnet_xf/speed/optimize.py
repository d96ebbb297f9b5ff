"""Makes a network as fast in inference as its backend can: the same call for every backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import numpy as np

from resnet_xf.architecture.measures import EPSILON, relative_error
from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.rewrite import fold_norms
from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.trace import trace
from resnet_xf.architecture.weights import Array, cast_weights, draw_weights, fitting_weights, plain, require_memory
from resnet_xf.backend.contract import Backend, Optimizes, require
from resnet_xf.backend.fast import COMPILED, PRECISIONS, PRESETS, Fast, FastTask, no_gradients
from resnet_xf.backend.registry import get_backend
from resnet_xf.data import sample_images
from resnet_xf.errors import BackendError, ShapeError

CHECKED = 2
"""For how many images the outputs of a fast network are compared with float64."""


@dataclass(frozen=True, eq=False, repr=False)
class Optimized:
    """A network for fast inference, which cannot be trained; :func:`optimize` makes it.

    Call it with images ``(N, C, H, W)`` to get the outputs ``(N, classes)`` in float32. A NumPy array gives a NumPy
    array; a tensor of the framework gives a tensor on the network's device.

    Attributes:
        backend: the backend's name.
        precision: the precision in which it computes, such as ``float32``.
        device: the device on which it runs, such as ``cpu`` or ``cuda:0``.
        image_shape: channels, height and width of the images that it takes.
        steps: what was done to make it fast, in order, such as ``folded norms``.
        error: the error of its outputs for up to two real images, against float64 and relative to the largest output.
    """

    _fast: Fast
    backend: str
    precision: str
    device: str
    image_shape: tuple[int, ...]
    steps: tuple[str, ...]
    error: float

    def __call__(self, images: Any) -> Any:
        """Compute the outputs ``(N, classes)`` for images ``(N, C, H, W)``, in float32.

        Raises:
            ShapeError: if an image has another shape than ``image_shape``. Any number of images is right.
            BackendError: if gradients are wanted: in PyTorch if ``images`` requires them, in MXNet within ``record()``.
        """
        shape = tuple(images.shape)
        if len(shape) != 4 or not shape[0] or shape[1:] != self.image_shape:
            expected = ", ".join(map(str, self.image_shape))
            raise ShapeError(f"images: this network was optimised for (N, {expected}), N at least 1; got {shape}")
        return self._fast(images)

    def __repr__(self) -> str:
        return f"<Optimized: {self.backend}, {self.precision}, {self.device}, {', '.join(self.steps)}>"

    def eval(self) -> Optimized:
        """Return the network itself: it is always in inference mode."""
        return self

    def train(self, mode: bool = True) -> Optimized:
        """Raise BackendError; if ``mode`` is False, return the network itself."""
        return no_gradients() if mode else self


def optimize(
    network: Plan | Spec | str,
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
    """Make a network as fast in inference as its backend can, and check its outputs against float64.

    ``best`` and ``max`` first fold batch norms into their convolutions in the plan (:func:`fold_norms`). The rest
    depends on preset and backend: for PyTorch ``channels_last``, ``torch.compile`` with frozen weights, low precision
    and a GPU's fused kernels; for Gluon static ``hybridize``, oneDNN's fused subgraphs and quantisation.

    Args:
        network: a plan, a spec, or the name of one.
        backend: as :func:`resnet_xf.get_backend` chooses it.
        weights: arrays by name, as ``get_backend(…).dump(module)`` or :func:`resnet_xf.load_weights` returns them; if
            None they are drawn from ``seed``.
        seed: the seed of drawn weights.
        precision: ``float32``, ``bfloat16`` or ``int8``; on a GPU also ``float16`` and ``tf32``.
        batch: the batch size it is tuned for; more images are computed in several batches, the last one filled up.
        image_size: height and width, equal to those of ``calibration``; if None, these, or without them the spec's.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        preset: ``best``, whose compilers take seconds to a minute; ``max``, which tries many kernels on a GPU and
            takes minutes; ``tuned`` or ``eager``, which compile nothing
            (:data:`resnet_xf.backend.fast.PRESETS`).
        calibration: normalised real images ``(N, C, H, W)``, similar to those that will be shown. They set the ranges
            of int8 and measure the error; scikit-learn's photographs or digits if None.

    Returns:
        The fast network.

    Raises:
        BackendError: if the backend or device lacks the precision, a compiler is missing, or the outputs are wrong.
        SpecError, ShapeError, WeightsError: if network, images or weights do not fit each other.
    """
    for what, value, choices in (("precision", precision, PRECISIONS), ("preset", preset, PRESETS)):
        if value not in choices:
            raise BackendError(f"no {what} is called {value!r}; choose one of {', '.join(choices)}")
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
    if image_size is not None and images.shape[2:] != tuple(image_size):
        raise ShapeError(f"calibration: expected images of {size[0]}×{size[1]} pixels, got {images.shape}")
    trace(planned, (batch, *images.shape[1:]))  # raises ShapeError, with the layer's name, if the images do not fit
    arrays = draw_weights(planned, seed) if weights is None else fitting_weights(weights, planned, "float64")
    whole_batches = images[np.arange(ceil(len(images) / batch) * batch) % len(images)]
    native, before = native_of(chosen, planned, arrays, preset)
    fast = bench.fast(FastTask(native, precision, preset, device, (batch, *images.shape[1:]), whole_batches))
    error = _error(chosen, planned, arrays, fast, whole_batches[:batch], precision)
    return Optimized(fast, chosen.name, precision, fast.device, images.shape[1:], (*before, *fast.steps), error)


def native_of(
    backend: Backend, planned: Plan, weights: Mapping[str, Array], preset: str
) -> tuple[Any, tuple[str, ...]]:
    """Build the backend's float32 network with these weights, on the CPU.

    For presets that compile, batch norms are folded into convolutions before. Return the network, and the names of the
    steps taken before: ``folded norms``, or none.
    """
    folds = preset in COMPILED
    node, arrays = fold_norms(planned.root, weights) if folds else (planned.root, weights)
    native = backend.build(node)
    backend.load(native, cast_weights(arrays, "float32"))
    return native, ("folded norms",) if folds else ()


def tolerance(precision: str) -> float:
    """Return the largest error of correct outputs against float64, relative to the largest output.

    It is the square root of the precision's epsilon, so half of the digits are right. int8 has no epsilon; its limit of
    0.5 only excludes outputs without meaning, such as zeros, whose error is 1.
    """
    return sqrt(EPSILON[precision]) if precision in EPSILON else 0.5


def _error(
    backend: Backend, planned: Plan, weights: Mapping[str, Array], fast: Fast, images: Array, precision: str
) -> float:
    """Return the relative error of ``fast`` against the same network in float64.

    Raises:
        BackendError: if it is above the tolerance of the precision.
    """
    reference = backend.build(planned.root, "float64")
    backend.load(reference, {name: array.astype(np.float64) for name, array in weights.items()})
    error = relative_error(fast(images)[:CHECKED], backend.forward(reference, images[:CHECKED]))
    limit = tolerance(precision)
    if not error <= limit:
        raise BackendError(
            f"{backend.name} in {precision}: the optimised network's outputs are off by {error:.2g} of the largest, "
            f"which is no rounding (at most {limit:.2g} would be); choose another precision or preset"
        )
    return error
