"""Small graphs, drawn with MXNet's symbols as its users have drawn theirs, and what MXNet makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_xf.architecture.weights import Weights
from resnet_xf_mxnet.arrays import ndarray
from resnet_xf_mxnet.numpy_compat import mx

sym = mx.sym
SHAPE = (2, 3, 16, 16)


def conv(x: Any, name: str, filters: int, kernel: int = 3, stride: int = 1, dilate: int = 1, **others: Any) -> Any:
    """A convolution without bias that keeps the size but for its stride."""
    sizes = {"kernel": kernel, "stride": stride, "pad": dilate * (kernel - 1) // 2, "dilate": dilate}
    pairs = {word: (size, size) for word, size in sizes.items()}
    return sym.Convolution(x, num_filter=filters, name=name, **({"no_bias": True} | pairs | others))


def bn(x: Any, name: str, **others: Any) -> Any:
    return sym.BatchNorm(x, name=name, **({"fix_gamma": False, "eps": 2e-5} | others))


def relu(x: Any, name: str) -> Any:
    return sym.Activation(x, act_type="relu", name=name)


def prelu(x: Any, name: str) -> Any:
    return sym.LeakyReLU(x, act_type="prelu", name=name)


def mean(x: Any, name: str = "pool") -> Any:
    return sym.Pooling(x, global_pool=True, kernel=(7, 7), pool_type="avg", name=name)


def head(x: Any, classes: int = 5) -> Any:
    return sym.FullyConnected(sym.Flatten(mean(x, "pool1"), name="flatten0"), num_hidden=classes, name="fc1")


def stem(filters: int = 4) -> Any:
    """A convolution, a batch norm and a ReLU."""
    return relu(bn(conv(sym.var("data"), "conv0", filters), "bn0"), "relu0")


def v1_block(x: Any, name: str, filters: int, *, projects: bool = False, act: Any = relu, gate: Any = None) -> Any:
    """A basic block; ``gate`` is applied to the body before the sum."""
    body = act(bn(conv(x, f"{name}_conv1", filters), f"{name}_bn1"), f"{name}_relu1")
    body = bn(conv(body, f"{name}_conv2", filters), f"{name}_bn2")
    body = gate(body, name, filters) if gate else body
    shortcut = bn(conv(x, f"{name}_sc", filters, 1), f"{name}_sc_bn") if projects else x
    return act(sym.elemwise_add(body, shortcut, name=f"{name}_plus"), f"{name}_relu")


def dense_gate(x: Any, name: str, filters: int) -> Any:
    """Squeeze-excitation by dense layers, as GluonCV's SE-ResNets have it."""
    gate = sym.FullyConnected(sym.Flatten(mean(x, f"{name}_se_pool")), num_hidden=2, name=f"{name}_se_fc1")
    gate = sym.FullyConnected(relu(gate, f"{name}_se_relu"), num_hidden=filters, name=f"{name}_se_fc2")
    gate = sym.Activation(gate, act_type="sigmoid", name=f"{name}_se_sigmoid")
    return sym.broadcast_mul(x, sym.expand_dims(sym.expand_dims(gate, axis=2), axis=2), name=f"{name}_se")


def split_attention(x: Any, name: str, filters: int, cardinality: int = 1, radix: int = 2) -> Any:
    """A convolution with split attention, as GluonCV's ResNeSt has it."""
    name = f"{name}_att"
    x = conv(x, f"{name}_conv", filters * radix, num_group=cardinality * radix)
    x = relu(bn(x, f"{name}_bn"), f"{name}_relu")
    parts = sym.reshape(sym.expand_dims(x, axis=1), shape=(0, radix, filters, 0, 0))
    gap = sym.contrib.AdaptiveAvgPooling2D(sym.sum(parts, axis=1), output_size=1)
    inner = conv(gap, f"{name}_fc1", 4, 1, num_group=cardinality, no_bias=False)
    inner = relu(bn(inner, f"{name}_bn1"), f"{name}_relu1")
    weights = conv(inner, f"{name}_fc2", filters * radix, 1, num_group=cardinality, no_bias=False)
    weights = sym.swapaxes(sym.reshape(weights, shape=(0, cardinality, radix, -1)), dim1=1, dim2=2)
    weights = sym.reshape(sym.softmax(weights, axis=1), shape=(0, radix, -1, 1, 1))
    return sym.sum(sym.broadcast_mul(weights, parts), axis=1)


