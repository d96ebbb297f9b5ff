"""Networks layer by layer as data: every kind comes back as it was, and what is malformed is refused by its path."""

import json
from dataclasses import fields
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from resnet_xf import draw_weights, load_weights, plan, save_weights
from resnet_xf.architecture import nodes
from resnet_xf.architecture.explicit import DEEPEST, KINDS, MOST_LAYERS, decode, encode
from resnet_xf.architecture.nodes import Node, Sequential, walk
from resnet_xf.architecture.plan import explicit_spec, resized
from resnet_xf.architecture.spec import ExplicitSpec, read_spec
from resnet_xf.errors import SpecError
from resnet_xf_mxnet import builder as mxnet_builder
from resnet_xf_mxnet.numpy_compat import mx
from resnet_xf_torch import builder as torch_builder

RELU = ("act", nodes.Activation("relu"))

EXAMPLES: dict[str, Node] = {
    "Conv": nodes.Conv(4, 6, 3, 2, 2, 2, 2, True),
    "Norm": nodes.Norm(4, 1e-3, 0.1, scale=False, shift=False, zero_init=True, axes=2),
    "GroupNorm": nodes.GroupNorm(4, 2, 1e-3),
    "Activation": nodes.Activation("softmax"),
    "LeakyReLU": nodes.LeakyReLU(0.1, float32=True),
    "Clip": nodes.Clip(-1.0, 6.0),
    "PReLU": nodes.PReLU(4, float32=True),
    "Scale": nodes.Scale((1.0, 2.0, 3.0), (0.5,)),
    "Dropout": nodes.Dropout(0.4),
    "Pad": nodes.Pad(1),
    "Pool": nodes.Pool("avg", 3, 2, 1, ceil=True, counts_padding=True),
    "RadixSum": nodes.RadixSum(2),
    "RadixSoftmax": nodes.RadixSoftmax(2, 3),
    "GlobalPool": nodes.GlobalPool(),
    "Flatten": nodes.Flatten(),
    "Linear": nodes.Linear(4, 5, bias=False),
    "Sequential": nodes.Sequential((RELU, ("pool", nodes.GlobalPool()))),
    "Gate": nodes.Gate((RELU,)),
    "Residual": nodes.Residual(
        (("pre", RELU[1]),), (RELU,), Sequential((RELU,)), "preactivation", (("post", RELU[1]),)
    ),
}


def small() -> ExplicitSpec:
    """A network with a container, a batch norm and a gate."""
    gate = nodes.Gate((("pool", nodes.GlobalPool()), ("fc", nodes.Conv(4, 4, 1, bias=True))))
    block = nodes.Residual((), (("conv1", nodes.Conv(4, 4, 3, 1, 1)), ("se", gate)), None, "input", (RELU,))
    children = (
        ("conv1", nodes.Conv(3, 4, 3, 1, 1)),
        ("bn1", nodes.Norm(4, 1e-5, 0.1)),
        ("layer1", Sequential((("0", block),))),
        ("global_pool", nodes.GlobalPool()),
        ("flatten", nodes.Flatten()),
        ("drop", nodes.Dropout(0.25)),
        ("fc", nodes.Linear(4, 5)),
    )
    return explicit_spec("small", Sequential(children), (16, 16))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_from_json_as_it_was(kind: str) -> None:
    node = EXAMPLES[kind]
    assert all(getattr(node, field.name) != field.default for field in fields(node))
    for example in (node, _at_defaults(node)):
        data = json.loads(json.dumps(encode((("one", example),))))
        assert decode(data) == Sequential((("one", example),))


def _at_defaults(node: Node) -> Node:
    """The node with as many arguments at their defaults as have one."""
    required = {field.name: getattr(node, field.name) for field in fields(node) if not _has_default(field)}
    return type(node)(**required)


def _has_default(field: Any) -> bool:
    return type(field.default).__name__ != "_MISSING_TYPE"


