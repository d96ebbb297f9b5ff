"""Weights as named NumPy arrays: what a network needs, drawing them from a seed, checking, safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from math import prod, sqrt
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from resnet_xf.errors import SpecError, WeightsError
from resnet_xf.files import atomic
from resnet_xf.nodes import Node, Norm, join, walk, weight_shapes
from resnet_xf.plan import Plan, root_of
from resnet_xf.spec import ResNetSpec

Array: TypeAlias = NDArray[Any]
Weights: TypeAlias = dict[str, Array]
Scheme: TypeAlias = Literal["he", "xavier", "probe"]

SPEC_KEY = "resnet_xf.spec"
"""Where in a safetensors file's metadata the spec stands, as JSON."""


def all_weight_shapes(network: Plan | ResNetSpec | str | Node) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a network, running statistics included, by dotted name."""
    return {
        join(name, suffix): shape
        for name, node in walk(root_of(network))
        for suffix, shape in weight_shapes(node).items()
    }


def draw_weights(
    network: Plan | ResNetSpec | str | Node,
    seed: int = 0,
    scheme: Scheme = "he",
    dtype: DTypeLike = "float32",
) -> Weights:
    """Draw every array from a seed and its own name, so that no draw depends on the other layers.

    Args:
        network: a plan, a spec, the name of one, or a single node.
        seed: any non-negative integer.
        scheme: ``he``: normal with variance 2 / fan-out in convolutions (He et al. 2015b; torchvision's), uniform
            within 1/√fan-in in the linear layer; ``xavier``: uniform within √(6 / (fan-in + fan-out)) in both
            (Glorot and Bengio 2010; the book's). In both, biases and shifts are 0, scales 1, running means 0 and
            variances 1. ``probe``: for comparing implementations, a network in which every number matters:
            nothing is left at 0 or 1, and kernels of mean 0 and shifts about 0.5 keep all but a few channels
            from being silenced by their ReLU.
        dtype: of the arrays. All are drawn in float32, so that float64 arrays hold the same numbers.
    """
    shapes = {
        join(name, suffix): (node, suffix, shape)
        for name, node in walk(root_of(network))
        for suffix, shape in weight_shapes(node).items()
    }
    return {
        name: _draw(node, suffix, shape, _generator(seed, name), scheme).astype(dtype, copy=False)
        for name, (node, suffix, shape) in shapes.items()
    }


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def _draw(
    node: Node, suffix: str, shape: tuple[int, ...], generator: np.random.Generator, scheme: Scheme
) -> NDArray[np.float32]:
    def uniform(low: float, high: float) -> NDArray[np.float32]:
        return generator.random(shape, np.float32) * np.float32(high - low) + np.float32(low)

    def normal(deviation: float) -> NDArray[np.float32]:
        return generator.standard_normal(shape, np.float32) * np.float32(deviation)

    if suffix == "weight" and len(shape) > 1:
        window = prod(shape[2:])
        fan_in, fan_out = shape[1] * window, shape[0] * window
        if scheme == "xavier":
            bound = sqrt(6 / (fan_in + fan_out))
            return uniform(-bound, bound)
        if len(shape) == 2:
            return uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in))
        if scheme == "he":
            return normal(sqrt(2 / fan_out))
        # A probe's variance is half of that: through hundreds of blocks, its random scales would overflow float32.
        kernel = normal(sqrt(1 / fan_out))
        return kernel - kernel.mean(axis=(1, 2, 3), keepdims=True) if fan_in >= 8 else kernel
    if scheme == "probe":
        if suffix in ("weight", "running_var"):
            return uniform(0.5, 1.5)
        return normal(0.1) + np.float32(0.5 if suffix == "bias" and isinstance(node, Norm) else 0)
    ones = suffix == "running_var" or (suffix == "weight" and not (isinstance(node, Norm) and node.zero_init))
    return np.ones(shape, np.float32) if ones else np.zeros(shape, np.float32)


def check_weights(weights: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], dtype: DTypeLike) -> None:
    """Hold arrays against the names and shapes that a network has, and its dtype.

    Raises:
        WeightsError: if any is missing, left over, of another shape, or would lose digits in ``dtype``.
    """
    wrong = {
        "missing": [name for name in shapes if name not in weights],
        "left over": [name for name in weights if name not in shapes],
        "of the wrong shape": [
            f"{name} (expected {shapes[name]}, got {weights[name].shape})"
            for name in weights
            if name in shapes and tuple(weights[name].shape) != tuple(shapes[name])
        ],
        f"not exact in {np.dtype(dtype)}": [
            f"{name} ({array.dtype})" for name, array in weights.items() if not np.can_cast(array.dtype, dtype)
        ],
    }
    complaints = [f"{what}: {_some(names)}" for what, names in wrong.items() if names]
    if complaints:
        raise WeightsError(f"weights do not fit the network; {'; '.join(complaints)}")


def _some(names: Iterable[str], most: int = 5) -> str:
    """The first few names and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def save_weights(path: str | Path, weights: Mapping[str, Array], spec: ResNetSpec) -> None:
    """Write weights as safetensors, the spec in its metadata; atomically.

    Raises:
        WeightsError: if the weights do not fit the spec, or the file cannot be written.
    """
    dtype = np.result_type(*weights.values()) if weights else np.dtype("float32")
    check_weights(weights, all_weight_shapes(spec), dtype)
    contiguous = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    try:
        with atomic(path) as temporary:
            save_file(contiguous, temporary, metadata={SPEC_KEY: spec.to_json()})
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be written: {error}") from None


def load_weights(path: str | Path) -> tuple[ResNetSpec, Weights]:
    """Read a file that :func:`save_weights` wrote: the spec, and the weights that fit it.

    Raises:
        WeightsError: if the file cannot be read, holds no spec, or its weights do not fit the spec.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(SPEC_KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not readable as safetensors: {error}") from None
    if text is None:
        raise WeightsError(f"{path}: holds no spec in its metadata under {SPEC_KEY!r}; it was not written here")
    try:
        spec = ResNetSpec.from_json(text)
        shapes = all_weight_shapes(spec)
        check_weights(weights, shapes, np.result_type(*weights.values()) if weights else "float32")
    except (SpecError, WeightsError) as error:
        raise WeightsError(f"{path}: {error}") from None
    return spec, {name: weights[name] for name in shapes}