def preactivation() -> Any:
    """The symbol API's ResNet v2: ``bn_data`` with a fixed scale, and a softmax at the end."""
    x = conv(bn(sym.var("data"), "bn_data", fix_gamma=True), "conv0", 4)
    for name, filters, stride in (("stage1_unit1", 6, 2), ("stage1_unit2", 6, 1), ("stage2_unit1", 8, 2)):
        act = relu(bn(x, f"{name}_bn1"), f"{name}_relu1")
        body = relu(bn(conv(act, f"{name}_conv1", filters, stride=stride), f"{name}_bn2"), f"{name}_relu2")
        shortcut = x if name.endswith("2") else conv(act, f"{name}_sc", filters, 1, stride)
        x = conv(body, f"{name}_conv2", filters) + shortcut
    return sym.SoftmaxOutput(head(relu(bn(x, "bn1"), "relu1")), name="softmax")


def arcface() -> Any:
    """InsightFace's: preprocessing by two numbers, PReLU, and dropout, a dense layer and a norm at the end."""
    x = (sym.identity(sym.var("data"), name="id") - 127.5) * 0.0078125
    x = prelu(bn(conv(x, "conv0", 4), "bn0"), "relu0")
    for name, filters, stride in (("stage1_unit1", 6, 2), ("stage1_unit2", 6, 1)):
        body = prelu(bn(conv(bn(x, f"{name}_bn1"), f"{name}_conv1", filters), f"{name}_bn2"), f"{name}_relu1")
        body = bn(conv(body, f"{name}_conv2", filters, stride=stride), f"{name}_bn3")
        shortcut = bn(conv(x, f"{name}_conv1sc", filters, 1, stride), f"{name}_sc") if stride > 1 else x
        x = body + shortcut
    x = sym.Dropout(bn(x, "bn1"), p=0.4, name="dropout0")
    return bn(sym.FullyConnected(x, num_hidden=5, name="pre_fc1"), "fc1", fix_gamma=True)


def export_block() -> Any:
    """GluonCV's ``export_block`` with its preprocessing: images ``(N, H, W, C)``, constants for each channel."""
    x = sym.transpose(sym.var("data"), axes=(0, 3, 1, 2))
    x = sym.broadcast_sub(x, sym.var("init_mean", shape=(1, 3, 1, 1)))
    x = sym.broadcast_div(x, sym.var("init_scale", shape=(1, 3, 1, 1)))
    return head(v1_block(relu(bn(conv(x, "conv0", 4), "bn0"), "relu0"), "a", 4))


def skip_over_two_blocks() -> Any:
    """Two blocks, and a sum over both."""
    x = stem()
    return head(relu(v1_block(v1_block(x, "a", 4), "b", 4) + x, "outer"))


def head_of_two_layers() -> Any:
    hidden = relu(sym.FullyConnected(mean(v1_block(stem(), "a", 4)), num_hidden=7, name="hidden"), "relu1")
    return sym.FullyConnected(hidden, num_hidden=5, name="fc1")


def odd() -> Any:
    """A skip over two blocks, a gate before the sum, and a head of two layers, in one network."""
    x = stem()
    x = relu(v1_block(v1_block(x, "a", 4, gate=dense_gate), "b", 4) + x, "outer")
    hidden = relu(sym.FullyConnected(mean(x), num_hidden=7, name="hidden"), "relu1")
    return sym.FullyConnected(hidden, num_hidden=10, name="fc1")


