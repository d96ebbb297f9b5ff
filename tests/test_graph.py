"""Exported graphs of many kinds become plans, which compute what MXNet computes."""

from __future__ import annotations

import json
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import graphs
from helpers.graphs import (
    ENDINGS,
    GRAPHS,
    SHAPE,
    bn,
    conv,
    head,
    in_half,
    mean,
    mx,
    relu,
    shared_norm,
    split_attention,
    stem,
    sym,
    tensors_of,
    v1_block,
    write,
)
from resnet_xf import build, convert, get_backend, load, load_weights, optimize, parity, predict
from resnet_xf.architecture.nodes import Norm, walk
from resnet_xf.architecture.spec import read_spec
from resnet_xf.errors import WeightsError
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.identify import Identity, identify
from resnet_xf.formats.recognise import named_plan
from resnet_xf.formats.steps import difference, steps_of
from resnet_xf.training.inference import prepare

IMAGES = np.random.default_rng(1).standard_normal(SHAPE, np.float32)


def identified(folder: Path, symbol: Any, shape: tuple[int, ...] = SHAPE, **options: Any) -> Identity:
    return identify(read_checkpoint(write(folder, symbol, tensors_of(symbol, shape))), **options)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_computes_what_mxnet_computes(tmp_path, name: str) -> None:
    symbol, last = GRAPHS[name](), name == "preprocessing by constants"
    shape = (2, 16, 16, 3) if last else SHAPE
    tensors = tensors_of(symbol, shape)
    path = write(tmp_path, symbol, tensors)
    expected = graphs.run(symbol, tensors, IMAGES.transpose(0, 2, 3, 1) if last else IMAGES)
    for backend in ("torch", "mxnet"):
        network = load(path, backend, dtype="float64")
        np.testing.assert_allclose(get_backend(backend).forward(network, IMAGES), expected, rtol=0, atol=1e-12)


NAMES = {
    "small operators": "normalize conv1 act1 pad layer1.0.conv1 layer1.0.bn1 layer1.0.act1 layer1.0.conv2 layer1.0.bn2 "
    "layer1.0.add layer1.0.act2 global_pool flatten fc",
    "a gate through a reshape": "conv1 bn1 act1 layer1.0.conv1 layer1.0.bn1 layer1.0.act1 layer1.0.conv2 layer1.0.bn2 "
    "layer1.0.se.pool layer1.0.se.fc1 layer1.0.se.act layer1.0.se.fc2 layer1.0.se.act_2 layer1.0.add layer1.0.act2 "
    "global_pool flatten fc",
    "a block on the images": "layer1.0.conv1 layer1.0.bn1 layer1.0.act1 layer1.0.conv2 layer1.0.bn2 layer1.0.add "
    "layer1.0.act2 global_pool flatten fc",
    "preactivation": "input_norm conv1 layer1.0.bn1 layer1.0.act1 layer1.0.conv1 layer1.0.bn2 layer1.0.act2 "
    "layer1.0.conv2 layer1.0.downsample.0 layer1.0.add layer1.1.bn1 layer1.1.act1 layer1.1.conv1 layer1.1.bn2 "
    "layer1.1.act2 layer1.1.conv2 layer1.1.add layer2.0.bn1 layer2.0.act1 layer2.0.conv1 layer2.0.bn2 layer2.0.act2 "
    "layer2.0.conv2 layer2.0.downsample.0 layer2.0.add norm act global_pool flatten fc",
    "arcface": "normalize conv1 bn1 act1 layer1.0.bn1 layer1.0.conv1 layer1.0.bn2 layer1.0.act1 layer1.0.conv2 "
    "layer1.0.bn3 layer1.0.downsample.0 layer1.0.downsample.1 layer1.0.add layer1.1.bn1 layer1.1.conv1 layer1.1.bn2 "
    "layer1.1.act1 layer1.1.conv2 layer1.1.bn3 layer1.1.add norm drop flatten fc fc1",
    "squeeze-excitation by dense layers": "conv1 bn1 act1 layer1.0.conv1 layer1.0.bn1 layer1.0.act1 layer1.0.conv2 "
    "layer1.0.bn2 layer1.0.se.pool layer1.0.se.fc1 layer1.0.se.act layer1.0.se.fc2 layer1.0.se.gate "
    "layer1.0.downsample.0 layer1.0.downsample.1 layer1.0.add layer1.0.act2 global_pool flatten fc",
    "split attention": "conv1 bn1 act1 layer1.0.conv1 layer1.0.bn1 layer1.0.act1 layer1.0.conv2 layer1.0.bn2 "
    "layer1.0.conv3 layer1.0.bn3 layer1.0.act2 layer1.0.attention.radix_sum layer1.0.attention.pool "
    "layer1.0.attention.fc1 layer1.0.attention.bn1 layer1.0.attention.act layer1.0.attention.fc2 "
    "layer1.0.attention.radix_softmax layer1.0.radix_sum layer1.0.add layer1.0.act3 global_pool flatten fc",
    "preprocessing by constants": "normalize conv1 bn1 act1 layer1.0.conv1 layer1.0.bn1 layer1.0.act1 layer1.0.conv2 "
    "layer1.0.bn2 layer1.0.add layer1.0.act2 global_pool flatten fc",
    "odd": "conv1 bn1 act1 layer1.0.block.conv1 layer1.0.block.bn1 layer1.0.block.act1 layer1.0.block.conv2 "
    "layer1.0.block.bn2 layer1.0.block.se.pool layer1.0.block.se.fc1 layer1.0.block.se.act layer1.0.block.se.fc2 "
    "layer1.0.block.se.gate layer1.0.block.add layer1.0.act1 layer1.0.block_2.conv1 layer1.0.block_2.bn1 "
    "layer1.0.block_2.act1 layer1.0.block_2.conv2 layer1.0.block_2.bn2 layer1.0.block_2.add layer1.0.act2 "
    "layer1.0.add layer1.0.act3 global_pool flatten hidden0 relu1 fc",
}


