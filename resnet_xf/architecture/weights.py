"""Weights as NumPy arrays by name: their shapes, drawing them from a seed, checking them, safetensors files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import prod, sqrt
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save_file

from resnet_xf.architecture.nodes import Node, Norm, Residual, is_statistic, join, walk
from resnet_xf.architecture.plan import Plan, plan, root_of
from resnet_xf.architecture.rules import ArraySpec
from resnet_xf.architecture.spec import MOST_HEADER, SPEC_KEY, Spec, read_spec
from resnet_xf.errors import SpecError, WeightsError
from resnet_xf.support.environment import memory
from resnet_xf.support.files import atomic, open_regular, reading
from resnet_xf.support.seeding import generator

Array: TypeAlias = NDArray[Any]
Weights: TypeAlias = dict[str, Array]
Scheme: TypeAlias = Literal["he", "xavier", "probe"]

SAFETENSORS_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
"""NumPy dtypes by safetensors' names; bfloat16 is read as its 16 bits."""

MOST_TENSORS = 60_000
"""The most tensors of a checkpoint; the largest network that a spec can describe has fewer."""

COUNTER = "num_batches_tracked"
"""The step counter of PyTorch's batch norms."""

RUN_KEY, DESCRIPTION_KEY, DIGEST_KEY = "resnet_xf.run", "resnet_xf.description", "resnet_xf.blake2b"
"""Keys in the metadata of a safetensors file: a training run and a description, both as JSON, and a digest."""

VELOCITY = "momentum/"
"""The prefix of the optimiser's arrays in the checkpoint of a training run."""


def all_weight_shapes(network: Plan | Spec | str | Node) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a network by dotted name, including running statistics."""
    return {
        join(name, suffix): array.shape
        for name, node in walk(root_of(network))
        for suffix, array in node.arrays().items()
    }


def draw_weights(
    network: Plan | Spec | str | Node, seed: int = 0, scheme: Scheme = "he", dtype: DTypeLike = "float32"
) -> Weights:
    """Draw every array from the seed and its own name, so that no array depends on the other layers.

    Args:
        network: a plan, a spec, the name of one, or a single node.
        seed: any non-negative integer.
        scheme: ``he``: convolutions normal with variance 2 / fan-out (He et al. 2015b; as torchvision), linear layers
            uniform within 1/√fan-in. ``xavier``: both uniform within √(6 / (fan-in + fan-out)) (Glorot and Bengio
            2010; as the book). In both schemes biases and shifts are 0, scales 1, running means 0 and variances 1.
            ``probe``: for comparing implementations. No value is 0 or 1, so that every value changes the output.
            Kernels have mean 0 and shifts are near 0.5, so that hardly any channel is 0 after its ReLU.
        dtype: of the arrays. All are drawn in float32, so float64 arrays have the same values.

    Raises:
        WeightsError: for an unknown scheme or a negative seed.
        MemoryError: if the weights alone need more than the machine's memory.
    """
    if scheme not in get_args(Scheme):
        raise WeightsError(f"no scheme is called {scheme!r}; choose one of {', '.join(get_args(Scheme))}")
    if seed < 0:
        raise WeightsError(f"a seed is 0 or more, got {seed}")
    root = root_of(network)
    require_memory(root)
    factors = _last_norms(root) if scheme == "probe" else {}
    weights: Weights = {}
    for layer, node in walk(root):
        for word, spec in node.arrays().items():
            name = join(layer, word)
            array = _draw(spec, generator(f"{seed}/{name}"), scheme)
            if not is_statistic(word):
                array *= np.float32(factors.get(layer, 1))
            weights[name] = array.astype(dtype, copy=False)
    return weights


def require_memory(network: Plan | Spec | str | Node) -> None:
    """Refuse a network whose weights alone need more than the machine's memory.

    Raises:
        MemoryError: with the memory that is needed and the memory that there is.
    """
    needed = 4 * sum(prod(shape) for shape in all_weight_shapes(network).values())
    available = memory()
    if available and needed > available.total:
        total = available.total / 2**30
        raise MemoryError(f"the weights need {needed / 2**30:,.0f} GiB, and this machine has {total:,.0f}")


def _last_norms(root: Node) -> dict[str, float]:
    """A factor of 1/√blocks for the last norm in the body of each residual block, by the norm's name.

    With it the sum of all blocks is as large as one block, and rounding errors do not grow through hundreds of them.
    """
    lasts: list[str] = []
    for name, block in walk(root):
        if isinstance(block, Residual):
            lasts += [join(name, child) for child, node in block.body if isinstance(node, Norm)][-1:]
    return dict.fromkeys(lasts, 1 / sqrt(max(1, len(lasts))))


def _draw(spec: ArraySpec, generator: np.random.Generator, scheme: Scheme) -> NDArray[np.float32]:
    """Draw one array in float32 with a generator of its own."""
    shape = spec.shape

    def uniform(low: float, high: float) -> NDArray[np.float32]:
        return generator.random(shape, np.float32) * np.float32(high - low) + np.float32(low)

    def normal(deviation: float) -> NDArray[np.float32]:
        return generator.standard_normal(shape, np.float32) * np.float32(deviation)

    if spec.start is None:
        window = prod(shape[2:])
        fan_in, fan_out = shape[1] * window, shape[0] * window
        if scheme == "xavier":
            bound = sqrt(6 / (fan_in + fan_out))
            return uniform(-bound, bound)
        if len(shape) == 2:
            return uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in))
        if scheme == "he":
            return normal(sqrt(2 / fan_out))
        # Half the variance of "he": with random scales, hundreds of blocks would overflow float32.
        kernel = normal(sqrt(1 / fan_out))
        return kernel - kernel.mean(axis=(1, 2, 3), keepdims=True) if fan_in >= 8 else kernel
    if scheme == "probe":
        distribution, first, second = spec.probe
        return uniform(first, second) if distribution == "uniform" else normal(second) + np.float32(first)
    return np.full(shape, spec.start, np.float32)


def plain(array: Array, dtype: DTypeLike = None) -> Array:
    """The array in C order and the machine's byte order, as every framework accepts it."""
    return np.asarray(array, np.dtype(dtype or array.dtype).newbyteorder("="), order="C")


