"""The operators of MXNet's exported graphs as nodes of a plan, one function for each.

A function returns the node with the variables of its arrays; None for an operator that changes nothing. An attribute
that has no counterpart is refused with the operator's name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from resnet_xf.architecture import nodes
from resnet_xf.architecture.nodes import STATISTICS
from resnet_xf.architecture.rules import Axes
from resnet_xf.formats.operators import Layer, Operator, Value, Variables

SHARED_NORM = "_contrib_SyncBatchNorm"
"""The operator of a batch norm whose statistics GPUs share in training."""


def _convolution(op: Operator) -> Layer:
    op.needs(4)
    op.expect("layout", "NCHW", "None")
    groups, filters, kernel = op.whole("num_group", 1), op.whole("num_filter"), op.square("kernel")
    out, inner, height, width = op.array(1, 4)
    if (out, height, width) != (filters, kernel, kernel):
        raise op.refuse(f"{op.inputs[1]} has the shape {(out, inner, height, width)}; the graph asks for another")
    bias = not op.flag("no_bias", default=False)
    stride, padding, dilation = op.square("stride", 1), op.square("pad", 0), op.square("dilate", 1)
    conv = nodes.Conv(inner * groups, filters, kernel, stride, padding, dilation, groups, bias)
    op.value = Value(4, filters)
    return conv, _weight_and_bias(op, bias=bias)


def _weight_and_bias(op: Operator, *, bias: bool) -> Variables:
    if bias and len(op.inputs) < 3:
        raise op.refuse("has no bias among its inputs, and no_bias is not set")
    return {"weight": op.inputs[1]} | ({"bias": op.inputs[2]} if bias else {})


def _dense(op: Operator) -> Layer:
    flattens, bias = op.flag("flatten", default=True), not op.flag("no_bias", default=False)
    out, inner = op.array(1, 2)
    if op.value.axes != 2 and not flattens:
        raise op.refuse("flatten is False, and its input has more than two axes")
    if out != op.whole("num_hidden"):
        raise op.refuse(f"{op.inputs[1]} has {out} rows; the graph asks for {op.whole('num_hidden')}")
    op.value = Value(2, out)
    return nodes.Linear(inner, out, bias), _weight_and_bias(op, bias=bias)


def _norm(op: Operator) -> Layer:
    op.expect("axis", "1")
    op.expect("output_mean_var", "False", "0")
    if op.op == SHARED_NORM:
        op.read |= {"key", "ndev"}
        op.notes.append("batch norms whose GPUs share statistics in training (SyncBatchNorm) are ordinary ones here")
    if op.flag("use_global_stats", default=False):
        op.notes.append(
            "frozen batch norms (use_global_stats) are ordinary ones here: training updates their statistics"
        )
    (channels,) = op.array(1, 1)
    momentum, scale = round(1 - op.number("momentum", 0.9), 12), not op.flag("fix_gamma", default=True)
    axes: Axes = 2 if op.value.axes == 2 else 4
    op.needs(axes)
    op.value.channels = channels
    statistics = op.inputs[3:5] or [
        f"{op.name}_moving_{word}" for word in ("mean", "var")
    ]  # old files do not list them
    variables = dict(zip(("weight", "bias", *STATISTICS), (*op.inputs[1:3], *statistics), strict=False))
    eps = op.number("eps", float(np.float32(1e-3)))  # MXNet's default is a float32, unlike an eps that is given
    node = nodes.Norm(channels, eps, momentum, scale=scale, axes=axes)
    return node, variables if scale else {word: name for word, name in variables.items() if word != "weight"}


def _group_norm(op: Operator) -> Layer:
    op.needs(4)
    if op.value.channels is None:
        raise op.refuse("no convolution before it tells its channels")
    node = nodes.GroupNorm(op.value.channels, op.whole("num_groups", 1), op.single("eps", 1e-5))
    return node, {"weight": op.inputs[1], "bias": op.inputs[2]}


def _activation(op: Operator) -> Layer:
    kind = op.text("act_type", "")
    if kind not in ("relu", "sigmoid", "tanh"):
        raise op.refuse(f"act_type is {kind!r}, expected relu, sigmoid or tanh")
    return nodes.Activation(kind), {}  # type: ignore[arg-type]


def _leaky(op: Operator) -> Layer:
    if op.expect("act_type", "leaky", "prelu") == "leaky":
        return nodes.LeakyReLU(op.single("slope", 0.25), float32=True), {}
    op.text("slope", "")
    op.needs(4)
    if len(op.inputs) < 2 or op.inputs[1] not in op.tensors:
        raise op.refuse("its slopes are no array in the file")
    return nodes.PReLU(op.tensors[op.inputs[1]].size, float32=True), {"weight": op.inputs[1]}


def _pool(op: Operator) -> Layer:
    op.needs(4)
    op.expect("layout", "NCHW", "None")
    operation = op.expect("pool_type", "max", "avg")
    everywhere = op.flag("global_pool", default=False)
    kernel, stride = op.square("kernel", 1 if everywhere else None), op.square("stride", 1)
    padding, ceil = op.square("pad", 0), op.expect("pooling_convention", "valid", "full") == "full"
    counts = op.flag("count_include_pad", default=True)
    if everywhere:
        if operation == "max":
            raise op.refuse("takes the largest value of the whole map; expected its mean")
        return nodes.GlobalPool(), {}
    if (kernel, stride, padding) == (1, 1, 0):
        return None
    counts = counts and operation == "avg" and padding > 0
    return nodes.Pool(operation, kernel, stride, padding, ceil, counts), {}  # type: ignore[arg-type]


def _adaptive_pool(op: Operator) -> Layer:
    op.needs(4)
    if set(op.sizes("output_size", "1")) - {1}:
        raise op.refuse(f"output_size is {op.text('output_size', '1')}, expected 1")
    return nodes.GlobalPool(), {}


def _mean(op: Operator) -> Layer:
    axes, keeps = op.sizes("axis"), op.flag("keepdims", default=False)
    excludes = op.flag("exclude", default=False)
    if op.value.view == ("segments",) and axes == (1,) and not keeps | excludes:
        op.value.view = ()
        op.notes.append("the mean over one segment of a clip changes nothing and is left out")
        return None
    op.needs(4)
    over = {axis % 4 for axis in axes}
    if (set(range(4)) - over if excludes else over) != {2, 3}:
        raise op.refuse(f"axis is {axes}; expected (2, 3), the mean of each map")
    if not keeps:
        op.value.axes, op.then = 2, nodes.Flatten()
    return nodes.GlobalPool(), {}


def _squeeze(op: Operator) -> Layer:
    axes = op.sizes("axis") if op.text("axis", "None") != "None" else ()
    dropped = {axis % op.value.axes for axis in axes}
    if op.value.view or op.value.axes == 2 or not dropped or dropped & {0, 1}:
        raise op.refuse(f"axis is {axes or None}; expected height and width, as (2, 3), after a mean of each map")
    op.value.axes -= len(dropped)
    return (nodes.Flatten(), {}) if op.value.axes == 2 else None


def _flatten(op: Operator) -> Layer:
    if op.value.axes == 2:
        return None
    op.needs(4)
    op.value = Value(2)
    return nodes.Flatten(), {}


def _dropout(op: Operator) -> Layer:
    op.expect("mode", "training")
    op.expect("axes", "()", "None", "[]")
    rate = op.number("p", 0.5)
    return (nodes.Dropout(rate), {}) if rate else None


def _clip(op: Operator) -> Layer:
    return nodes.Clip(op.single("a_min"), op.single("a_max")), {}


def _by_scalar(change: Callable[[float], tuple[float, float]]) -> Callable[[Operator], Layer]:
    """The function of an operator with a number: ``change`` returns its shift and its scale."""

    def convert(op: Operator) -> Layer:
        op.text("is_int", "")
        number = op.number("scalar")
        if number == 0 and op.op.endswith(("_mul_scalar", "_div_scalar", "multiply_scalar", "divide_scalar")):
            raise op.refuse("its scalar is 0, after which nothing is left of the images")
        shift, scale = change(number)
        return nodes.Scale((shift,), (scale,)), {}

    return convert


def _normalize(op: Operator) -> Layer:
    mean, std = (np.array(op.constants(*of), np.float32).astype(np.float64) for of in (("mean", "0"), ("std", "1")))
    if not std.all():
        raise op.refuse(f"std is {op.text('std', '1')}; expected no 0")
    return nodes.Scale(tuple(mean.tolist()), tuple((1 / std).tolist())), {}


def _by_constant(change: Callable[[Any], tuple[Any, Any]]) -> Callable[[Operator], Layer]:
    """The function of an operator with an array of constants, one for each channel."""

    def convert(op: Operator) -> Layer:
        constants = op.tensors[op.inputs[1]].astype(np.float64)
        per_channel = constants.ndim == 4 and constants.size == constants.shape[1]
        if not (per_channel or constants.size == 1) or not (np.isfinite(constants) & (constants != 0)).all():
            raise op.refuse(f"{op.inputs[1]} has the shape {constants.shape}; expected (1, C, 1, 1), finite and not 0")
        shift, scale = (tuple(np.broadcast_to(part, constants.size).tolist()) for part in change(constants.ravel()))
        return nodes.Scale(shift, scale), {}

    return convert


def _same(op: Operator) -> Layer:
    return None


def _block_grad(op: Operator) -> Layer:
    op.notes.append(f"{op.name} stopped gradients; here they flow through it in training")
    return None


def _cast(op: Operator) -> Layer:
    op.expect("dtype", "float32")
    return None


def _logistic(op: Operator) -> Layer:
    op.read |= set(op.attributes)  # of the loss
    op.needs(2)
    return nodes.Activation("sigmoid"), {}


def _pad(op: Operator) -> Layer:
    op.needs(4)
    op.expect("mode", "constant")
    op.expect("constant_value", "0", "0.0")
    width = op.sizes("pad_width")
    if len(width) != 8 or any(width[:5]) or width[6] or width[5] != width[7] or not width[5]:
        raise op.refuse(f"pad_width is {width}; expected the same number below and to the right alone")
    return nodes.Pad(width[5]), {}


def _expand(op: Operator) -> Layer:
    axis = op.whole("axis")
    if op.value.axes == 4 and axis == 1:
        op.value.view = ("expanded",)
    elif op.value.axes in (2, 3) and axis in (2, 3, -1):
        op.value.axes += 1
    else:
        raise op.refuse(f"axis is {axis}, which no gate or split attention needs")
    return None


SQUEEZED = (-2, -2, -3, -3)
"""The shape by which ``npx.reshape`` drops the last two axes, if each has one value."""


def _reshape(op: Operator) -> Layer:
    op.expect("reverse", "False", "0")
    numpy, view = op.op.startswith("_np"), op.value.view
    op.expect("order", "C")
    written = op.sizes("newshape" if numpy else "shape")
    shape = tuple(0 if size == -2 and numpy else size for size in written)  # both say: as it is
    op.sizes("target_shape", "(0, 0)")
    op.expect("keep_highest", "False", "0")
    flat = len(shape) == 2 and shape[0] in (0, -1) and shape[1] >= -1
    if view == ("expanded",) and len(shape) == 5 and shape[0] == 0 and shape[3:] == (0, 0):
        op.value.view = ("split", shape[1])
    elif view[:1] == ("weights",) and len(shape) == 5 and shape[0] == 0 and shape[3:] == (1, 1) and shape[1] == view[1]:
        op.value.view = ("split", shape[1])
        return nodes.RadixSoftmax(int(view[1]), int(view[2])), {}
    elif not view and op.value.axes == 4 and len(shape) == 4 and shape[0] == 0 and shape[3] == -1:
        op.value.view = ("grouped", shape[2], shape[1])
    elif not view and (flat or (numpy and written == SQUEEZED)):
        return _flatten(op)
    elif not view and op.value.axes == 2 and shape in ((0, *shape[1:2], 1, 1), (-1, op.value.channels, 1, 1)):
        op.value.axes = 4
    elif not view and op.value.axes == 2 and len(shape) == 3 and shape[:2] == (-1, 1):
        op.value.view = ("segments",)
    else:
        raise op.refuse(f"shape is {written}, which no known part of a residual network needs")
    return None


def _swap(op: Operator) -> Layer:
    if op.value.view[:1] != ("grouped",) or {op.whole("dim1", 0), op.whole("dim2", 0)} != {1, 2}:
        raise op.refuse("only split attention swaps axes, 1 and 2")
    op.value.view = ("swapped", *op.value.view[1:])
    return None


def _softmax(op: Operator) -> Layer:
    axis = op.whole("axis", -1)
    op.expect("temperature", "None", "1.0")
    op.expect("use_length", "False", "0")
    if op.value.view[:1] == ("swapped",) and axis == 1:
        op.value.view = ("weights", *op.value.view[1:])
        return None
    if op.value.view or op.value.axes != 2 or axis not in (1, -1):
        raise op.refuse("a softmax is expected over classes, at the end, or in split attention")
    return nodes.Activation("softmax"), {}


def _softmax_output(op: Operator) -> Layer:
    op.read |= set(op.attributes)  # of the loss
    if op.value.axes != 2:
        raise op.refuse("a softmax over a map of pixels; expected one over classes")
    return nodes.Activation("softmax"), {}


def _sum(op: Operator) -> Layer:
    op.expect("keepdims", "False", "0")
    op.expect("exclude", "False", "0")
    if op.value.view[:1] != ("split",) or op.sizes("axis") != (1,):
        raise op.refuse("only split attention sums, over axis 1")
    radix = int(op.value.view[1])
    op.value = Value(4, op.value.channels and op.value.channels // radix)
    return nodes.RadixSum(radix), {}


def _images_last(op: Operator) -> Layer:
    if op.sizes("axes") != (0, 3, 1, 2) or op.inputs[0] in op.tensors or op.value.channels is not None:
        raise op.refuse("expected (N, H, W, C) to (N, C, H, W), of the images alone")
    op.notes.append("the exported network takes images (N, H, W, C); this one takes (N, C, H, W)")
    return None


def _crop(op: Operator) -> Layer:
    op.read |= set(op.attributes)
    return None


SUMS = frozenset(
    ("elemwise_add", "_Plus", "_plus", "broadcast_add", "broadcast_plus", "_add", "add_n", "ElementWiseSum", "_npi_add")
)
PRODUCTS = frozenset(("elemwise_mul", "_Mul", "_mul", "broadcast_mul", "_npi_multiply"))
"""The operators of two inputs that both come from the images. Here and below, ``_np`` begins those of ``set_np()``."""

LAST = frozenset(("SoftmaxOutput", "Softmax", "softmax", "SoftmaxActivation"))
"""The operators at the end that turn outputs into probabilities."""

LOSSES = "MakeLoss", "make_loss", "SVMOutput", "LinearRegressionOutput", "MAERegressionOutput"
LEFT_OUT = frozenset(("log_softmax", "_npx_log_softmax", "L2Normalization", *LOSSES))
"""The operators that no plan has, but that are left out at the end: the losses there change no output."""

CROPS: dict[str, Callable[[Operator], Layer]] = dict.fromkeys(("_contrib_ROIAlign", "ROIPooling"), _crop)
"""The operators that cut regions out of a map; in detectors the last stage runs on these."""

CONVERTERS: dict[str, Callable[[Operator], Layer]] = {
    "Convolution": _convolution,
    "FullyConnected": _dense,
    **dict.fromkeys(("BatchNorm", "BatchNorm_v1", "CuDNNBatchNorm", SHARED_NORM), _norm),
    "GroupNorm": _group_norm,
    "Activation": _activation,
    **{
        name: lambda op, word=word: (nodes.Activation(word), {})  # type: ignore[misc]
        for word in ("relu", "sigmoid", "tanh")
        for name in (word, f"_npx_{word}", f"_npi_{word}")
    },
    "LeakyReLU": _leaky,
    **dict.fromkeys(("Pooling", "Pooling_v1"), _pool),
    "_contrib_AdaptiveAvgPooling2D": _adaptive_pool,
    **dict.fromkeys(("mean", "_npi_mean"), _mean),
    **dict.fromkeys(("squeeze", "_np_squeeze", "_npi_squeeze"), _squeeze),
    **dict.fromkeys(("Flatten", "flatten"), _flatten),
    "Dropout": _dropout,
    "clip": _clip,
    **dict.fromkeys(("_plus_scalar", "_npi_add_scalar"), _by_scalar(lambda number: (-number, 1.0))),
    **dict.fromkeys(("_minus_scalar", "_npi_subtract_scalar"), _by_scalar(lambda number: (number, 1.0))),
    **dict.fromkeys(("_rminus_scalar", "_npi_rsubtract_scalar"), _by_scalar(lambda number: (number, -1.0))),
    **dict.fromkeys(("negative", "_npi_negative"), lambda op: (nodes.Scale(scale=(-1.0,)), {})),
    **dict.fromkeys(("_mul_scalar", "_npi_multiply_scalar"), _by_scalar(lambda number: (0.0, number))),
    **dict.fromkeys(("_div_scalar", "_npi_true_divide_scalar"), _by_scalar(lambda number: (0.0, 1 / number))),
    **dict.fromkeys(("_copy", "identity", "_np_copy"), _same),
    "_image_normalize": _normalize,
    "BlockGrad": _block_grad,
    **dict.fromkeys(("Cast", "cast"), _cast),
    **dict.fromkeys(("Pad", "pad"), _pad),
    "expand_dims": _expand,
    **dict.fromkeys(("Reshape", "reshape", "_np_reshape", "_npx_reshape"), _reshape),
    **dict.fromkeys(("SwapAxis", "swapaxes"), _swap),
    "softmax": _softmax,
    "LogisticRegressionOutput": _logistic,
    **dict.fromkeys(("SoftmaxOutput", "Softmax", "SoftmaxActivation"), _softmax_output),
    "sum": _sum,
    "transpose": _images_last,
}

WITH_CONSTANTS: dict[str, Callable[[Operator], Layer]] = {
    **dict.fromkeys(("broadcast_sub", "broadcast_minus", "_npi_subtract"), _by_constant(lambda array: (array, 1.0))),
    **dict.fromkeys(("broadcast_add", "broadcast_plus", "_npi_add"), _by_constant(lambda array: (-array, 1.0))),
    **dict.fromkeys(("broadcast_mul", "_npi_multiply"), _by_constant(lambda array: (0.0, array))),
    **dict.fromkeys(("broadcast_div", "_npi_true_divide"), _by_constant(lambda array: (0.0, 1 / array))),
}
"""The operators whose second input may be an array of constants."""

OPERATORS = frozenset(("null", *CONVERTERS, *WITH_CONSTANTS, *SUMS, *PRODUCTS, *LEFT_OUT))
"""All operators that a graph may have. Others may read files, or make more of a tensor than memory holds."""
