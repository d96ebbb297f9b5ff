"""Nodes that no spec asks for yet, built by hand and compared on both backends."""

from dataclasses import replace
from functools import partial

import msgspec
import numpy as np
import pytest

from resnet_xf import ResNetSpec, assert_parity, build, draw_weights, get_backend, plan, trace
from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import Activation, Children, Conv, PReLU, Sequential, join
from resnet_xf.architecture.plan import Plan, explicit_spec
from resnet_xf.architecture.spec import Stage, Stem
from resnet_xf.errors import ShapeError
from resnet_xf_mxnet.numpy_compat import mx

SPEC = ResNetSpec(
    name="prelu",
    stem=Stem(kind="conv3", width=4, pool=False),
    stages=(Stage(depth=2, channels=6, stride=2),),
    num_classes=5,
    image_size=(16, 12),
)


def with_prelu(spec: ResNetSpec) -> Plan:
    """The spec's plan with a PReLU in place of each ReLU."""
    planned = plan(spec)
    channels = {row.name: row.output_shape[1] for row in trace(planned, (1, 3, *spec.image_size))}

    def changed(parent: str, layers: Children, read_elsewhere: tuple[str, ...] = ()) -> Children:
        return tuple((name, one(join(parent, name), node)) for name, node in layers)

    def one(name: str, node):
        return PReLU(channels[name]) if node == Activation("relu") else node.changed(partial(changed, name))

    return replace(planned, root=one("", planned.root))


@pytest.mark.parametrize("preactivation", [False, True])
def test_a_network_with_prelu_is_the_same_on_both_backends_in_training_too(preactivation: bool) -> None:
    report = assert_parity(with_prelu(msgspec.structs.replace(SPEC, preactivation=preactivation)), level="standard")
    assert [rung.status for rung in report.rungs] == ["pass"] * 8


@pytest.mark.parametrize("backend", ["torch", "mxnet"])
def test_prelu_is_its_definition_and_its_slopes_come_back_to_the_bit(backend: str) -> None:
    node = Sequential((("act", PReLU(3)),))
    weights = draw_weights(node, scheme="probe")
    assert weights["act.weight"].shape == (3,)
    assert ((weights["act.weight"] > 0.1) & (weights["act.weight"] < 0.6)).all()
    assert (draw_weights(node)["act.weight"] == 0.25).all()
    network = build(node, backend, weights=weights)
    images = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    slopes = weights["act.weight"][:, None, None]
    got = get_backend(backend).forward(network, images)
    np.testing.assert_array_equal(got, np.where(images > 0, images, slopes * images))
    assert get_backend(backend).dump(network)["act.weight"].tobytes() == weights["act.weight"].tobytes()


def test_prelu_is_traced_and_refuses_other_channels() -> None:
    rows = trace(Sequential((("act", PReLU(3)),)), (1, 3, 4, 5))
    assert [(row.name, row.kind, row.output_shape, row.parameters, row.macs) for row in rows[1:]] == [
        ("act", "prelu", (1, 3, 4, 5), 3, 0)
    ]
    with pytest.raises(ShapeError, match=r"^act: expected 3 channels, got 2 in \(1, 2, 4, 5\)$"):
        trace(Sequential((("act", PReLU(3)),)), (1, 2, 4, 5))


RELU = ("act", Activation("relu"))
MEAN = (("pool", nodes.GlobalPool()), ("flatten", nodes.Flatten()), ("fc", nodes.Linear(8, 5)))


def split_attention(cardinality: int) -> Children:
    """A convolution with split attention, of 8 channels and radix 2."""
    attention = nodes.Gate(
        (
            ("radix_sum", nodes.RadixSum(2)),
            ("pool", nodes.GlobalPool()),
            ("fc1", Conv(8, 4, 1, groups=cardinality, bias=True)),
            ("bn1", nodes.Norm(4, 1e-5, 0.1)),
            RELU,
            ("fc2", Conv(4, 16, 1, groups=cardinality, bias=True)),
            ("radix_softmax", nodes.RadixSoftmax(2, cardinality)),
        )
    )
    conv = ("conv1", Conv(8, 16, 3, 1, 1, groups=2 * cardinality)), ("bn1", nodes.Norm(16, 1e-5, 0.1)), RELU
    return (*conv, ("attention", attention), ("radix_sum", nodes.RadixSum(2)))


def block(*body: tuple[str, nodes.Node]) -> nodes.Residual:
    return nodes.Residual((), body, None, "input", ())