def defaults() -> Any:
    """Operators without the attributes that may be left out."""
    x = sym.Convolution(sym.var("data"), num_filter=4, kernel=(3, 3), name="conv0")
    x = v1_block(relu(sym.BatchNorm(x, name="bn0"), "relu0"), "a", 4)
    pooled = sym.Pooling(x, global_pool=True, pool_type="avg", name="pool1")
    return sym.FullyConnected(pooled, num_hidden=5, name="fc1")


def small_operators() -> Any:
    """Division by a constant, a pool of 1×1, padding below and to the right, and means by other operators."""
    x = conv(sym.var("data") / 2.0, "conv0", 4, stride=2)
    x = sym.Pooling(relu(x, "relu0"), kernel=(1, 1), pool_type="max", name="same")
    x = sym.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 0, 1, 0, 1), constant_value=0, name="pad0")
    x = sym.mean(v1_block(x, "a", 4), axis=(2, 3), keepdims=True, name="pool1")
    x = sym.reshape(x, shape=(0, -1), keep_highest=False, name="flat1")
    segments = sym.reshape(x, shape=(-1, 1, 4), name="segments")
    return sym.FullyConnected(sym.mean(segments, axis=1, name="consensus"), num_hidden=5, name="fc1")


def reshaped_gate(x: Any, name: str, filters: int) -> Any:
    """A gate that a reshape makes a map again, with two activations inside; it ends in another than a sigmoid."""
    gate = conv(mean(x, f"{name}_se_pool"), f"{name}_se_fc1", 2, 1)
    gate = sym.Flatten(sym.Activation(gate, act_type="sigmoid", name=f"{name}_se_sigmoid"))
    gate = sym.FullyConnected(gate, num_hidden=filters, name=f"{name}_se_fc2")
    gate = sym.reshape(gate, shape=(0, filters, 1, 1), name=f"{name}_se_reshape")
    return sym.broadcast_mul(x, sym.Activation(gate, act_type="tanh", name=f"{name}_se_tanh"), name=f"{name}_se")


def scales_around_a_convolution() -> Any:
    x = conv((sym.var("data") - 0.5) * 3.0, "conv0", 4)
    return head(v1_block(relu(x * 0.25, "relu0"), "a", 4))


def mean_without_axes(x: Any, name: str = "pool") -> Any:
    """The mean of each map as ``(N, C)``, over all axes but the first two."""
    return sym.mean(x, axis=(0, 1), exclude=True, name=name)


def gate_without_axes(x: Any, name: str, filters: int) -> Any:
    gate = sym.mean(x, axis=(-2, -1), name=f"{name}_se_pool")
    gate = sym.FullyConnected(relu(gate, f"{name}_se_relu"), num_hidden=filters, name=f"{name}_se_fc")
    return sym.broadcast_mul(x, sym.reshape(sym.sigmoid(gate), shape=(-1, filters, 1, 1)), name=f"{name}_se")


def squeezed() -> Any:
    """The axes of a mean are dropped one by one, with an activation between."""
    x = sym.squeeze(mean(v1_block(stem(), "a", 4)), axis=-1, name="squeeze0")
    return sym.FullyConnected(sym.squeeze(sym.tanh(x), axis=2, name="squeeze1"), num_hidden=5, name="fc1")


def inverted() -> Any:
    """The image is inverted, and a map is turned round."""
    x = conv((1.0 - sym.var("data")) / 2.0, "conv0", 4)
    return head(v1_block(sym.negative(relu(x, "relu0"), name="minus"), "a", 4))


def projection_after_one_layer() -> Any:
    """A block that projects right after a single convolution, and one whose body begins with a norm."""
    x = conv(sym.var("data"), "conv0", 4)
    x = conv(x, "a_conv", 6) + conv(x, "a_sc", 6, 1)
    return head(x + conv(relu(bn(x, "b_bn"), "b_relu"), "b_conv", 6))


