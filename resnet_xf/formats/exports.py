"""Writing a network with its weights for use without this package: PyTorch's and ONNX's graphs, and folders for timm.

What was written is run before it gets its name, and its outputs are compared with ours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import save_file

from resnet_xf.architecture.measures import EPSILON, relative_error
from resnet_xf.architecture.nodes import Conv, walk
from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.weights import Array, Weights, cast_weights
from resnet_xf.backend.contract import Exports, require
from resnet_xf.backend.registry import BUILT_IN, build, get_backend, is_installed
from resnet_xf.data import sample_images
from resnet_xf.errors import BackendError, ResNetXFError, SpecError, WeightsError, one_line
from resnet_xf.formats.description import Description, check_beside, write_beside
from resnet_xf.formats.files import EXPORTED
from resnet_xf.formats.loads import timm_model
from resnet_xf.support.files import atomic, new_folder

BACKENDS = EXPORTED | {"": "torch"}
"""By suffix, the backend that writes and runs the file. A folder for timm has none; PyTorch runs it."""

LOADS = {
    ".pt2": "torch.export.load({path!r}).module()(images) computes it, without resnet_xf",
    ".onnx": "onnxruntime.InferenceSession({path!r}).run(None, {{'images': images}}) computes it, without resnet_xf",
    "": "timm.create_model({name!r}, pretrained=True) loads it",
}
"""By suffix, how a file is used."""

PRECISIONS = ("float32", "float16", "bfloat16")


class Check(msgspec.Struct, frozen=True):
    """One comparison of outputs.

    Attributes:
        ours: our network on a backend, or a file that was written, in ``precision``.
        theirs: the network it was compared with, in float64: the file's own, or ours on a backend.
        error: the relative error, as :func:`resnet_xf.architecture.measures.relative_error` defines it.
        precision: of ``ours``.
    """

    ours: str
    theirs: str
    error: float
    precision: str = "float64"


def export_suffix(target: str | Path) -> str | None:
    """Return the suffix of an exported network, ``.pt2`` or ``.onnx``; empty for a folder, and None for other files.

    A folder is a path that ends in a slash, or has no suffix.
    """
    suffix = "" if str(target).endswith(("/", os.sep)) else Path(target).suffix
    return suffix if suffix in BACKENDS else None


def how_to_load(target: str | Path) -> str:
    """Return in words how an exported network is used."""
    return LOADS[export_suffix(target) or ""].format(path=str(target), name=f"local-dir:{Path(target)}")


def export(
    network: Plan | Spec | str,
    weights: Mapping[str, Array],
    path: str | Path,
    *,
    description: Description | None = None,
    precision: str | None = None,
    verify: bool = True,
) -> tuple[Check, ...]:
    """Write a network so that it runs without this package, run what was written, and compare the outputs with ours.

    The graphs take float32 images ``(N, C, H, W)`` and return float32 ``(N, classes)``. N may be any number, and so may
    H and W if the layers allow it.

    Args:
        network: a plan, a spec, or the name of one.
        weights: its arrays by name. They are rounded to ``precision``.
        path: a ``.pt2`` file for ``torch.export.load``, an ``.onnx`` file, or a folder for timm, which has no suffix or
            ends in a slash. A folder must be new or empty.
        description: the preprocessing and the class names, which go into the folder's ``config.json``, or beside a
            file: into ``net.onnx.json``. The preprocessing's image size is also the one that a graph takes; without
            it, that is the spec's.
        precision: ``float32``, ``float16`` or ``bfloat16``, of the weights and of the arithmetic; float32 if None.
        verify: run what was written.

    Returns:
        The comparison with our network in float64; empty without ``verify``, and for a folder where timm or PyTorch is
        not installed.

    Raises:
        SpecError: if timm has no network with this arithmetic.
        WeightsError: if the weights do not fit, the path cannot be written, or the outputs differ by more than
            rounding; then nothing is written.
        BackendError: if the framework is not installed, or has not this precision.
    """
    suffix, planned, precision = export_suffix(path), plan(network), precision or "float32"
    if suffix is None:
        raise WeightsError(f"{path}: expected a suffix of {', '.join(filter(None, BACKENDS))}, or a folder for timm")
    if precision not in PRECISIONS:
        raise BackendError(f"no network is exported in {precision!r}; choose one of {', '.join(PRECISIONS)}")
    described, path = msgspec.structs.replace(description or Description(), spec=planned.spec), Path(path)
    described.check(planned.spec, path)
    arrays = cast_weights(weights, "float32")
    if precision == "float16":
        cast_weights(arrays, precision)  # raises if a value is too large
    try:
        if suffix:
            check_beside(path)
            with atomic(path) as temporary:
                checks = _write_graph(planned, arrays, temporary, path, described, precision, verify)
            write_beside(path, described)
        else:
            checks = _write_folder(planned, arrays, path, described, precision, verify)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written: {error.strerror or error}") from None
    return checks


def _write_graph(
    planned: Plan,
    weights: Weights,
    temporary: Path,
    path: Path,
    description: Description,
    precision: str,
    verify: bool,
) -> tuple[Check, ...]:
    backend = get_backend(BACKENDS[path.suffix])
    exports = require(backend, Exports)
    images = _images(planned, description)
    network = build(planned.root, backend, weights=weights)
    exports.export(network, temporary, images, precision)
    return _compare(planned, weights, temporary, path, images, precision) if verify else ()


def _write_folder(
    planned: Plan, weights: Weights, path: Path, description: Description, precision: str, verify: bool
) -> tuple[Check, ...]:
    config = timm_config(planned, description)
    if precision == "bfloat16":
        raise BackendError("a folder for timm is written by NumPy, which has no bfloat16; choose float16")
    with new_folder(path, WeightsError) as folder:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        arrays = cast_weights(weights, precision)
        with atomic(folder / "model.safetensors") as temporary:
            save_file(arrays, temporary, metadata={"format": "pt"})
        runs = verify and is_installed("torch") and find_spec("timm") is not None
        images = _images(planned, description)
        return _compare(planned, weights, folder, path, images, precision) if runs else ()


def _images(planned: Plan, description: Description) -> Array:
    """At least two real images of the size that the network will be shown."""
    preprocessing = description.preprocessing
    size = preprocessing.image_size if preprocessing else planned.spec.image_size
    return sample_images(planned.spec.in_channels, size)


def _compare(
    planned: Plan, weights: Weights, written: Path, path: Path, images: Array, precision: str
) -> tuple[Check, ...]:
    """Run what was written on one image and on several, and compare with our network in float64.

    Raises:
        WeightsError: if it does not run, or half of the digits of an output are wrong.
    """
    writer = get_backend("torch" if written.is_dir() else BACKENDS[path.suffix])
    try:
        run = require(writer, Exports).run_export
        outputs = [run(written, shown) for shown in (images[:1], images)]
    except ResNetXFError:
        raise
    except Exception as error:  # each framework has errors of its own
        raise WeightsError(f"{path}: was written and does not run: {one_line(error)}") from error
    ours = "torch" if is_installed("torch") else writer.name
    return (compared(f"{path} in {BUILT_IN[writer.name].title}", outputs, ours, planned, weights, images, precision),)


def compared(
    title: str,
    outputs: Sequence[Array],
    ours: str,
    planned: Plan,
    weights: Mapping[str, Array],
    images: Array,
    precision: str,
) -> Check:
    """Compare outputs for all images, or for the first ones, with those of our network in float64.

    Args:
        title: of what gave the outputs.
        outputs: any number of them.
        ours: the backend that runs our network.
        planned: our network.
        weights: its arrays by name.
        images: ``(N, C, H, W)``.
        precision: of the outputs' arithmetic.

    Raises:
        WeightsError: if half of the digits of an output are wrong.
    """
    backend = get_backend(ours)
    network = build(planned.root, backend, weights=weights, dtype="float64")
    expected = backend.forward(network, images)
    difference = max(relative_error(output, expected[: len(output)]) for output in outputs)
    check = Check(title, f"ours on {ours} in float64", difference, precision)
    if not difference <= (bound := EPSILON[precision] ** 0.5):
        raise WeightsError(
            f"{check.ours} and {check.theirs} differ by {difference:.1e} of the largest output, where rounding to "
            f"{precision} explains {bound:.1g}; choose float32"
        )
    return check


def _crop_pct(height: int, width: int) -> float:
    """Return the share with which timm resizes as :func:`resnet_xf.data.images.centre_of` does.

    timm divides the size by it and rounds down, and ours is rounded to the nearest pixel.
    """
    whole = round(height * 8 / 7)
    return 0.875 if height != width or int(height / 0.875) == whole else height / (whole + 0.5)


def timm_config(planned: Plan, description: Description) -> dict[str, Any]:
    """Return what timm's ``config.json`` says of a network: its architecture, its classes, its preprocessing.

    Raises:
        SpecError: if timm has no network with this arithmetic, or no such preprocessing.
    """
    spec, model = planned.spec, timm_model(planned)
    if model is None:
        raise SpecError(
            f"{spec.name}: timm has no network that computes the same; write a .pt2, .onnx, .pth or .safetensors file"
        )
    name, arguments = model
    preprocessing = description.preprocessing
    settings: dict[str, Any] = {"input_size": [spec.in_channels, *spec.image_size], "num_classes": spec.num_classes}
    if preprocessing is not None:
        if preprocessing.channel_order != "RGB" and spec.in_channels == 3:
            raise SpecError(f"{spec.name}: takes images in BGR, and timm's are RGB; write another format")
        if preprocessing.interpolation != "antialias":
            raise SpecError(f"{spec.name}: takes images without antialiasing, and timm's have it; write another format")
        transform = preprocessing.transform(spec.in_channels)
        settings |= {
            "input_size": [spec.in_channels, *preprocessing.image_size],
            "mean": list(np.broadcast_to(transform.mean, spec.in_channels).astype(float)),
            "std": list(np.broadcast_to(transform.std, spec.in_channels).astype(float)),
            "interpolation": "bilinear",
            "crop_pct": _crop_pct(*preprocessing.image_size) if preprocessing.crop == "centre" else 1.0,
            "crop_mode": "center" if preprocessing.crop == "centre" else "squash",
        }
    first = next(name for name, node in walk(planned.root) if isinstance(node, Conv))
    settings |= {"first_conv": first, "classifier": "fc"}
    labels = {"label_names": list(description.classes)} if description.classes else {}
    known = {"architecture": name, "num_classes": spec.num_classes, "pretrained_cfg": settings, **labels}
    return known | ({"model_args": arguments} if arguments else {})