CONV = ("conv", Conv(8, 8, 3, 1, 1))
NORM = nodes.Norm(8, 1e-3, 0.1)

INSIDE: dict[str, Children] = {
    "group norm": (("gn", nodes.GroupNorm(8, 2, 1e-3)),),
    "scale": (("scale", nodes.Scale((0.5,), (2.0,))),),
    "scales of channels": (("scale", nodes.Scale(tuple(n / 8 for n in range(8)), tuple(n / 4 + 1 for n in range(8)))),),
    "clip": (("clip", nodes.Clip(0.0, 1.5)),),
    "leaky ReLU": (("leaky", nodes.LeakyReLU(0.1)),),
    "leaky ReLU as MXNet rounds it": (("leaky", nodes.LeakyReLU(0.1, float32=True)),),
    "one slope for all": (("prelu", PReLU(1)),),
    "PReLU as MXNet rounds it": (("prelu", PReLU(8, float32=True)),),
    "split attention": (("0", block(*split_attention(1))),),
    "split attention of cardinality 2": (("0", block(*split_attention(2))),),
    "padding that is counted": (("mean", nodes.Pool("avg", 3, 2, 1, counts_padding=True)),),
    "padding that is not counted, rounded up": (("mean", nodes.Pool("avg", 2, 2, 1, ceil=True)),),
    "norm without scale": (("norm", nodes.Norm(8, 1e-3, 0.1, scale=False)),),
    "norm without shift": (("norm", nodes.Norm(8, 1e-3, 0.1, shift=False)),),
    "tanh": (("tanh", Activation("tanh")),),
    "softmax over channels": (CONV, ("softmax", Activation("softmax"))),
    "dropout": (("drop", nodes.Dropout(0.3)),),
    "a body of a ReLU": (("0", block(CONV, ("bn", NORM), RELU)),),
    "a body of dropout": (("0", block(("drop", nodes.Dropout(0.5)))), CONV),
    "a body of nothing": (("0", block(("inner", block()))), CONV),
    "a ReLU after tanh": (("tanh", Activation("tanh")), RELU),
}

ENDS: dict[str, Children] = {
    "ArcFace": (
        ("drop", nodes.Dropout(0.4)),
        ("flatten", nodes.Flatten()),
        ("fc", nodes.Linear(8 * 64, 5)),
        ("norm", nodes.Norm(5, 1e-3, 0.1, scale=False, axes=2)),
    ),
    "softmax": (*MEAN, ("softmax", Activation("softmax"))),
    "two layers": (*MEAN[:2], ("hidden", nodes.Linear(8, 6)), ("tanh", Activation("tanh")), ("fc", nodes.Linear(6, 5))),
    "dropout of vectors": (*MEAN[:2], ("drop", nodes.Dropout(0.5)), MEAN[2]),
}


def network(inside: Children = (), end: Children = MEAN) -> Plan:
    """A small network with these layers inside it, and at its end."""
    stem = ("conv1", Conv(3, 8, 3, 1, 1)), ("bn1", NORM), ("act1", Activation("relu"))
    rest = ("layer1", Sequential((("0", block(CONV, ("bn", NORM))),)))
    root = Sequential((*stem, ("inside", Sequential(inside)), rest, *end))
    return plan(explicit_spec("small", root, (8, 8)))


@pytest.mark.parametrize("name", [*INSIDE, *ENDS])
def test_every_node_is_the_same_on_both_backends_in_training_too(name: str) -> None:
    made = network(INSIDE[name]) if name in INSIDE else network(end=ENDS[name])
    report = assert_parity(made, level="standard")
    assert [rung.status for rung in report.rungs] == ["pass"] * 8


def test_a_gate_multiplies_its_input_by_what_its_children_make_of_it() -> None:
    gate = nodes.Gate((("act", Activation("sigmoid")),))
    assert gate.flow(lambda children, x: x + len(children), lambda first, second: first * second, 3) == 3 * 4


def test_the_layers_of_exported_graphs_take_numpy_s_arrays_of_mxnet() -> None:
    inside = (*INSIDE["scales of channels"], *INSIDE["group norm"], *INSIDE["clip"], *INSIDE["leaky ReLU"])
    made = network((*inside, *INSIDE["split attention of cardinality 2"]), ENDS["ArcFace"])
    mx.npx.set_np()
    try:
        report = assert_parity(made, level="standard")
    finally:
        mx.npx.reset_np()
    assert [rung.status for rung in report.rungs] == ["pass"] * 8
    assert "training is compared without dropout, whose rates are the same" in report.verdict()