def dotted() -> Any:
    """All names begin with ``net.``."""
    with mx.name.Prefix("net."):
        return head(v1_block(stem(), "a", 4))


def shared_norm(x: Any, name: str) -> Any:
    """A batch norm that shares its statistics in training; MXNet has it in float32 alone."""
    return sym.contrib.SyncBatchNorm(x, eps=1e-4, momentum=0.8, fix_gamma=False, key=name, ndev=2, name=name)


def in_half(*, casts: bool) -> Any:
    """A network as the Module API trains it in float16; with weights and a sum as automatic mixed precision casts them."""
    half = (lambda x: sym.amp_cast(x, dtype="float16", name=f"{x.name}_half")) if casts else (lambda x: x)
    x = sym.Cast(sym.var("data"), dtype="float16", name="cast0") if casts else sym.var("data")
    weight = half(sym.var("conv0_weight"))
    x = relu(bn(sym.Convolution(x, weight, kernel=(3, 3), pad=(1, 1), num_filter=4, no_bias=True), "bn0"), "relu0")
    one, other = x, bn(conv(x, "conv1", 4), "bn1")
    if casts:
        one, other = sym.amp_multicast(one, other, num_outputs=2, name="both")
    x = head(relu(one + other, "relu1"))
    return sym.SoftmaxOutput(sym.cast(x, dtype="float32") if casts else x, name="softmax")


ENDINGS = {
    "log_softmax": lambda x: sym.log_softmax(x, name="end"),
    "L2Normalization": lambda x: sym.L2Normalization(x, mode="instance", name="end"),
    "MakeLoss": lambda x: sym.MakeLoss(x, name="end"),
    "SVMOutput": lambda x: sym.SVMOutput(x, name="end"),
    "LinearRegressionOutput": lambda x: sym.LinearRegressionOutput(x, name="end"),
    "MAERegressionOutput": lambda x: sym.MAERegressionOutput(x, name="end"),
}
"""By operator, what it makes of a network's outputs; no plan has it."""


