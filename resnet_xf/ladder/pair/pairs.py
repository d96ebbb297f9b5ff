"""Two networks that a user built, prepared for the ladder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from resnet_xf.architecture.measures import layer_of, relative_error
from resnet_xf.architecture.trace import Observed, ObservedTrace, observed_rows
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.backend.contract import Backend, Trains, cannot, require
from resnet_xf.backend.observe import running_order, trace_network
from resnet_xf.backend.registry import backend_of
from resnet_xf.errors import DataError, ResNetXFError, SpecError, WeightsError, one_line
from resnet_xf.ladder.inputs import float32_of, memory_limit, pixels_of
from resnet_xf.ladder.pair.foreign import ForeignBackend
from resnet_xf.ladder.pair.imported import with_layers
from resnet_xf.ladder.pair.names import Layers, partners, proposed, tensor_partners
from resnet_xf.ladder.perturb import noise
from resnet_xf.ladder.short_run import CURVE, LOCKSTEP, ShortRun
from resnet_xf.ladder.subject import Outline, Subject

STEADY = 1e-9
"""Largest relative difference of the loss when one float64 step is taken twice and nothing is random. Rounding errors
are below 1e-11; one value that is dropped out changes far more than this."""

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class _Member:
    """One of the user's two networks, and what one run of it showed.

    Attributes:
        backend: the backend of its framework.
        network: a copy of it in float32. Weights whose shapes were unknown before a first run have them now.
        arrays: its weights in their own dtype, by name.
        layers: its layers, as one run showed them.
        classes: how many outputs it has for an image.
        imported: whether it was rebuilt from an imported graph (:func:`with_layers`).
    """

    backend: Backend
    network: Any
    arrays: Weights
    layers: Layers
    classes: int
    imported: bool


def suggest_names(first: Any, second: Any, images: Array) -> dict[str, str]:
    """Propose the ``names`` of :func:`resnet_xf.parity`: layers match by their order where kinds and shapes agree.

    Check the result: layers of the same shape that run in another order are matched wrongly.

    Args:
        first: a ``torch.nn.Module`` or ``mxnet.gluon.HybridBlock``; it is not changed.
        second: the other one.
        images: ``(N, C, H, W)``.

    Returns:
        From the name of a layer with weights in the second network to its name in the first. Equal names are left out.

    Raises:
        SpecError, WeightsError, DataError: if an argument is no network, or does not run on the images.
    """
    ours, theirs = _both((first, second), images)
    matched = proposed(ours.layers, theirs.layers)
    return {name: partner for name, partner in matched.items() if name != partner}


def pair_of(
    pair: Pair,
    names: Mapping[str, str],
    images: Array | str | Path | None,
    weights: object,
    seed: int,
    level: str,
    max_memory: int | None,
) -> tuple[Subject, list[Backend], str, str]:
    """Prepare the comparison of two networks that a user built.

    The arguments are as in :func:`resnet_xf.parity`; ``weights`` must be None.

    Returns:
        The subject (all inputs of the comparison), a backend for each network, and two texts for the report: where the
        weights and where the images came from.

    Raises:
        SpecError, WeightsError, DataError: if the networks cannot be compared.
    """
    if weights is not None:
        raise WeightsError("weights: a pair of your own networks brings its own; load them before")
    first, second = _both(pair, images)
    layers = partners(first.layers, second.layers, names)
    tensors = tensor_partners(first.layers, second.layers, layers)
    owns = {partner: name for name, partner in layers.items()}
    order = [*(n for n in first.layers.seen if n in owns), *(n for n in owns if n not in first.layers.seen)]
    same = {name: name for name in first.arrays if layer_of(name) in owns}
    ours = _as_backend(first, {name: name for name in order}, same)
    theirs = _as_backend(second, {name: owns[name] for name in order}, {name: own for own, name in tensors.items()})
    pixels = _with_drawn_image(pixels_of(np.asarray(images)))
    brought = {given.name: given.renamed(own.arrays) for own, given in ((first, ours), (second, theirs))}
    arrays, rounded = float32_of(brought[ours.name])
    outline = _outline(pair, ours, pixels)
    lockstep_run, curve_run = (
        ShortRun(
            network=None,
            weights=tuple(arrays),
            channels=pixels.shape[1],
            classes=first.classes,
            size=(pixels.shape[2], pixels.shape[3]),  # the user's, which may be the only one that the networks take
            opens_with_norm=True,
            rows=outline.rows,
            seed=seed,
            **settings,
        )
        for settings in (LOCKSTEP, CURVE)
    )
    if level != "quick":
        for own, given in ((first, ours), (second, theirs)):
            _refuse_chance(own, given, lockstep_run)
    subject = Subject(
        outline=outline,
        weights=arrays,
        images=pixels,
        probe=probe_weights(arrays, seed),
        lockstep_run=lockstep_run,
        curve_start=lambda: arrays,
        curve_run=curve_run,
        max_memory=memory_limit(max_memory),
        brought=brought,
        keeps_more=level != "quick" and any(_keeps_more(given, lockstep_run, arrays) for given in (ours, theirs)),
    )
    idle = sorted({layer_of(name) for own in (first, second) for name in own.arrays} - set(layers) - set(owns))
    origin = f"{ours.name}'s own{rounded}"
    if idle:
        origin += f"; not compared, since they never run: {', '.join(idle)}"
    for member in (first, second):
        if member.imported:
            origin += f"; {member.layers.side}'s layers are read from its graph, whose output is theirs"
    return subject, [ours, theirs], origin, "images given as an array, and a drawn one"


def _with_drawn_image(images: Array) -> Array:
    """Return images ``(N + 1, C, H, W)``: the given ones and one of random pixels. Constant images hide differences."""
    drawn = images.mean() + max(1.0, images.std()) * noise("image", images.shape[1:])
    return np.concatenate([images, drawn[None].astype(np.float32)])


def _both(pair: Pair, images: object) -> tuple[_Member, _Member]:
    """Copy each network, run it on the first image, and return what it showed.

    Raises:
        DataError, SpecError: if the images are no array ``(N, C, H, W)``, or a network cannot run on them.
    """
    if not isinstance(images, np.ndarray) or images.ndim != 4:
        got = f"an array of shape {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise DataError(f"images: a pair needs an array (N, C, H, W), as resnet_xf.data.photographs() gives, got {got}")
    if len(pair) != 2:
        raise SpecError(f"a pair is two networks, got {len(pair)}")
    backends = [backend_of(network) for network in pair]
    names = [backend.name for backend in backends]
    if names[0] == names[1]:
        names = [f"{place} {name}" for place, name in zip(("first", "second"), names, strict=True)]
    first, second = (_look(*three, images) for three in zip(backends, names, pair, strict=True))
    return first, second


def _look(backend: Backend, side: str, network: Any, images: Array) -> _Member:
    """Copy a network, run the copy on the first image, and return the copy with its weights and layers.

    ``side`` is the network's name in messages. Raises SpecError if it does not return one array ``(N, classes)``.
    """
    image = images[:1]
    layered = with_layers(backend, side, network, image)
    duplicate = backend.copy(layered)
    try:
        try:
            arrays = backend.dump(duplicate)
        except Exception:  # Gluon's weights wait for a first run, whose shapes they take
            backend.forward(duplicate, image)
            arrays = backend.dump(duplicate)
        single = backend.copy(duplicate, "float32")
        output = backend.forward(single, image)
        traced, runs = trace_network(backend, single, image), running_order(backend, single, image)
    except (MemoryError, ResNetXFError):
        raise
    except Exception as error:
        raise SpecError(
            f"{side}: {type(network).__name__} does not make one array of images {images.shape}: {one_line(error)}"
        ) from error
    if isinstance(output, list) or output.ndim != 2:
        what = f"{len(output)} outputs" if isinstance(output, list) else output.shape
        raise SpecError(f"{side}: {type(network).__name__} gives {what}; expected one, (N, classes)")
    shapes = {name: array.shape for name, array in arrays.items()}
    return _Member(
        backend, single, arrays, Layers(side, shapes, traced.layers, runs), output.shape[1], layered is not network
    )


def _as_backend(member: _Member, layers: Mapping[str, str], tensors: Mapping[str, str]) -> ForeignBackend:
    """Return a network as a backend. ``layers``, ``tensors``: from the first network's names to this network's own."""
    idle = frozenset(name for name, own in tensors.items() if layer_of(own) not in member.layers.seen)
    return ForeignBackend(member.backend, member.layers.side, member.network, layers, tensors, idle)


def _outline(pair: Pair, first: ForeignBackend, pixels: Array) -> Outline:
    """Return the outline (names, shapes and settings) of the first network's layers, which the second's must equal.

    Raises:
        SpecError: if it has no layers.
    """
    seen = trace_network(first, first.build(None), pixels[:1])
    names = list(dict.fromkeys(type(network).__name__ for network in pair))
    kinds = {name: _kind(layer) if name else "network" for name, layer in seen.layers.items()}
    rows = tuple(observed_rows(seen, kinds))
    if len(rows) < 2:
        raise SpecError(f"{first.name}: {names[0]} has no layers in it; give it some, so that they can be compared")
    return Outline(" and ".join(names), None, None, rows, _settings(seen), first.name)


def _settings(seen: ObservedTrace) -> dict[str, dict[str, float]]:
    """Return the settings (eps, stride and so on) of all layers except norms without running statistics."""
    return {
        name: dict(layer.settings)
        for name, layer in seen.layers.items()
        if layer.settings and ("momentum" not in layer.settings or "running_mean" in layer.weight_shapes)
    }


def _kind(layer: Observed) -> str:
    """Return a layer's kind from the shapes: ``norm``, ``linear``, ``conv``, ``globalpool``, else ``layer``."""
    shapes = layer.weight_shapes
    if "running_mean" in shapes:
        return "norm"
    if (axes := len(shapes.get("weight", ()))) in (2, 4):
        return {2: "linear", 4: "conv"}[axes]
    if not shapes and len(layer.input_shapes) == 1:
        input_shape, output_shape = layer.input_shapes[0], layer.output_shape
        if input_shape[:2] == output_shape[:2] and prod(input_shape[2:]) > prod(output_shape[2:]) == 1:
            return "globalpool"
    return "layer"


