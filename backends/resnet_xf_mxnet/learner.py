"""Training with MXNet Gluon: autograd, PyTorch's momentum, sums of gradients in a parameter server."""

from __future__ import annotations

import atexit
import importlib
import itertools
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.backend.fast import COMPILED
from resnet_xf.backend.learner import Outcome, Task, device_number
from resnet_xf.backend.workers import Role, free_port, threads_each
from resnet_xf.data.pixels import Pixels
from resnet_xf.errors import BackendError, TrainingError, TrainingStopped, one_line
from resnet_xf.support.parent import report_failure
from resnet_xf_mxnet import builder
from resnet_xf_mxnet.arrays import in_kind_of, named_blocks, ndarray, on_device, set_values, weights_of
from resnet_xf_mxnet.cuda import gpus, how_to_install, no_code_for
from resnet_xf_mxnet.numpy_compat import mx
from resnet_xf_mxnet.scaling import LossScaling

nd = mx.nd

VARIABLES = ("DMLC_ROLE", "DMLC_PS_ROOT_PORT", "DMLC_NUM_SERVER", "DMLC_NUM_WORKER")

EXACT_SUMS = "glibc.malloc.tcache_count=0:glibc.malloc.perturb=255"
"""Makes the server's C library fill new memory with zeros. Then the server adds float64 in float64, see ``_join``."""

STATIC = {"static_alloc": True, "static_shape": True}
"""Options of ``hybridize`` if all batches have the same size."""


_in_own_kind = in_kind_of(lambda self, *args: self._task.network)