@pytest.mark.parametrize("name", NAMES)
def test_layers_have_torchvision_s_names_as_far_as_they_are_such(tmp_path, name: str) -> None:
    last = name == "preprocessing by constants"
    root = identified(tmp_path, GRAPHS[name](), (2, 16, 16, 3) if last else SHAPE).plan.root
    assert " ".join(layer for layer, node in walk(root) if layer and not node.named_children()) == NAMES[name]


def test_what_was_left_out_is_said(tmp_path) -> None:
    first, second = identified(tmp_path, GRAPHS["preactivation"]()).notes
    assert first == (
        "softmax (SoftmaxOutput) at the end is left out; the outputs are the values before it (--keep-softmax keeps it)"
    )
    assert second.startswith("the network prepares its images itself: bn_data, a batch norm; ")
    kept = identified(tmp_path, GRAPHS["preactivation"](), keep_softmax=True)
    assert [name for name, _ in kept.plan.root.children][-2:] == ["fc", "softmax0"]
    (note,) = identified(tmp_path, GRAPHS["arcface"]()).notes
    assert "Scale(shift=(127.5,), scale=(0.0078125,))" in note
    (note,) = identified(tmp_path, GRAPHS["gradients that stop"]()).notes
    assert note == "stop stopped gradients; here they flow through it in training"


@pytest.mark.parametrize("op", ENDINGS)
def test_an_ending_that_no_plan_has_is_left_out(tmp_path, op: str) -> None:
    symbol = head(v1_block(stem(), "a", 4))
    ended = ENDINGS[op](symbol)
    tensors = tensors_of(symbol)
    path = write(tmp_path, ended, tensors)
    done = convert(path, tmp_path / "out.safetensors")
    assert f"end ({op}) at the end is left out; the outputs are the values before it" in done.notes
    assert done.checks  # MXNet ran it up to there
    expected = graphs.run(symbol, tensors, IMAGES)
    got = get_backend("torch").forward(load(path, "torch", dtype="float64"), IMAGES)
    assert np.abs(got - expected).max() < 1e-13 * np.abs(expected).max()
    if op == "log_softmax":
        with pytest.raises(WeightsError, match=r"node 'end' \(log_softmax\): cannot be kept; leave --keep-softmax out"):
            convert(path, tmp_path / "kept.safetensors", keep_softmax=True)


