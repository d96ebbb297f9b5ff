"""Comparing an identified network in float64 with the exported one, or with a library's own."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from math import sqrt

import numpy as np

from resnet_xf.architecture.measures import FLOAT64_BOUND, relative_error, rounding_bound, roundings
from resnet_xf.architecture.nodes import Sequential, output_shapes
from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.rewrite import in_full_precision
from resnet_xf.architecture.trace import trace
from resnet_xf.architecture.weights import Array, all_weight_shapes
from resnet_xf.architecture.zoo import REFERENCE
from resnet_xf.backend.contract import BuildsPeers, require
from resnet_xf.backend.registry import build, get_backend, is_installed
from resnet_xf.data import sample_images
from resnet_xf.errors import BackendError, ShapeError, WeightsError
from resnet_xf.formats.exported import running_exported
from resnet_xf.formats.exports import Check
from resnet_xf.formats.files import CheckpointFile
from resnet_xf.formats.identify import Identity, arithmetic
from resnet_xf.formats.layouts import renamed
from resnet_xf.formats.loads import gluon_layout, torch_name
from resnet_xf.formats.refusal import or_graph

CHECKED_SIDE = 64
"""Height and width of the images on which networks are compared, where they take such."""

CHANGE = 1e-9
"""The relative size of the change of weights that shows how much a network magnifies rounding errors."""


def verify_identity(file: CheckpointFile, identity: Identity, target: str = "") -> tuple[Check, ...]:
    """Compare our network in float64 with the exported one, if there is one and MXNet is installed.

    Else run ours on PyTorch and MXNet, or on ONNX Runtime beside the one of them that is installed. Compare with a
    library's network of the same arithmetic; if there is none, with each other. ``target`` is the format to be written,
    whose backend runs ours beside the exported network.

    Raises:
        WeightsError: if an error is above ``FLOAT64_BOUND``, and rounding errors as this network magnifies them do not
            explain it.
    """
    images = sample_images(identity.plan.spec.in_channels, checked_size(identity.plan))
    backends = [name for name in ("torch", "mxnet") if is_installed(name)]
    backends += ["onnx"] if len(backends) == 1 and is_installed("onnx") else []
    if (exported := identity.exported) and "mxnet" in backends:
        images = images[:1]  # MXNet's convolution in float64 is slow, and the graph was read operator by operator
        shown = images.transpose(0, 2, 3, 1) if exported.channels_last else images
        ours = "mxnet" if target == "params" else backends[0]
        with running_exported(exported.path, exported.graph, exported.tensors, shown) as result:
            outputs = {f"ours on {ours}": output_of(ours, identity, images)}
            theirs, expected = f"the exported network {exported.path}", result()
        theirs += f" up to {exported.layer}" if exported.layer else ""
    else:
        outputs = {f"ours on {name}": output_of(name, identity, images) for name in backends}
        reference = _reference(file, identity, images)
        if reference is None and len(outputs) < 2:
            return ()
        theirs, expected = reference or outputs.popitem()
    checks = tuple(Check(ours, theirs, relative_error(output, expected)) for ours, output in outputs.items())
    bound = bound_of(identity, images, max(check.error for check in checks))
    if wrong := next((check for check in checks if not check.error <= bound), None):
        raise WeightsError(
            f"{file.path}: {wrong.ours} and {wrong.theirs} differ by {wrong.error:.1e} of the largest output, "
            f"where {bound:.1g} is allowed; is {identity.plan.spec.name} the right spec? "
            f"Name another with --spec{'' if identity.exported else or_graph(file)}"
        )
    return checks


def output_of(backend: str, identity: Identity, images: Array) -> Array:
    """Return the float64 output of our network on a backend, in which no layer computes in float32."""
    chosen, root, weights = get_backend(backend), identity.plan.root, identity.weights
    if identity.exported and (layer := identity.exported.layer):
        names = [name for name, _ in root.children]
        root = Sequential(root.children[: names.index(layer) + 1])
        weights = {name: weights[name] for name in all_weight_shapes(root)}
    network = build(in_full_precision(root), chosen, weights=weights, dtype="float64")
    return chosen.forward(network, images)


def bound_of(identity: Identity, images: Array, error: float) -> float:
    """Return the bound of a float64 output's relative error: ``FLOAT64_BOUND``, or more where rounding explains more.

    How much a network magnifies rounding errors is measured only for an ``error`` above ``FLOAT64_BOUND``: by a small
    change of all weights, as on rung 4 of the ladder.
    """
    if error <= FLOAT64_BOUND:
        return FLOAT64_BOUND
    backend = next(name for name in ("torch", "mxnet", "onnx") if is_installed(name))
    draw = np.random.default_rng(0).standard_normal
    moved = {name: array * (1 + CHANGE * draw(array.shape)) for name, array in identity.weights.items()}
    exact, changed = (output_of(backend, one, images) for one in (identity, replace(identity, weights=moved)))
    steps = roundings(trace(identity.plan, (1, *images.shape[1:])))
    return max(FLOAT64_BOUND, rounding_bound("float64", steps, relative_error(changed, exact) / CHANGE / sqrt(steps)))


def checked_size(planned: Plan) -> tuple[int, int]:
    """Return a size of images at which a comparison takes less time, if the network takes it; else its own."""
    size = planned.spec.image_size
    with suppress(ShapeError):
        smaller = (min(CHECKED_SIDE, size[0]), min(CHECKED_SIDE, size[1]))
        output_shapes(planned.root, (1, planned.spec.in_channels, *smaller))
        return smaller
    return size


def _reference(file: CheckpointFile, identity: Identity, images: Array) -> tuple[str, Array] | None:
    """The name and the float64 output of the source's own network; None where no backend can run it."""
    name = "torch" if identity.words == "torch" else "mxnet"
    if not is_installed(name):
        return None
    backend = get_backend(name)
    if identity.plan.root != arithmetic(identity.plan.spec).root or not identity.plan.spec.num_classes:
        return None  # the other libraries' networks have the default eps, and a head
    if name == "mxnet":
        layout, model = gluon_layout(identity.plan)
        weights = renamed(layout, identity.weights)
    else:
        model, weights = torch_name(identity.plan), file.tensors
    if model is None:
        return None
    try:
        spec = identity.plan.spec
        network = require(backend, BuildsPeers).peer(REFERENCE[model], model, spec.num_classes, spec.in_channels)
        network = backend.copy(network, "float64")
        backend.load(network, weights)
    except (BackendError, WeightsError):  # no library has it with these names and shapes
        return None
    return f"{REFERENCE[model]}'s own {model}", backend.forward(network, images)