class MxnetLearner:
    """See :class:`resnet_xf.backend.learner.Learner`."""

    @in_kind_of(lambda self, task: task.network)
    def __init__(self, task: Task) -> None:
        self._context = find_device(task.device)
        self.device = device_name(self._context)
        low = "bfloat16" if self.device == "cpu" else "float16"  # each device has convolutions in one of them
        allowed = ("float32", "float64", low)
        if task.precision not in allowed:
            raise BackendError(
                f"mxnet does not train in {task.precision} on {self.device}; choose one of {', '.join(allowed)}"
            )
        self._dtype = "float64" if task.precision == "float64" else "float32"
        self._task = task
        native = isinstance(task.network, mx.gluon.Block)
        self._network: Any = task.network if native else builder.build(task.network)
        self._network.cast(self._dtype)
        if native:
            for param in self._network._collect_params_with_prefix().values():
                param.reset_ctx(self._context)
        else:
            builder.initialize(self._network, self._context)
        plain_mean = self.device == "cpu" and task.preset in COMPILED and not native
        for _, block in named_blocks(self._network):
            if plain_mean and isinstance(block, mx.gluon.nn.GlobalAvgPool2D):
                block.hybrid_forward = _global_mean
            if task.freeze_statistics and isinstance(block, mx.gluon.nn.BatchNorm):
                block._kwargs["use_global_stats"] = True
        self._weights = weights_of(self._network)
        if task.precision == low:
            self._network = in_low(self._network, low)
        self._scaling = LossScaling(enabled=low == task.precision == "float16")
        steps = {
            "hybridized with static memory": task.preset != "eager",
            "means in place of global pools": plain_mean,
            task.precision: task.precision != "float32",
        }
        self.steps = tuple(name for name, is_done in steps.items() if is_done)
        if task.preset != "eager":
            self._network.hybridize(**STATIC)
        self._params = {name: param for name, param in self._weights.items() if param.grad_req != "null"}
        self._velocity: dict[str, Any] = {}
        self._together = task.together and "DMLC_PS_ROOT_URI" in os.environ
        if task.together and not self._together and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise BackendError("torchrun starts torch's workers; mxnet's are started by --workers or DMLC_ variables")
        self._keys: dict[str | int, int] = {}
        self.rank, self.workers = 0, 1
        if self._together:
            self._join()

    def _join(self) -> None:
        """Connect to the parameter server that the ``DMLC_`` variables describe, and wait for the other workers."""
        global _store
        if missing := [name for name in VARIABLES if name not in os.environ]:
            raise BackendError(f"DMLC_PS_ROOT_URI is set, so mxnet's workers need {', '.join(missing)} as well")
        with self._errors_in_one_line():
            if _store is None:
                _store = mx.kv.create("dist_sync")
                atexit.register(_release_store)  # before MXNet's own exit handler, which needs the store to be released
            self.rank, self.workers = _store.rank, _store.num_workers
            for name, param in self._params.items():
                self._keys[name] = _new_key(nd.zeros(param.shape, dtype=self._dtype))
        # The server of 1.9.1 adds float64 as float32 if a byte that it never initializes is not 0.
        if self._dtype == "float64" and self.total(np.array([1 + 1e-12]))[0] == self.workers:
            raise BackendError(f"mxnet's parameter server adds in float32; start it with GLIBC_TUNABLES={EXACT_SUMS}")

    @contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        """Turn MXNet's errors into MemoryError or TrainingError. End the process if other workers do not answer."""
        timer = threading.Timer(self._task.timeout, _give_up, (self._task.timeout,))
        timer.daemon = True
        if self._together:
            timer.start()
        try:
            yield
        except mx.MXNetError as error:
            raise TrainingError(f"mxnet failed on {self.device}: {line_of(error, 'batch_size')}") from error
        finally:
            timer.cancel()

    @_in_own_kind
    def put(self, images: Any) -> Any:
        if isinstance(images, nd.NDArray):
            return images
        if isinstance(images, Pixels) and self.device != "cpu":
            return on_device(images, self._context).astype(self._dtype, copy=False)
        return ndarray(np.asarray(images), self._dtype, self._context)

    @_in_own_kind
    def step(self, images: Any, targets: Array, rate: float) -> Outcome:
        with self._errors_in_one_line():
            x = self.put(images)
            if self._task.opens_with_norm:  # without this, MXNet does not update the statistics of the first batch norm
                x.attach_grad()
            with mx.autograd.record():
                outputs = self._network(x).as_nd_ndarray()
                expected = ndarray(targets, self._dtype, self._context).as_nd_ndarray()
                loss = -(nd.log_softmax(outputs) * expected).sum()
                scaled = loss * self._scaling.scale if self._scaling.enabled else loss
            scaled.backward()
            if self._together:
                for name, param in self._params.items():
                    _store.pushpull(self._keys[name], param.grad(), out=param.grad())
            scale = self._scaling.scale
            if self._scaling.allows([param.grad() for param in self._params.values()]):
                for name, param in self._params.items():
                    gradient = param.grad() / scale if self._scaling.enabled else param.grad()
                    self._update(name, param.data(), gradient, rate)
        return lambda: self._outcome(loss, outputs)

    def _outcome(self, loss: Any, outputs: Any) -> tuple[float, Array]:
        with self._errors_in_one_line():
            return float(loss.asscalar()), outputs.asnumpy()

    def _update(self, name: str, weight: Any, gradient: Any, rate: float) -> None:
        """Update one weight. MXNet's ``sgd`` stores rate · v, and its ``nag`` applies weight decay differently."""
        task = self._task
        if task.weight_decay and name in task.decaying:
            gradient = gradient + weight * task.weight_decay
        if task.momentum:
            if name not in self._velocity:
                self._velocity[name] = ndarray(np.zeros(weight.shape), self._dtype, self._context)
            velocity = self._velocity[name]
            velocity *= task.momentum
            velocity += gradient
            gradient = gradient + velocity * task.momentum if task.nesterov else velocity
        weight -= gradient * rate

    @_in_own_kind
    def outputs(self, images: Array | Pixels) -> Array:
        with self._errors_in_one_line(), mx.autograd.pause(train_mode=False):
            outputs: Array = self._network(self.put(images)).asnumpy()
        return outputs

    def dump(self) -> tuple[Weights, Weights]:
        with self._errors_in_one_line():
            weights = {name: param.data().asnumpy() for name, param in self._weights.items()}
            return weights, {name: velocity.asnumpy() for name, velocity in self._velocity.items()}

    @_in_own_kind
    def load(self, weights: Mapping[str, Array], velocity: Mapping[str, Array]) -> None:
        for name, array in weights.items():
            set_values(self._weights[name], array)
        for name, array in velocity.items():
            self._velocity[name] = ndarray(array, self._dtype, self._context)

    def loss_scaling(self) -> dict[str, int | float]:
        """Return the state of float16's loss scaling, in PyTorch's format."""
        return self._scaling.state()

    def load_loss_scaling(self, state: Mapping[str, int | float]) -> None:
        self._scaling.load(state)

    def total(self, values: Array) -> Array:
        if not self._together:
            return values
        with self._errors_in_one_line():
            array = ndarray(values, "float64", mx.cpu())
            if len(values) not in self._keys:
                self._keys[len(values)] = _new_key(nd.zeros_like(array))
            _store.pushpull(self._keys[len(values)], array, out=array)
            summed: Array = array.asnumpy()
        return summed

    def close(self, failure: BaseException | None = None) -> None:
        """Do nothing: MXNet leaves the other workers at exit. After a failure, do not wait for them then."""
        if self._together and failure is not None:
            atexit.register(_exit_now, 128 + failure.signal if isinstance(failure, TrainingStopped) else 2)