@pytest.mark.parametrize("op", ["SoftmaxOutput", "LogisticRegressionOutput"])
def test_probabilities_of_a_loss_are_compared_with_mxnet_s(tmp_path, op: str) -> None:
    """The graph has the labels as an input, of which the file has no array."""
    symbol = head(v1_block(stem(), "a", 4))
    tensors = tensors_of(symbol)
    path = write(tmp_path, getattr(sym, op)(symbol, name="softmax"), tensors)
    done = convert(path, tmp_path / "kept.safetensors", keep_softmax=True)
    assert any("the exported network" in check.theirs for check in done.checks)
    logits = graphs.run(symbol, tensors, IMAGES)
    expected = 1 / (1 + np.exp(-logits)) if op.startswith("Logistic") else np.exp(logits)
    if op == "SoftmaxOutput":
        expected /= expected.sum(1, keepdims=True)
    got = get_backend("torch").forward(load(tmp_path / "kept.safetensors", "torch", dtype="float64"), IMAGES)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_sigmoid_s_probabilities_are_those_that_are_predicted(tmp_path) -> None:
    symbol = sym.LogisticRegressionOutput(head(v1_block(stem(), "a", 4)), name="end")
    path = write(tmp_path, symbol, tensors_of(symbol))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)).save(tmp_path / "x.png")
    (guesses,) = predict(path, [tmp_path / "x.png"], image_size=SHAPE[2:], backend="torch", device="cpu")
    output = prepare(path, [tmp_path / "x.png"], image_size=SHAPE[2:]).inputs[0]
    expected = get_backend("torch").forward(load(path, "torch"), output)[0]
    for guess in guesses:
        assert guess.probability == pytest.approx(expected[guess.label], rel=1e-5)


def test_casts_to_half_precision_are_left_out(tmp_path) -> None:
    tensors = tensors_of(in_half(casts=False))
    tensors |= {name: array.astype(np.float16) for name, array in tensors.items() if array.ndim > 1}
    symbol = in_half(casts=True)
    path = write(tmp_path, symbol, tensors, symbol.tojson(remove_amp_cast=False))
    done = convert(path, tmp_path / "out.safetensors")
    said = " and 2 more: casts to half precision are left out; one type is used throughout"
    assert any(note.endswith(said) for note in done.notes)
    assert done.checks  # MXNet ran it in float64
    expected = graphs.run(in_half(casts=False), tensors, IMAGES)
    got = get_backend("torch").forward(load(path, "torch", dtype="float64"), IMAGES)
    assert np.abs(got - expected).max() < 1e-13 * np.abs(expected).max()
    kept = convert(path, tmp_path / "kept.safetensors", keep_softmax=True)
    assert kept.checks
    assert parity(str(path), ["torch", "onnx"], level="quick", image_size=SHAPE[2:]).holds


def test_a_norm_that_shares_its_statistics_is_an_ordinary_one(tmp_path) -> None:
    symbol, ordinary = (
        head(v1_block(relu(norm(conv(sym.var("data"), "conv0", 4)), "relu0"), "a", 4))
        for norm in (partial(shared_norm, name="bn0"), partial(bn, name="bn0", eps=1e-4, momentum=0.8, fix_gamma=False))
    )
    tensors = tensors_of(symbol)
    path = write(tmp_path, symbol, tensors)
    done = convert(path, tmp_path / "out.safetensors")
    assert "batch norms whose GPUs share statistics in training (SyncBatchNorm) are ordinary ones here" in done.notes
    assert done.checks
    expected = graphs.run(ordinary, tensors, IMAGES)
    got = get_backend("torch").forward(load(path, "torch", dtype="float64"), IMAGES)
    assert np.abs(got - expected).max() < 1e-13 * np.abs(expected).max()


def test_a_cast_to_whole_numbers_is_no_part_of_a_network(tmp_path) -> None:
    symbol = head(sym.Cast(sym.Cast(stem(), dtype="int32", name="whole"), dtype="float32"))
    with pytest.raises(WeightsError, match=r"node 'whole' \(Cast\): dtype is 'int32', expected 'float32'"):
        identified(tmp_path, symbol)