GRAPHS = {
    "attributes at their defaults": defaults,
    "small operators": small_operators,
    "a gate through a reshape": lambda: head(v1_block(stem(), "a", 4, gate=reshaped_gate)),
    "scales around a convolution": scales_around_a_convolution,
    "a mean without axes": lambda: sym.FullyConnected(
        mean_without_axes(v1_block(stem(), "a", 4, gate=gate_without_axes)), num_hidden=5, name="fc1"
    ),
    "a squeezed mean": squeezed,
    "an inverted image": inverted,
    "normalised images": lambda: head(
        v1_block(
            relu(conv(sym.image.normalize(sym.var("data"), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), "conv0", 4), "relu0"),
            "a",
            4,
        )
    ),
    "a projection after one layer": projection_after_one_layer,
    "a block on the images": lambda: head(v1_block(sym.var("data"), "a", 3)),
    "names with a dot": dotted,
    "preactivation": preactivation,
    "arcface": arcface,
    "squeeze-excitation by dense layers": lambda: head(v1_block(stem(), "a", 6, projects=True, gate=dense_gate)),
    "split attention": lambda: head(v1_block(stem(), "a", 4, gate=split_attention)),
    "split attention of cardinality 2": lambda: head(
        v1_block(stem(), "a", 4, gate=lambda *args: split_attention(*args, cardinality=2))
    ),
    "group norm": lambda: head(sym.GroupNorm(v1_block(stem(), "a", 4), num_groups=2, name="gn")),
    "dilation": lambda: head(v1_block(relu(conv(stem(), "conv1", 4, dilate=2), "relu1"), "a", 4)),
    "padding that is counted": lambda: head(
        v1_block(sym.Pooling(stem(), kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", name="mean"), "a", 4)
    ),
    "padding that is not counted": lambda: head(
        v1_block(
            sym.Pooling(
                stem(), kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", count_include_pad=False, name="mean"
            ),
            "a",
            4,
        )
    ),
    "pooling rounded up": lambda: head(
        v1_block(
            sym.Pooling(stem(), kernel=(3, 3), stride=(2, 2), pool_type="max", pooling_convention="full", name="max"),
            "a",
            4,
        )
    ),
    "leaky ReLU": lambda: head(
        v1_block(stem(), "a", 4, act=lambda x, name: sym.LeakyReLU(x, act_type="leaky", slope=0.1, name=name))
    ),
    "one slope for all": lambda: head(
        v1_block(
            stem(),
            "a",
            4,
            act=lambda x, name: sym.LeakyReLU(x, sym.var(f"{name}_gamma", shape=(1,)), act_type="prelu", name=name),
        )
    ),
    "ReLU6": lambda: head(v1_block(stem(), "a", 4, act=lambda x, name: sym.clip(x, a_min=0, a_max=1.5, name=name))),
    "gradients that stop": lambda: head(v1_block(sym.BlockGrad(stem(), name="stop"), "a", 4)),
    "preprocessing by constants": export_block,
    "a skip over two blocks": skip_over_two_blocks,
    "a head of two layers": head_of_two_layers,
    "odd": odd,
}


def drawn(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Values under which every array matters."""
    if name.endswith(("_var", "_scale")):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("gamma"):
        return rng.uniform(0.2, 0.9, shape)
    if name.endswith(("_mean", "beta", "bias")):
        return rng.normal(0, 0.2, shape)
    return rng.normal(0, 1 / np.sqrt(max(1, np.prod(shape[1:]))), shape)


def tensors_of(symbol: Any, shape: tuple[int, ...] = SHAPE) -> Weights:
    """Draw the arrays of a graph, by the names of its variables, as float32."""
    rng = np.random.default_rng(0)
    arguments, _, states = symbol.infer_shape(data=shape)
    named = [*zip(symbol.list_arguments(), arguments, strict=True)]
    named += zip(symbol.list_auxiliary_states(), states, strict=True)
    fixed = {f"{name}_gamma" for name, of in symbol.attr_dict().items() if of.get("fix_gamma") == "True"}
    arrays = {name: drawn(name, size, rng).astype(np.float32) for name, size in named if not _is_input(name)}
    return {name: np.ones_like(array) if name in fixed else array for name, array in arrays.items()}


def _is_input(name: str) -> bool:
    return name == "data" or name.endswith("label")


def run(symbol: Any, tensors: Weights, images: np.ndarray) -> np.ndarray:
    """MXNet's own output in float64, without a softmax at the end."""
    if symbol.list_outputs()[0] == "softmax_output":
        symbol = symbol.get_children()[0]
    states = set(symbol.list_auxiliary_states())
    arrays = {name: ndarray(array, "float64", mx.cpu()) for name, array in {**tensors, "data": images}.items()}
    args = {name: array for name, array in arrays.items() if name not in states}
    bound = symbol.bind(mx.cpu(), args=args, aux_states={name: arrays[name] for name in states})
    output: np.ndarray = bound.forward(is_train=False)[0].asnumpy()
    return output


def write(folder: Path, symbol: Any, tensors: Weights, text: str | None = None) -> Path:
    """Write an exported pair, ``net-symbol.json`` and the path that is returned."""
    (folder / "net-symbol.json").write_text(text or symbol.tojson())
    path = folder / "net-0000.params"
    states = set(symbol.list_auxiliary_states())
    save(path, {f"{'aux' if name in states else 'arg'}:{name}": array for name, array in tensors.items()})
    return path


def save(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a ``.params``."""
    mx.nd.save(str(path), {name: ndarray(array, array.dtype, mx.cpu()) for name, array in tensors.items()})
