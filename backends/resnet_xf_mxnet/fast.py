"""The fastest inference with Gluon: static ``hybridize``, oneDNN's fused subgraphs, quantization to int8."""

from __future__ import annotations

import warnings
from typing import Any

from resnet_xf.architecture.weights import Array
from resnet_xf.backend.fast import COMPILED, FastTask, no_gradients
from resnet_xf.errors import BackendError
from resnet_xf_mxnet.arrays import as_kind, kind, ndarray
from resnet_xf_mxnet.learner import STATIC, device_name, find_device, in_low, line_of
from resnet_xf_mxnet.numpy_compat import mx


class MxnetFast:
    """See :class:`resnet_xf.backend.fast.Fast`."""

    @kind(numpy=False)
    def __init__(self, task: FastTask) -> None:
        self._context = find_device(task.device)
        on_cpu = self._context.device_type == "cpu"
        self.device = device_name(self._context)
        allowed = ("float32", "bfloat16", "int8") if on_cpu else ("float32", "float16")
        if task.precision not in allowed:
            raise BackendError(
                f"mxnet has no fast {task.precision} on {self.device}; choose one of {', '.join(allowed)}"
            )
        self._batch = task.shape[0]
        self._dtype = "float16" if task.precision == "float16" else "float32"
        network = task.network
        steps = [] if task.precision == "float32" else [task.precision]
        try:
            for param in network._collect_params_with_prefix().values():
                param.grad_req = "null"
                param.reset_ctx(self._context)
            network.cast(self._dtype)
            if task.precision == "int8":
                network = _in_int8(network, task, self._context)
            elif task.precision == "bfloat16":
                network = in_low(network, "bfloat16")
            if task.preset != "eager":
                network.hybridize(**STATIC)
                steps.append("hybridized with static memory")
            zeros = mx.nd.zeros(task.shape, ctx=self._context, dtype=self._dtype)
            if on_cpu and task.preset in COMPILED and task.precision == "float32":
                network.optimize_for(zeros, backend="MKLDNN", **STATIC)
                steps.append("fused by oneDNN")
            self._run = network
            self.steps = tuple(steps)
            self(zeros).wait_to_read()
        except mx.MXNetError as error:
            text = line_of(error, "batch")
            raise BackendError(f"mxnet cannot run the network in {task.precision}: {text}") from error

    @kind(numpy=False)
    def put(self, images: Array) -> Any:
        return ndarray(images, self._dtype, self._context)

    @kind(numpy=False)
    def __call__(self, images: Any) -> Any:
        """Return the outputs. MXNet may still be computing them."""
        if mx.autograd.is_recording():
            no_gradients()
        native = isinstance(images, mx.nd.NDArray)
        x = as_kind(images, numpy=False).astype(self._dtype, copy=False) if native else self.put(images)
        if len(x) == self._batch:
            output = self._run_batch(x)
        else:
            starts = range(0, len(x), self._batch)
            output = mx.nd.concat(*(self._run_batch(x[start : start + self._batch]) for start in starts), dim=0)
        return as_kind(output, isinstance(images, mx.np.ndarray)) if native else output.asnumpy()

    def _run_batch(self, images: Any) -> Any:
        """Return the outputs of one batch. A smaller batch is padded: a new shape would be compiled again."""
        count = len(images)
        if count < self._batch:
            rest = mx.nd.zeros((self._batch - count, *images.shape[1:]), ctx=self._context, dtype=self._dtype)
            images = mx.nd.concat(images, rest, dim=0)
        output = self._run(images)
        return (output if count == self._batch else output[:count]).astype("float32", copy=False)


def _in_int8(network: Any, task: FastTask, context: Any) -> Any:
    """Quantize convolutions and linear layers to int8, with a scale per channel, on the task's calibration images."""
    images = mx.io.NDArrayIter({"data": ndarray(task.calibration, "float32", context)}, batch_size=task.shape[0])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Cannot decide type", UserWarning)  # about the input's dtype
        return mx.contrib.quantization.quantize_net_v2(
            network,
            quantized_dtype="auto",
            quantize_granularity="channel-wise",
            calib_mode="naive",
            calib_data=images,
            ctx=context,
        )