def test_a_shortcut_that_is_the_identity_comes_back() -> None:
    block = nodes.Residual((), (RELU,), None, "input", ())
    assert decode(json.loads(json.dumps(encode((("0", block),))))) == Sequential((("0", block),))


def test_a_spec_comes_back_from_json_and_toml_and_from_a_file(tmp_path) -> None:
    spec = small()
    assert read_spec(spec.to_json()) == ExplicitSpec.from_toml(spec.to_toml()) == spec
    assert hash(read_spec(spec.to_json())) == hash(spec)
    weights = draw_weights(spec)
    save_weights(tmp_path / "x.safetensors", weights, spec)
    read, arrays = load_weights(tmp_path / "x.safetensors")
    assert read == spec
    assert plan(read).root == plan(spec).root
    assert arrays.keys() == weights.keys()
    assert all(np.array_equal(arrays[name], weights[name]) for name in weights)


def changed(*path: Any, **values: Any) -> dict[str, Any]:
    """The small network as data with other values of one layer; None takes an argument away."""
    data = msgspec.to_builtins(small())
    data["layers"] = json.loads(json.dumps(data["layers"]))
    layer = data
    for step in path:
        layer = layer[step]
    layer.update(values)
    for key in [key for key, value in values.items() if value is None]:
        del layer[key]
    return data


LAYERS = ("layers",)
BLOCK = ("layers", 2, "children", 0)

