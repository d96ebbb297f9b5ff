"""Nodes that no spec asks for yet, built by hand and compared on both backends."""

from dataclasses import replace
from functools import partial

import msgspec
import numpy as np
import pytest

from resnet_xf import ResNetSpec, assert_parity, build, draw_weights, get_backend, plan, trace
from resnet_xf.architecture.nodes import Activation, Children, PReLU, Sequential, join
from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.spec import Stage, Stem
from resnet_xf.errors import ShapeError

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
