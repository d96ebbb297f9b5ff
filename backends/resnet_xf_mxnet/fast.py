"""Gluon's fastest inference: static ``hybridize``, oneDNN's fused subgraphs, and quantisation to int8."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from resnet_xf.errors import BackendError, one_line
from resnet_xf.fast import FastTask, no_gradients
from resnet_xf.weights import Array
from resnet_xf_mxnet import builder
from resnet_xf_mxnet.arrays import ndarray, weights_of
from resnet_xf_mxnet.learner import find_device, in_bfloat16
from resnet_xf_mxnet.loan import mx

STATIC = {"static_alloc": True, "static_shape": True}


class MxnetFast:
    """See :class:`resnet_xf.fast.Fast`."""

    def __init__(self, task: FastTask, weights: Mapping[str, Array]) -> None:
        self._context = find_device(task.device)
        on_cpu = self._context.device_type == "cpu"
        self.device = "cpu" if on_cpu else f"cuda:{self._context.device_id}"
        allowed = ("float32", "bfloat16", "int8") if on_cpu else ("float32", "float16")
        if task.precision not in allowed:
            raise BackendError(
                f"mxnet has no fast {task.precision} on {self.device}; choose one of {', '.join(allowed)}"
            )
        self._batch = task.shape[0]
        self._dtype = "float16" if task.precision == "float16" else "float32"
        network = builder.build(task.network)
        network.initialize(ctx=self._context)
        for name, param in weights_of(network).items():
            param.set_data(ndarray(weights[name], "float32", self._context))
            param.grad_req = "null"
        network.cast(self._dtype)
        shown = mx.nd.zeros(task.shape, ctx=self._context, dtype=self._dtype)
        steps = ["hybridized with static memory"]
        if task.precision == "int8":
            network = _in_int8(network, task, self._context)
            steps = ["int8", *steps]
        elif task.precision == "bfloat16":
            network = in_bfloat16(network)
            steps = ["bfloat16", *steps]
        network.hybridize(**STATIC)
        if on_cpu and task.compiles and task.precision == "float32":
            network.optimize_for(shown, backend="MKLDNN", **STATIC)
            steps.append("fused by oneDNN")
        self._run = network
        self.steps = tuple(steps)
        try:
            self(shown).wait_to_read()
        except mx.MXNetError as error:
            raise BackendError(f"mxnet cannot run the network in {task.precision}: {one_line(error)}") from error

    def __call__(self, images: Any) -> Any:
        """The outputs; they wait to be read."""
        if mx.autograd.is_recording():
            no_gradients()
        native = isinstance(images, mx.nd.NDArray)
        x = images.astype(self._dtype, copy=False) if native else ndarray(images, self._dtype, self._context)
        starts = range(0, len(x), self._batch)
        output = mx.nd.concat(*(self._part(x[start : start + self._batch]) for start in starts), dim=0)
        return output if native else output.asnumpy()

    def _part(self, images: Any) -> Any:
        """A batch's outputs; one that is not full would be planned anew."""
        count = len(images)
        if count < self._batch:
            rest = mx.nd.zeros((self._batch - count, *images.shape[1:]), ctx=self._context, dtype=self._dtype)
            images = mx.nd.concat(images, rest, dim=0)
        return self._run(images)[:count].astype("float32", copy=False)


def _in_int8(network: Any, task: FastTask, context: Any) -> Any:
    """Convolutions and products in int8, each channel with its own scale; ranges are the extremes of those images."""
    shown = mx.io.NDArrayIter({"data": ndarray(task.calibration, "float32", context)}, batch_size=task.shape[0])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Cannot decide type", UserWarning)  # of its input, which it is then told
        return mx.contrib.quantization.quantize_net_v2(
            network,
            quantized_dtype="auto",
            quantize_granularity="channel-wise",
            calib_mode="naive",
            calib_data=shown,
            ctx=context,
        )
