"""One training step of MXNet Gluon: autograd, PyTorch's law of momentum, and the parameter server's sums."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from resnet_xf.errors import BackendError, TrainingStopped
from resnet_xf.learner import Outcome, Task
from resnet_xf.nodes import Norm, children, walk
from resnet_xf.weights import Array, Weights
from resnet_xf.workers import Role, free_port, threads_each
from resnet_xf_mxnet import builder
from resnet_xf_mxnet.arrays import named_blocks, ndarray, weights_of
from resnet_xf_mxnet.loan import mx

nd = mx.nd

EXACT_SUMS = "glibc.malloc.tcache_count=0:glibc.malloc.perturb=255"
"""What makes the C library of a server's process fill new memory with zeros, so that it adds float64 as such."""


class MxnetLearner:
    """See :class:`resnet_xf.learner.Learner`."""

    def __init__(self, task: Task) -> None:
        self._context = find_device(task.device)
        self.device = "cpu" if self._context.device_type == "cpu" else f"cuda:{self._context.device_id}"
        allowed = ("float32", "float64", "bfloat16") if self.device == "cpu" else ("float32", "float64")
        if task.precision not in allowed:
            raise BackendError(
                f"mxnet does not train in {task.precision} on {self.device}; choose one of {', '.join(allowed)}"
            )
        self._dtype = "float64" if task.precision == "float64" else "float32"
        self._task = task
        self._network = builder.build(task.network)
        self._network.initialize(ctx=self._context)
        self._network.cast(self._dtype)
        for _, block in named_blocks(self._network):
            if task.freeze_statistics and isinstance(block, mx.gluon.nn.BatchNorm):
                block._kwargs["use_global_stats"] = True
        self._weights = weights_of(self._network)
        if task.precision == "bfloat16":
            self._network = in_bfloat16(self._network)
        self._network.hybridize(static_alloc=True, static_shape=True)
        self._params = {name: param for name, param in self._weights.items() if param.grad_req != "null"}
        self._velocity: dict[str, Any] = {}
        self._opens_with_norm = isinstance(next(node for _, node in walk(task.network) if not children(node)), Norm)
        self._store: Any = None
        self._keys: dict[int, int] = {}
        self._timeout = task.timeout
        self.rank, self.workers = 0, 1
        if "DMLC_PS_ROOT_URI" in os.environ:
            self._join()

    def _join(self) -> None:
        """Meet the other workers at the parameter server where the ``DMLC_`` variables say.

        Raises:
            BackendError: if the run is in float64 and the server would add in float32.
        """
        with self._patience():
            self._store = mx.kv.create("dist_sync")
            self.rank, self.workers = self._store.rank, self._store.num_workers
            for key, param in enumerate(self._params.values()):
                self._store.init(key, nd.zeros(param.shape, dtype=self._dtype))
        # The server of 1.9.1 adds float64 numbers as float32 ones if a byte that it never sets is not 0.
        if self._dtype == "float64" and self.total(np.array([1 + 1e-12]))[0] == self.workers:
            raise BackendError(f"mxnet's parameter server adds in float32; start it with GLIBC_TUNABLES={EXACT_SUMS}")

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """MXNet waits for ever for a worker or server that has died, so the process is ended after a while."""
        if "DMLC_PS_ROOT_URI" not in os.environ:
            yield
            return
        timer = threading.Timer(self._timeout, _give_up, (self._timeout,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def step(self, images: Array, targets: Array, rate: float) -> Outcome:
        """One step of SGD."""
        x = ndarray(images, self._dtype, self._context)
        if self._opens_with_norm:  # a norm before which nothing needs a gradient would not move its statistics
            x.attach_grad()
        with mx.autograd.record():
            outputs = self._network(x)
            loss = -(nd.log_softmax(outputs) * ndarray(targets, self._dtype, self._context)).sum()
        loss.backward()
        if self._store is not None:
            for key, param in enumerate(self._params.values()):
                self._store.pushpull(key, param.grad(), out=param.grad())
        for name, param in self._params.items():
            self._update(name, param.data(), param.grad(), rate)
        return lambda: self._outcome(loss, outputs)

    def _outcome(self, loss: Any, outputs: Any) -> tuple[float, Array]:
        with self._patience():
            return float(loss.asscalar()), outputs.asnumpy()

    def _update(self, name: str, weight: Any, gradient: Any, rate: float) -> None:
        """One array's step. MXNet's own ``sgd`` keeps rate · v, and its ``nag`` has another law where weights decay."""
        task = self._task
        if task.weight_decay and name in task.decaying:
            gradient = gradient + weight * task.weight_decay
        if task.momentum:
            velocity = self._velocity.setdefault(name, nd.zeros_like(weight))
            velocity *= task.momentum
            velocity += gradient
            gradient = gradient + velocity * task.momentum if task.nesterov else velocity
        weight -= gradient * rate

    def outputs(self, images: Array) -> Array:
        """The network's outputs in inference mode."""
        with mx.autograd.pause(train_mode=False):
            outputs: Array = self._network(ndarray(images, self._dtype, self._context)).asnumpy()
        return outputs

    def dump(self) -> tuple[Weights, Weights]:
        """Copies of weights and of v."""
        with self._patience():
            weights = {name: param.data().asnumpy() for name, param in self._weights.items()}
            return weights, {name: velocity.asnumpy() for name, velocity in self._velocity.items()}

    def load(self, weights: Mapping[str, Array], velocity: Mapping[str, Array]) -> None:
        """Put weights and v in."""
        for name, array in weights.items():
            self._weights[name].set_data(ndarray(array, self._dtype, self._context))
        for name, array in velocity.items():
            self._velocity[name] = ndarray(array, self._dtype, self._context)

    def loss_scaling(self) -> dict[str, int | float]:
        """Nothing: float16 is refused."""
        return {}

    def load_loss_scaling(self, state: Mapping[str, int | float]) -> None:
        """Nothing to go on with."""

    def total(self, numbers: Array) -> Array:
        """The sum over all workers."""
        if self._store is None:
            return numbers
        with self._patience():
            array = ndarray(numbers, "float64", mx.cpu())
            if len(numbers) not in self._keys:
                self._keys[len(numbers)] = len(self._params) + len(self._keys)
                self._store.init(self._keys[len(numbers)], nd.zeros_like(array))
            self._store.pushpull(self._keys[len(numbers)], array, out=array)
            summed: Array = array.asnumpy()
        return summed

    def close(self) -> None:
        """Part from the others; after an error without waiting for them, as MXNet does at a process's end."""
        error = sys.exc_info()[1]
        if self._store is not None and error is not None:
            code = 128 + error.signal if isinstance(error, TrainingStopped) else 2
            atexit.register(_leave, code, self._store)


def roles(workers: int) -> list[Role]:
    """A scheduler, a server and the workers, which meet on this machine."""
    meeting = {
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(free_port()),
        "DMLC_NODE_HOST": "127.0.0.1",
        "DMLC_NUM_SERVER": "1",
        "DMLC_NUM_WORKER": str(workers),
        "OMP_NUM_THREADS": threads_each(workers),
    }
    serving = [
        Role("scheduler", meeting | {"DMLC_ROLE": "scheduler"}, trains=False),
        Role("server", meeting | {"DMLC_ROLE": "server", "GLIBC_TUNABLES": EXACT_SUMS}, trains=False),
    ]
    return serving + [
        Role(f"worker {number}", meeting | {"DMLC_ROLE": "worker", "LOCAL_RANK": str(number)})
        for number in range(workers)
    ]


def _leave(code: int, store: Any) -> None:
    """End this process at once. It keeps the store until then, since letting go of it waits as well."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _give_up(seconds: float) -> None:
    """End this process, whose main thread waits inside MXNet."""
    print(  # noqa: T201
        f"resnet-xf: no answer from the other workers for {seconds:g} s; has one died? Resume the run", file=sys.stderr
    )
    sys.stderr.flush()
    os._exit(2)


def in_bfloat16(network: Any) -> Any:
    """A block that computes in bfloat16 where MXNet's lists say so, with the network's own float32 parameters.

    ``amp.init`` would change MXNet's operators for the whole process, and other people's networks with them.
    """
    amp = importlib.import_module("mxnet.contrib.amp")
    data = mx.sym.var("data", dtype="float32")
    low = amp.convert_symbol(network(data), target_dtype="bfloat16", data_names=["data"])
    return mx.gluon.SymbolBlock(low, data, params=network.collect_params())


def find_device(name: str) -> Any:
    """The context of a device of that name; ``auto`` is a GPU where MXNet has one, of several this process's own.

    Raises:
        BackendError: if there is none.
    """
    count = mx.context.num_gpus()
    if name == "cpu" or (name == "auto" and not count):
        return mx.cpu()
    kind, _, number = name.partition(":")
    if not (name == "auto" or kind == "cuda") or (number and not number.isdecimal()):
        raise BackendError(f"no device is called {name!r}; choose auto, cpu, cuda or cuda:1")
    index = int(number or os.environ.get("LOCAL_RANK", "0"))
    if index >= count:
        raise BackendError(f"mxnet sees {count} GPUs on this machine, so there is no cuda:{index}; choose cpu")
    return mx.gpu(index)