def cast_weights(weights: Mapping[str, Array], dtype: DTypeLike) -> Weights:
    """Return weights in a dtype, as :func:`plain` returns arrays. An array that has the dtype may be returned itself.

    Raises:
        WeightsError: if a value is too large for it.
    """
    with np.errstate(over="ignore"):
        cast = {name: plain(array, dtype) for name, array in weights.items()}
    for name, array in cast.items():
        if (overflowed := np.isinf(array) & np.isfinite(weights[name])).any():
            largest, end = np.abs(weights[name][overflowed]).max(), np.finfo(array.dtype).max
            way = "choose a wider precision, or a format that has one"
            raise WeightsError(f"{name} has the value {largest:.4g}, and {array.dtype} ends at {end:.4g}; {way}")
    return cast


def without_counters(weights: Mapping[str, Array]) -> Weights:
    """Weights without the step counters of PyTorch's batch norms; no forward pass reads them.

    Raises:
        WeightsError: if ``weights`` is not a mapping.
    """
    if not isinstance(weights, Mapping):
        raise WeightsError(
            f"weights: expected a mapping of names to arrays, got {type(weights).__name__}; "
            "`spec, weights = resnet_xf.load_weights(file)` reads one"
        )
    return {name: array for name, array in weights.items() if not name.endswith(COUNTER)}


def fitting_weights(weights: Mapping[str, Array], network: Plan | Spec | str | Node, dtype: DTypeLike) -> Weights:
    """Return weights without step counters. Raises WeightsError as :func:`check_weights` if they do not fit."""
    weights = without_counters(weights)
    check_weights(weights, all_weight_shapes(network), dtype)
    return weights


def first_not_finite(arrays: Mapping[str, Array]) -> str | None:
    """Return the name of the first array that holds NaN or an infinite value; None if none does."""
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)


def check_weights(
    weights: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], dtype: DTypeLike | None = None
) -> None:
    """Compare arrays with a network's names and shapes, and with a dtype unless it is None.

    Raises:
        WeightsError: if an array is missing, left over, of another shape, or would lose digits in ``dtype``.
    """
    for name, array in weights.items():
        if not isinstance(array, np.ndarray):
            raise WeightsError(f"{name} is a {type(array).__name__}; expected a NumPy array, as tensor.numpy() gives")
    problems = {
        "missing": [name for name in shapes if name not in weights],
        "left over": [name for name in weights if name not in shapes],
        "of the wrong shape": [
            f"{name} (expected {shapes[name]}, got {weights[name].shape})"
            for name in weights
            if name in shapes and tuple(weights[name].shape) != tuple(shapes[name])
        ],
        f"not exact in {np.dtype(dtype)} (cast them, or build in their dtype)": [
            f"{name} ({array.dtype})"
            for name, array in weights.items()
            if dtype is not None and not np.can_cast(array.dtype, dtype)
        ],
    }
    complaints = [f"{what}: {_first_few(names)}" for what, names in problems.items() if names]
    if complaints:
        raise WeightsError(f"weights do not fit the network; {'; '.join(complaints)}")