_store: Any = None
_keys = itertools.count()


def _new_key(zeros: Any) -> int:
    """Return a new key of the parameter server. All workers create the keys in the same order."""
    key = next(_keys)
    _store.init(key, zeros)
    return key


def roles(workers: int) -> list[Role]:
    """Return a scheduler, a parameter server and the workers, all on this machine."""
    rendezvous = {
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(free_port()),
        "DMLC_NODE_HOST": "127.0.0.1",
        "DMLC_NUM_SERVER": "1",
        "DMLC_NUM_WORKER": str(workers),
        "OMP_NUM_THREADS": threads_each(workers),
    }
    serving = [
        Role("scheduler", rendezvous | {"DMLC_ROLE": "scheduler"}, trains=False),
        Role("server", rendezvous | {"DMLC_ROLE": "server", "GLIBC_TUNABLES": EXACT_SUMS}, trains=False),
    ]
    return serving + [
        Role(f"worker {rank}", rendezvous | {"DMLC_ROLE": "worker", "LOCAL_RANK": str(rank)}) for rank in range(workers)
    ]


def _release_store() -> None:
    """Release the store. This waits for the other workers."""
    global _store
    _store = None


def _exit_now(code: int) -> None:
    """End this process at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _give_up(seconds: float) -> None:
    """End this process, whose main thread waits inside MXNet."""
    report_failure(f"no answer from the other workers for {seconds:g} s; has one died? Resume the run")
    _exit_now(2)


def _global_mean(F: Any, x: Any) -> Any:  # noqa: N803 - Gluon's own name
    """Return the output of a global average pool, with a gradient in the plain layout.

    oneDNN's has another layout, which the shortcuts carry through a stage, and in which batch norms are slow.
    """
    return F.mean(x, axis=(2, 3), keepdims=True)


def in_low(network: Any, precision: str) -> Any:
    """Return a block for mixed precision: MXNet's lists choose the operators, and parameters stay in float32.

    ``amp.init`` is not used, because it changes MXNet's operators for all networks of the process.
    """
    amp = importlib.import_module("mxnet.contrib.amp")
    data = mx.sym.var("data", dtype="float32")
    low = amp.convert_symbol(network(data), target_dtype=precision, data_names=["data"])
    return mx.gluon.SymbolBlock(low, data, params=network.collect_params())


def find_device(name: str) -> Any:
    """Return the context of a device's name. ``auto`` is the CPU if MXNet can use no GPU.

    Raises:
        BackendError: if there is no such device, or it is a GPU that MXNet cannot use.
    """
    index = device_number(name, 0 if name == "cpu" else len(gpus()), "mxnet")
    problem = None if index is None else why_unusable(index)
    if problem and name != "auto":
        raise BackendError(problem)
    return mx.cpu() if index is None or problem else mx.gpu(index)


def device_name(context: Any) -> str:
    """Return ``cpu``, or a GPU's name such as ``cuda:1``."""
    return "cpu" if context.device_type == "cpu" else f"cuda:{context.device_id}"


def line_of(error: Exception, batch: str) -> str:
    """Return an error of MXNet in one line. Raises MemoryError if memory ran out: ``batch`` is what to reduce."""
    text = one_line(error)
    if "memory" in text or "bad_alloc" in text:
        raise MemoryError(f"{text}; choose a smaller {batch}") from error
    return text


def why_unusable(index: int) -> str | None:
    """Return why this MXNet cannot use one of the driver's GPUs and what to choose instead, or None if it can."""
    gpu = gpus()[index]
    if problem := no_code_for(gpu):
        return problem
    if not mx.runtime.Features().is_enabled("CUDA"):
        return f"this is MXNet's CPU build; choose --device cpu, or run: {how_to_install('mxnet-cu117')}"
    if index >= mx.context.num_gpus():
        return f"CUDA 11 does not see this GPU ({gpu.name}); choose --device cpu, or an NVIDIA driver from 450.80 on"
    return None