MALFORMED = {
    "unknown kind": (changed(*LAYERS, 0, kind="Conv3d"), r"\$\.layers\[0\]\.kind: expected one of Activation, Clip, Conv, "),
    "kind of the base class": (changed(*LAYERS, 0, kind="Node"), r"\$\.layers\[0\]\.kind: expected one of"),
    "no kind": (changed(*LAYERS, 0, kind=None), r"\$\.layers\[0\]\.kind: expected one of"),
    "unknown argument": (
        changed(*LAYERS, 0, strides=2),
        r"\$\.layers\[0\]\.strides: Conv has no such argument; it has in_channels, out_channels, kernel, stride",
    ),
    "missing": (changed(*LAYERS, 0, kernel=None), r"\$\.layers\[0\]\.kernel: is missing"),
    "out of range": (changed(*LAYERS, 0, kernel=0), r"\$\.layers\[0\]\.kernel: expected `int` >= 1"),
    "too large": (changed(*LAYERS, 0, out_channels=10**9), r"\$\.layers\[0\]\.out_channels: expected `int` <= 1000000"),
    "wrong type": (changed(*LAYERS, 0, bias="yes"), r"\$\.layers\[0\]\.bias: expected `bool`, got `str`"),
    "not a share": (changed(*LAYERS, 5, rate=1.5), r"\$\.layers\[5\]\.rate: expected `float` <= 1"),
    "no such choice": (
        changed(*BLOCK, shortcut_from="both"),
        r"\$\.layers\[2\]\.children\[0\]\.shortcut_from: invalid enum value 'both'",
    ),
    "inside a block": (
        changed(*BLOCK, "body", 1, "children", 1, out_channels=-1),
        r"\$\.layers\[2\]\.children\[0\]\.body\[1\]\.children\[1\]\.out_channels: expected `int` >= 1",
    ),
    "a shortcut that is no layer": (
        changed(*BLOCK, shortcut=[]),
        r"\$\.layers\[2\]\.children\[0\]\.shortcut\.kind: expected one of",
    ),
    "no layers in a container": (
        changed(*BLOCK, body=3),
        r"\$\.layers\[2\]\.children\[0\]\.body: expected a list of layers, got 3",
    ),
    "two of a name": (changed(*LAYERS, 1, name="conv1"), r"\$\.layers\[1\]\.name: expected .*; got 'conv1'"),
    "two of a name in a block": (
        changed(*BLOCK, "post", 0, name="conv1"),
        r"\$\.layers\[2\]\.children\[0\]: holds two layers that are called 'conv1'",
    ),
    "the name of a block's sum": (
        changed(*BLOCK, "post", 0, name="add"),
        r"\$\.layers\[2\]\.children\[0\]: holds two layers that are called 'add'",
    ),
    "a dot in a name": (changed(*LAYERS, 1, name="a.b"), r"\$\.layers\[1\]\.name: expected letters, digits and _"),
    "no name": (changed(*LAYERS, 1, name=None), r"\$\.layers\[1\]\.name: expected letters, digits and _"),
    "a name of a module's own": (changed(*LAYERS, 1, name="forward"), r"\$\.layers\[1\]\.name: .* use 'forward' themselves"),
    "a name that ends its line": (changed(*LAYERS, 1, name="bn1\n"), r"\$\.layers\[1\]\.name: expected letters"),
    "a number that JSON has not": (
        changed(*LAYERS, 5, kind="Clip", rate=None, low=-1e99, high=1.0),
        r"\$\.layers\[5\]\.low: expected `float` >= -1e\+30",
    ),
    "another number of classes": (changed(num_classes=6), r"\$\.num_classes: the layers map \(1, 3, 16, 16\) to \(1, 5\)"),
    "other channels": (changed(in_channels=4), r"\$\.layers: conv1: expected 3 channels, got 4"),
    "groups that do not divide": (changed(*LAYERS, 0, groups=2), r"\$\.layers: conv1: 2 groups do not divide 3 channels"),
    "a sum outside a block": (changed(*LAYERS, 5, kind="Add", rate=None), r"\$\.layers\[5\]\.kind: expected one of"),
    "taps": (
        changed(*LAYERS, 5, kind="Taps", rate=None, children=[], names=["x"]),
        r"\$\.layers\[5\]\.kind: expected one of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_field_is_refused_by_its_path(name: str) -> None:
    data, says = MALFORMED[name]
    with pytest.raises(SpecError, match=f"^{says}"):
        plan(read_spec(json.dumps(data)))


def test_too_deep_and_too_many_layers_are_refused() -> None:
    layer: dict[str, Any] = {"kind": "Flatten"}
    for _ in range(DEEPEST):
        layer = {"kind": "Sequential", "children": [layer | {"name": "x"}]}
    with pytest.raises(SpecError, match=rf"children\[0\]: at most .* and {DEEPEST} containers in each other"):
        decode([layer | {"name": "x"}])
    many = [{"name": f"x{n}", "kind": "Flatten"} for n in range(MOST_LAYERS + 1)]
    with pytest.raises(SpecError, match=rf"^\$\.layers\[{MOST_LAYERS}\]: at most 20,000 layers"):
        decode(many)


def test_classes_and_channels_of_an_explicit_network_change() -> None:
    other = resized(small(), num_classes=9, in_channels=1)
    assert (other.num_classes, other.in_channels) == (9, 1)
    shapes = {name: node.arrays() for name, node in walk(plan(other).root)}
    assert shapes["conv1"]["weight"].shape == (4, 1, 3, 3)
    assert shapes["fc"]["weight"].shape == (9, 4)
    with pytest.raises(SpecError, match="has no Linear outside its blocks, so num_classes cannot change"):
        resized(msgspec.structs.replace(small(), layers=small().layers[:3]), num_classes=9)


def test_names_that_frameworks_use_themselves_are_refused() -> None:
    own: set[str] = set()
    for block in (torch.nn.Sequential(), mx.gluon.nn.HybridSequential()):
        own |= {*dir(block), *vars(block)}
    own |= {*vars(torch_builder._Container), *vars(mxnet_builder._Container)} | {"node"}
    for name in own - {"add"}:  # of a sequence alone, whose children are no attributes in Gluon
        with pytest.raises(SpecError, match="use .* themselves"):
            decode([{"name": name, "kind": "Flatten"}])