def _refuse_chance(member: _Member, backend: ForeignBackend, run: ShortRun) -> None:
    """Raise SpecError if training is random, or if a batch norm keeps a plain mean, as only one framework can.

    Training is random if a layer drops out, or the first step of ``run``, taken twice, gives two losses.
    """
    mend = "set its rate to 0 in both networks, or choose level='quick'"
    for name, layer in member.layers.seen.items():
        if isnan(layer.settings.get("momentum", 0.0)):
            raise SpecError(
                f"{backend.name}: {name} keeps a plain mean (momentum=None), which only one framework knows; give it a "
                "momentum in both networks, or choose level='quick'"
            )
        if rate := layer.settings.get("rate"):
            raise SpecError(f"{backend.name}: {name} drops out at random in training, with rate {rate:g}; {mend}")
    if cannot(backend, "train"):
        return
    losses = []
    for _ in range(2):
        learner = require(backend, Trains).learner(run.task("float64", "cpu"))
        step = next(iter(run))
        try:
            losses.append(learner.step(step.images, step.targets, 0.0)()[0])
        except MemoryError:
            raise
        except Exception:  # a network that does not train is a finding, of rung 7
            return
        finally:
            learner.close()
    if abs(losses[0] - losses[1]) > STEADY * abs(losses[0]):
        values = " and ".join(f"{loss:.6g}" for loss in losses)
        raise SpecError(f"{backend.name}: one training step, taken twice, gives {values}; if it drops out, {mend}")