def _first_few(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def save_weights(
    path: str | Path, weights: Mapping[str, Array], spec: Plan | Spec | str, texts: Mapping[str, str] = {}
) -> None:
    """Write weights as a safetensors file with the spec and further texts in its metadata, atomically.

    Raises:
        WeightsError: if the weights do not fit the spec, or the file cannot be written.
    """
    planned = plan(spec)
    check_weights(weights, all_weight_shapes(planned))
    try:
        write_arrays(path, weights, {SPEC_KEY: planned.spec.to_json(), **texts})
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be written: {error}") from None


def write_arrays(path: str | Path, arrays: Mapping[str, Array], texts: Mapping[str, str]) -> None:
    """Write a safetensors file with texts and a digest of everything in its metadata, atomically.

    Raises:
        OSError, SafetensorError: if the file cannot be written; an existing file stays as it was.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic(path) as temporary:
        save_file(contiguous, temporary, metadata={**texts, DIGEST_KEY: digest(contiguous, texts)})


def digest(arrays: Mapping[str, Array], texts: Mapping[str, str] = {}) -> str:
    """Return one digest of every array's name, dtype, shape and bytes, and of the texts; the order is no matter."""
    hasher = hashlib.blake2b(digest_size=16)
    for key in sorted(texts):
        hasher.update(texts[key].encode())
    for name in sorted(arrays):
        hasher.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        hasher.update(np.ascontiguousarray(arrays[name]).data)
    return hasher.hexdigest()


def load_weights(path: str | Path) -> tuple[Spec, Weights]:
    """Read the spec and the weights from a file that :func:`save_weights` wrote.

    Preprocessing and class names are not returned, so :func:`save_weights` does not write them again;
    :func:`resnet_xf.convert` keeps them.

    Raises:
        WeightsError: if the file cannot be read, has no spec, or its weights do not fit the spec.
    """
    weights, spec, _ = read_safetensors(path)
    if spec is None:
        raise WeightsError(f"{path}: holds no spec in its metadata; `resnet-xf convert` writes a file that does")
    try:
        shapes = all_weight_shapes(spec)
        check_weights(weights, shapes)
    except (SpecError, WeightsError) as error:
        raise WeightsError(f"{path}: {error}") from None
    return spec, {name: weights[name] for name in shapes}


def read_safetensors(path: str | Path) -> tuple[Weights, Spec | None, dict[str, str]]:
    """The weights in a safetensors file (bfloat16 as float32), the spec in its metadata or None, and its texts.

    The optimiser's arrays in the checkpoint of a training run are left out.

    Raises:
        WeightsError: if the file cannot be read, its digest does not fit, or the spec is malformed.
    """
    arrays, texts = read_arrays(path)
    weights = {name: array for name, array in arrays.items() if not name.startswith(VELOCITY)}
    try:
        return weights, plan(read_spec(texts[SPEC_KEY])).spec if texts else None, texts
    except SpecError as error:
        raise WeightsError(f"{path}: the spec in its metadata is malformed: {error}") from None


def read_arrays(path: str | Path) -> tuple[Weights, dict[str, str]]:
    """All arrays in a safetensors file (bfloat16 as float32), and the texts in its metadata that resnet_xf wrote.

    Raises:
        WeightsError: if the file cannot be read, or its digest does not fit.
    """
    hint = "; `resnet-xf convert` makes one of a .pth or .params file"
    with reading(path, WeightsError, "safetensors", hint):
        with open_regular(path) as file:
            begin = file.read(8)
            if (size := int.from_bytes(begin, "little")) > MOST_HEADER:
                raise ValueError(f"its header claims {size:,} bytes, more than {MOST_HEADER:,}")
            data = begin + file.read()
        with safe_open(path, framework="numpy") as opened:
            metadata = opened.metadata() or {}
        arrays = {name: _array(name, **entry) for name, entry in deserialize(data)}  # type: ignore[no-untyped-call]
    texts = {key: metadata[key] for key in (SPEC_KEY, RUN_KEY, DESCRIPTION_KEY) if key in metadata}
    written = metadata.get(DIGEST_KEY)
    if (texts or written is not None) and (SPEC_KEY not in texts or written != digest(arrays, texts)):
        raise WeightsError(f"{path}: its digest does not fit its contents; the file is damaged or was changed")
    return arrays, texts


def _array(name: str, dtype: str, shape: list[int], data: bytes) -> Array:
    if dtype not in SAFETENSORS_DTYPES:
        raise WeightsError(f"{name} has the dtype {dtype}; expected one of {', '.join(SAFETENSORS_DTYPES)}")
    array = np.frombuffer(data, SAFETENSORS_DTYPES[dtype]).reshape(shape).copy()
    return widened(array) if dtype == "BF16" else array


def widened(bfloat16: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Exact float32 values of bfloat16 values that are given as their 16 bits."""
    return (bfloat16.astype("<u4") << 16).view("<f4")