def test_a_graph_of_an_old_mxnet_is_read(tmp_path) -> None:
    """It has its attributes under ``param``, and batch norms without their statistics."""
    symbol = GRAPHS["preactivation"]()
    tensors = tensors_of(symbol)
    graph = json.loads(symbol.tojson())
    statistics = [n for n, one in enumerate(graph["nodes"]) if "_moving_" in one["name"]]
    places = {n: n - sum(left < n for left in statistics) for n in range(len(graph["nodes"]))}
    for one in graph["nodes"]:
        one["inputs"] = [[places[n], 0] for n, *_ in one["inputs"] if n not in statistics]
        one["param"] = {key: text for key, text in one.pop("attrs", {}).items() if not key.startswith("__")}
        one["backward_source_id"] = -1
    old = {
        "nodes": [one for n, one in enumerate(graph["nodes"]) if n not in statistics],
        "arg_nodes": [places[n] for n in graph["arg_nodes"] if n not in statistics],
        "heads": [[places[graph["heads"][0][0]], 0]],
    }
    path = write(tmp_path, symbol, tensors, json.dumps(old))
    output = get_backend("torch").forward(load(path, "torch", dtype="float64"), IMAGES)
    np.testing.assert_allclose(output, graphs.run(symbol, tensors, IMAGES), rtol=0, atol=1e-12)


def crossing() -> Any:
    """``a`` is in both branches of the last sum, which do not part there."""
    x = stem()
    a, b = conv(x, "a", 4), conv(x, "b", 4)
    return head(sym.elemwise_add(conv(conv(a, "c", 4) + b, "d", 4), a, name="last"))


def deep(times: int) -> Any:
    """Sums nested in each other."""

    def inner(x: Any, times: int) -> Any:
        body = conv(x, f"conv_{times}", 4)
        return sym.elemwise_add(inner(body, times - 1) if times > 1 else body, x, name=f"sum_{times}")

    return head(inner(stem(), times))


def shared() -> Any:
    weight = sym.var("shared_weight")
    x = conv(stem(), "one", 4, weight=weight)
    return head(conv(x, "other", 4, weight=weight))


def spatial_gate() -> Any:
    x = stem()
    return head(sym.broadcast_mul(x, sym.Activation(conv(x, "one", 1), act_type="sigmoid"), name="spatial"))


def narrow_gate() -> Any:
    x = stem()
    gate = sym.Activation(conv(mean(x), "one", 1, 1), act_type="sigmoid")
    return head(sym.broadcast_mul(x, gate, name="narrow"))


def squared() -> Any:
    x = stem()
    return head(sym.elemwise_mul(x, x, name="square"))