def _keeps_more(backend: ForeignBackend, run: ShortRun, weights: Weights) -> bool:
    """Return whether training changes more than parameters and running statistics, as an average by another name.

    Then the output changes with a step at learning rate 0, though all weights are loaded again after it.
    """
    if cannot(backend, "train"):
        return False
    learner = require(backend, Trains).learner(run.task("float64", "cpu"))
    step = next(iter(run))
    try:
        learner.load(weights, {})
        before = learner.outputs(step.images)
        learner.step(step.images, step.targets, 0.0)()
        learner.load(weights, {})
        return relative_error(learner.outputs(step.images), before) > STEADY
    except MemoryError:
        raise
    except Exception:  # as in _refuse_chance
        return False
    finally:
        learner.close()


def probe_weights(arrays: Weights, seed: int) -> Weights:
    """Return random float32 weights with these names and shapes. Every value has an effect on the output.

    ``draw_weights`` draws similar ones by its scheme ``probe``.
    """
    norms = {layer_of(name) for name, array in arrays.items() if name.endswith("weight") and array.ndim == 1}
    return {name: _probe(name, array, layer_of(name) in norms, seed) for name, array in arrays.items()}


def _probe(name: str, array: Array, of_norm: bool, seed: int) -> Array:
    word, normal = name.rpartition(".")[2], noise(f"{seed}/{name}", array.shape)
    if array.ndim > 1:
        drawn = normal / sqrt(array.size / min(array.shape[:2]))
        if array.ndim == 4 and array[0].size >= 8:
            drawn -= drawn.mean(axis=(1, 2, 3), keepdims=True)
    elif word in ("weight", "running_var"):
        drawn = 1 + np.tanh(normal) / 2
    else:
        drawn = 0.1 * normal + (0.5 if word == "bias" and of_norm else 0)
    return np.asarray(drawn, np.float32)
