"""The ONNX backend: the contract, and rungs 1 to 6 for networks with every kind of layer."""

import os

import numpy as np
import pytest
from msgspec.structs import replace

from helpers.sabotage import Saboteur, only
from resnet_xf import ResNetSpec, Stage, assert_parity, get_backend, optimize, parity
from resnet_xf.architecture import nodes
from resnet_xf.architecture.measures import relative_error
from resnet_xf.architecture.spec import SqueezeExcitation, Stem
from resnet_xf.architecture.weights import draw_weights
from resnet_xf.backend.contract import Trains, require
from resnet_xf.errors import BackendError
from resnet_xf.testing import BackboneContract, BackendContract, LayersAloneContract, OptimizesContract
from resnet_xf_onnx import BACKEND


class TestOnnx(BackendContract, BackboneContract, LayersAloneContract, OptimizesContract):
    backend = BACKEND

    def maps(self, backbone, images):
        return BACKEND.forward(backbone, images)


@pytest.fixture
def small() -> ResNetSpec:
    stages = (Stage(depth=1, channels=8), Stage(depth=1, channels=16, stride=2))
    return ResNetSpec(name="small", num_classes=7, image_size=(16, 16), stem=Stem(kind="conv3", width=8), stages=stages)


LAYERS = {
    "conv": (nodes.Conv(6, 8, 3, 2, 1, dilation=2, groups=2, bias=True), (2, 6, 11, 9)),
    "pointwise": (nodes.Conv(6, 8, 1, 2), (2, 6, 11, 9)),
    "norm": (nodes.Norm(6, 1e-3, 0.1, scale=False), (2, 6, 5, 4)),
    "norm of vectors": (nodes.Norm(6, 2e-5, 0.1, shift=False, axes=2), (2, 6)),
    "groupnorm": (nodes.GroupNorm(6, 3, 1e-5), (2, 6, 5, 4)),
    "relu": (nodes.Activation("relu"), (2, 6, 5, 4)),
    "sigmoid": (nodes.Activation("sigmoid"), (2, 6, 5, 4)),
    "tanh": (nodes.Activation("tanh"), (2, 6, 5, 4)),
    "softmax": (nodes.Activation("softmax"), (2, 6)),
    "leaky": (nodes.LeakyReLU(0.1), (2, 6, 5, 4)),
    "leaky in float32": (nodes.LeakyReLU(0.1, float32=True), (2, 6, 5, 4)),
    "clip": (nodes.Clip(-0.5, 0.25), (2, 6, 5, 4)),
    "prelu": (nodes.PReLU(6), (2, 6, 5, 4)),
    "prelu in float32": (nodes.PReLU(1, float32=True), (2, 6, 5, 4)),
    "scale": (nodes.Scale((0.1, 0.2, 0.3), (2.0,)), (2, 3, 5, 4)),
    "dropout": (nodes.Dropout(0.5), (2, 6)),
    "pad": (nodes.Pad(2), (2, 6, 5, 4)),
    "maxpool": (nodes.Pool("max", 3, 2, 1, ceil=True), (2, 6, 10, 9)),
    "avgpool": (nodes.Pool("avg", 3, 2, 1), (2, 6, 10, 9)),
    "avgpool with ceil": (nodes.Pool("avg", 3, 2, 1, ceil=True), (2, 6, 10, 9)),
    "avgpool of padding": (nodes.Pool("avg", 3, 2, 1, ceil=True, counts_padding=True), (2, 6, 10, 9)),
    "radixsum": (nodes.RadixSum(3), (2, 6, 5, 4)),
    "radixsum of one": (nodes.RadixSum(1), (2, 6, 5, 4)),
    "radixsoftmax": (nodes.RadixSoftmax(2, 3), (2, 12, 1, 1)),
    "globalpool": (nodes.GlobalPool(), (2, 6, 5, 4)),
    "flatten": (nodes.Flatten(), (2, 6, 5, 4)),
    "linear": (nodes.Linear(6, 4, bias=False), (2, 6)),
    "gate": (nodes.Gate((("pool", nodes.GlobalPool()), ("fc", nodes.Conv(6, 6, 1)))), (2, 6, 5, 4)),
}


@pytest.mark.parametrize("node, shape", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("dtype, bound", [("float64", 1e-15), ("float32", 3e-7)])
def test_every_kind_of_layer_computes_what_torch_computes(node, shape, dtype, bound) -> None:
    images = np.random.default_rng(0).standard_normal(shape)
    outputs = []
    for backend in (BACKEND, get_backend("torch")):
        network = backend.build(node, dtype)
        backend.load(network, draw_weights(node, scheme="probe", dtype=dtype))
        outputs.append(backend.forward(network, images))
    # Layers without weights: PyTorch's have no dtype, and compute in float32.
    bound = max(bound, 3e-7) if not node.arrays() and node.kind != "gate" else bound
    assert outputs[0].shape == outputs[1].shape
    assert relative_error(*outputs) < bound


FAMILIES = {
    "basic": {},
    "preactivation": {"preactivation": True, "stem": Stem(kind="conv3", width=8, input_norm=True)},
    "attention": {"se": SqueezeExcitation(divisor=2)},
    "split": {"block": "bottleneck", "radix": 2, "stride_on": "avg_pool", "shortcut": "avg_conv"},
    "faces": {"block": "ir", "activation": "prelu", "head": "embedding", "drop_rate": 0.4, "norm_eps": 2e-5},
}


@pytest.mark.parametrize("fields", FAMILIES.values(), ids=FAMILIES)
def test_rungs_one_to_six_hold(small, fields) -> None:
    report = assert_parity(replace(small, **fields), ["torch", "onnx"], level="standard")
    assert [rung.status for rung in report.rungs] == ["pass"] * 6 + ["skip"] * 2
    assert report.verdict() == (
        "small: torch and onnx are the same network in inference (6 rungs hold; 7 to 8 skipped: onnx cannot train)"
    )


def test_a_rung_compares_the_backends_that_can(small) -> None:
    report = assert_parity(small, ["onnx", "torch", "mxnet"], image_size=(16, 16))
    assert all(rung.status == "pass" for rung in report.rungs)
    assert [rung.left_out for rung in report.rungs] == [{}] * 6 + [{"onnx": "onnx cannot train"}] * 2
    assert report.rungs[6].detail.endswith("; onnx cannot train")
    assert report.verdict().endswith(
        "onnx, torch and mxnet are the same network in inference, and torch and mxnet in training "
        "(8 rungs hold; 7 to 8 without onnx: onnx cannot train)"
    )


def test_a_wrong_layer_is_named(small) -> None:
    broken = Saboteur("onnx", node=only("layer1.0.bn1", eps=1e-3))
    failure = parity(small, ["torch", "mxnet", broken], image_size=(16, 16), level="quick").failure
    assert (failure.number, failure.where) == (1, "layer1.0.bn1")


@pytest.mark.parametrize("variable, threads", [("3", 3), ("8,2", 8), ("", 5), (None, 5)])
def test_a_session_has_the_threads_it_is_told_or_one_for_each_processor(monkeypatch, variable, threads: int) -> None:
    """``8,2`` is OpenMP's: 8 threads, and 2 more for each within them."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(5)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert BACKEND.bench.threads() == threads


def test_what_it_cannot_do_is_said(small) -> None:
    with pytest.raises(BackendError, match=r"onnx computes in float32, not in int8; choose float32"):
        optimize(small, "onnx", precision="int8")
    assert optimize(small, "onnx").error < 1e-5
    with pytest.raises(BackendError, match="onnx cannot train; choose another backend"):
        require(BACKEND, Trains)