REFUSALS = {
    "a kernel that is not square": (
        lambda: head(sym.Convolution(stem(), num_filter=4, kernel=(3, 1), pad=(1, 0), name="wide")),
        r"node 'wide' \(Convolution\): kernel is \(3, 1\), expected the same number for height and width",
    ),
    "shared weights": (shared, r"node 'other' \(Convolution\): shares shared_weight with one; a plan has each array"),
    "two outputs": (lambda: sym.Group([head(stem()), stem()]), "nodes and 2 outputs; expected one output"),
    "a spatial gate": (spatial_gate, r"node 'spatial': a gate on \(1, 4, \d+, \d+\) must be \(1, 4, 1, 1\), got"),
    "a gate of one channel": (narrow_gate, r"node 'narrow': a gate on .* must be \(1, 4, 1, 1\), got \(1, 1, 1, 1\)"),
    "a square": (squared, r"node 'square' \(elemwise_mul\): is the product of two branches; expected a tensor and a"),
    "branches that cross": (crossing, "node 'a': is a part of two branches, which do not join as a pair"),
    "a map at the end": (stem, r"node 'relu0': the output is no \(N, classes\); is this a part of a network\?"),
    "branches nested too deep": (lambda: deep(25), "more than 20 branches are nested in each other"),
    "three terms": (
        lambda: head(sym.add_n(*(conv(stem_, f"c{n}", 4) for n, stem_ in enumerate([stem()] * 3)), name="three")),
        r"node 'three' \(add_n\): no part of a plan computes this",
    ),
    "the largest pixel at the end": (
        lambda: sym.FullyConnected(
            sym.Pooling(stem(), global_pool=True, kernel=(7, 7), pool_type="max", name="largest"), num_hidden=3
        ),
        r"node 'largest' \(Pooling\): takes the largest value of the whole map; expected its mean",
    ),
    "a padding of more than half a window": (
        lambda: head(sym.Pooling(stem(), kernel=(3, 3), pad=(2, 2), pool_type="max", name="edge")),
        "node 'edge': a padding of 2 is more than half of the window of 3",
    ),
    "other values of padding": (
        lambda: head(sym.pad(stem(), mode="edge", pad_width=(0, 0, 0, 0, 0, 1, 0, 1), name="edge")),
        r"node 'edge' \([Pp]ad\): mode is 'edge', expected 'constant'",
    ),
    "a mean over the height alone": (
        lambda: head(sym.mean(stem(), axis=(2,), keepdims=True, name="rows")),
        r"node 'rows' \(mean\): axis is \(2,\); expected \(2, 3\), the mean of each map",
    ),
    "any axis of one value dropped": (  # of one image, the first axis too
        lambda: sym.FullyConnected(sym.squeeze(mean(stem()), name="drop"), num_hidden=3),
        r"node 'drop' \(squeeze\): axis is None; expected height and width, as \(2, 3\), after a mean of each map",
    ),
    "a log-softmax before the end": (
        lambda: sym.FullyConnected(sym.log_softmax(head(stem()), name="inner"), num_hidden=3),
        r"node 'inner' \(log_softmax\): no part of a plan computes this",
    ),
    "an axis before all": (
        lambda: sym.FullyConnected(sym.expand_dims(sym.Flatten(mean(stem())), axis=0, name="first"), num_hidden=3),
        r"node 'first' \(expand_dims\): axis is 0, which no gate or split attention needs",
    ),
    "a softmax over a map": (
        lambda: head(sym.SoftmaxActivation(stem(), mode="channel", name="inner")),
        r"node 'inner' \(SoftmaxActivation\): a softmax over a map of pixels; expected one over classes",
    ),
    "a constant before the tensor": (
        lambda: head(sym.broadcast_mul(sym.var("one_scale", shape=(1, 4, 1, 1)), stem(), name="swapped")),
        r"node 'swapped' \(broadcast_mul\): no part of a plan computes this",
    ),
    "a reshape to one axis": (
        lambda: sym.reshape(head(stem()), shape=(-1,), name="line"),
        r"node 'line' \([Rr]eshape\): shape is \(-1,\), which no known part of a residual network needs",
    ),
    "a product with 0": (lambda: head(stem() * 0), r"node '_mulscalar\d+' \(_mul_scalar\): its scalar is 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_no_plan_has_is_refused_by_the_name_of_the_node(tmp_path, name: str) -> None:
    drawn, says = REFUSALS[name]
    with pytest.raises(WeightsError, match=rf"net-symbol\.json: .*{says}"):
        identified(tmp_path, drawn())


@pytest.mark.parametrize(
    ("number", "key", "text", "says"),
    [
        ("conv0", "shape_shift", "1", r"node 'conv0' \(Convolution\): the attribute shape_shift=1 has no counterpart"),
        ("conv0", "layout", "NHWC", r"node 'conv0' \(Convolution\): layout is 'NHWC', expected 'NCHW' or 'None'"),
        ("conv0", "num_filter", "5", r"node 'conv0' \(Convolution\): conv0_weight has the shape \(4, 3, 3, 3\)"),
        ("conv0", "num_group", "3", "node 'conv0': 3 groups do not divide 4 channels"),
        ("bn0", "axis", "3", r"node 'bn0' \(BatchNorm\): axis is '3', expected '1'"),
        ("bn0", "eps", "nan", r"node 'bn0' \(BatchNorm\): eps is 'nan', expected a number"),
        ("bn0", "momentum", "1e99", r"node 'bn0' \(BatchNorm\): momentum is '1e99', expected a number"),
        ("relu0", "act_type", "softsign", r"node 'relu0' \(Activation\): act_type is 'softsign', expected relu"),
        ("pool1", "pool_type", "lp", r"node 'pool1' \(Pooling\): pool_type is 'lp', expected 'max' or 'avg'"),
        ("fc1", "num_hidden", "6", r"node 'fc1' \(FullyConnected\): fc1_weight has 5 rows; the graph asks for 6"),
        ("fc1", "no_bias", "maybe", r"node 'fc1' \(FullyConnected\): no_bias is 'maybe', expected True or False"),
    ],
)
def test_an_attribute_that_no_plan_has_is_refused(tmp_path, number: str, key: str, text: str, says: str) -> None:
    symbol = head(stem())
    graph = json.loads(symbol.tojson())
    next(one for one in graph["nodes"] if one["name"] == number)["attrs"][key] = text
    with pytest.raises(WeightsError, match=rf"net-symbol\.json: {says}"):
        identify(read_checkpoint(write(tmp_path, symbol, tensors_of(symbol), json.dumps(graph))))


@pytest.mark.parametrize("text", ["[3L, 3L]", "(3L , 3)", "(3l,3)"])
def test_sizes_are_read_as_any_python_wrote_them(tmp_path, text: str) -> None:
    symbol = head(stem())
    graph = json.loads(symbol.tojson())
    next(one for one in graph["nodes"] if one["name"] == "conv0")["attrs"]["kernel"] = text
    read = identify(read_checkpoint(write(tmp_path, symbol, tensors_of(symbol), json.dumps(graph))))
    assert read.plan.root == identified(tmp_path, symbol).plan.root


@pytest.mark.parametrize("name", ["conv1_bias", "bn1_beta", "bn1_moving_mean", "bn1_moving_var", "fc1_bias"])
def test_an_array_of_too_few_values_is_refused_by_name(tmp_path, name: str) -> None:
    symbol = head(bn(conv(stem(), "conv1", 4, no_bias=False), "bn1"))
    tensors = tensors_of(symbol)
    tensors[name] = tensors[name][:1]
    with pytest.raises(WeightsError, match=rf"net-0000\.params: {name} has the shape \(1,\), expected \([45],\)"):
        identify(read_checkpoint(write(tmp_path, symbol, tensors)))


def test_a_batch_norm_without_attributes_has_mxnets_defaults(tmp_path) -> None:
    symbol = head(sym.BatchNorm(conv(sym.var("data"), "conv0", 4), name="bn0"))
    nodes = [node for _, node in walk(identified(tmp_path, symbol).plan.root)]
    assert Norm(4, float(np.float32(1e-3)), 0.1, scale=False) in nodes


def test_an_operator_without_its_weight_is_refused(tmp_path) -> None:
    symbol = head(stem())
    graph = json.loads(symbol.tojson())
    next(one for one in graph["nodes"] if one["name"] == "conv0")["inputs"] = [[0, 0, 0]]
    path = write(tmp_path, symbol, tensors_of(symbol), json.dumps(graph))
    with pytest.raises(WeightsError, match=r"node 'conv0' \(Convolution\): input 1 is no array in the file"):
        identify(read_checkpoint(path))


@pytest.mark.parametrize(
    ("drawn", "side", "size"),
    [
        (GRAPHS["arcface"], 112, 112),  # which takes images of one size alone
        (GRAPHS["a head of two layers"], 16, 32),
        (lambda: head(v1_block(conv(sym.var("data"), "conv0", 4, stride=16), "a", 4)), 64, 224),
    ],
)
def test_the_size_of_images_is_found(tmp_path, drawn: Any, side: int, size: int) -> None:
    assert identified(tmp_path, drawn(), (2, 3, side, side)).plan.spec.image_size == (size, size)


NUMBERS = count()


@st.composite
def series(draw: st.DrawFn, x: Any, depth: int) -> Any:
    """A random chain of layers on 4 channels, in which branches part and join again, down to a depth."""
    for _ in range(draw(st.integers(0, 3))):
        x = draw(branches(x, depth) if depth and draw(st.booleans()) else layers(x))
    return x


@st.composite
def layers(draw: st.DrawFn, x: Any) -> Any:
    def pool(kind: str, **others: Any) -> Any:
        return sym.Pooling(x, kernel=(3, 3), pad=(1, 1), pool_type=kind, **others)

    kinds = {
        "conv": lambda: conv(x, None, 4, draw(st.sampled_from([1, 3])), dilate=draw(st.sampled_from([1, 2]))),
        "bn": lambda: bn(x, None, fix_gamma=draw(st.booleans())),
        "relu": lambda: relu(x, None),
        "tanh": lambda: sym.Activation(x, act_type="tanh"),
        "clip": lambda: sym.clip(x, a_min=-0.5, a_max=1.0),
        "mean": lambda: pool("avg", count_include_pad=draw(st.booleans())),
        "max": lambda: pool("max"),
        "dropout": lambda: sym.Dropout(x, p=0.3),
        "scale": lambda: (x - 0.5) * 2.0,
        "group norm": lambda: sym.GroupNorm(conv(x, None, 4, 1), num_groups=2),
        "attention": lambda: split_attention(x, f"split{next(NUMBERS)}", 4, cardinality=draw(st.sampled_from([1, 2]))),
    }
    return kinds[draw(st.sampled_from(sorted(kinds)))]()


@st.composite
def branches(draw: st.DrawFn, x: Any, depth: int) -> Any:
    if draw(st.booleans()):
        gate = conv(draw(series(mean(x, None), 0)), None, 4, 1)
        return sym.broadcast_mul(x, sym.Activation(gate, act_type="sigmoid"))
    return sym.elemwise_add(draw(series(x, depth - 1)), draw(series(x, depth - 1)))


@given(st.data())
@settings(max_examples=25)
def test_any_graph_of_branches_that_part_and_join_is_read(data: st.DataObject) -> None:
    with mx.name.NameManager(), TemporaryDirectory() as folder:
        symbol = head(data.draw(series(stem(), 2)))
        tensors = tensors_of(symbol)
        identity = identify(read_checkpoint(write(Path(folder), symbol, tensors)))
    output = partial(get_backend("torch").forward, images=IMAGES)
    network = build(identity.plan, "torch", weights=identity.weights, dtype="float64")
    np.testing.assert_allclose(output(network), graphs.run(symbol, tensors, IMAGES), rtol=0, atol=1e-12)

    steps = steps_of(identity.plan.root.children)
    again, names = named_plan(steps, "again", set())
    assert difference(steps_of(again.root.children), steps) is None
    weights = {ours: identity.weights[theirs] for ours, theirs in names.items()}
    np.testing.assert_array_equal(output(build(again, "torch", weights=weights, dtype="float64")), output(network))
    assert read_spec(identity.plan.spec.to_json()) == identity.plan.spec


def test_an_odd_network_is_converted_trained_proven_and_made_fast(tmp_path, command, monkeypatch) -> None:
    """It skips two blocks, gates before the sum, and ends in two linear layers."""
    monkeypatch.chdir(tmp_path)
    symbol = GRAPHS["odd"]()
    write(tmp_path, symbol, tensors_of(symbol, (2, 1, 16, 16)))
    code, out, err = command("convert", "net-0000.params", "net.safetensors")
    assert (code, err) == (0, "")
    assert "guess" not in out
    spec, weights = load_weights("net.safetensors")
    Path("net.json").write_text(spec.to_json())
    for backend in ("torch", "mxnet"):
        options = ("--backend", backend, "--out", backend, "--epochs", "1", "--image-size", "12", "--lr", "0.05")
        code, out, err = command("train", "net.json", "--weights", "net.safetensors", *options)
        assert code == 0, err
        trained = load(backend, backend)
        assert get_backend(backend).forward(trained, IMAGES[:, :1]).shape == (2, 10)
        fast = optimize(spec, backend, weights=weights, image_size=(16, 16), preset="tuned")
        assert fast.error < 1e-5
        code, out, err = command("parity", backend, "--level", "quick", "--image-size", "16")
        assert code == 0, out + err
        assert "(5 rungs hold)" in out
