"""The Apache MXNet Gluon backend of resnet_xf."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from resnet_xf.architecture.nodes import Node
from resnet_xf.architecture.weights import Array, Weights, check_weights
from resnet_xf.backend.contract import Backend, Look
from resnet_xf.backend.learner import Learner, Task
from resnet_xf.backend.workers import Role
from resnet_xf.errors import SpecError, WeightsError, one_line
from resnet_xf_mxnet import builder
from resnet_xf_mxnet.arrays import named_blocks, ndarray, own_weights, weights_of
from resnet_xf_mxnet.bench import MxnetBench
from resnet_xf_mxnet.cuda import gpus
from resnet_xf_mxnet.learner import MxnetLearner, find_device, roles, why_not
from resnet_xf_mxnet.numpy_compat import mx
from resnet_xf_mxnet.reference import peer, run_exported

__all__ = ["BACKEND"]


class MxnetBackend:
    """Networks are ``mxnet.gluon.HybridBlock``; see :class:`resnet_xf.backend.contract.Backend`."""

    name = "mxnet"
    unbiased_variance = False
    bench = MxnetBench()
    network_type = mx.gluon.Block
    peer = staticmethod(peer)
    run_exported = staticmethod(run_exported)

    def version(self) -> str:
        """MXNet's version."""
        return str(mx.__version__)

    def devices(self) -> list[str]:
        """``cpu``, and every GPU with its name; then, by the reason, those that MXNet cannot use."""
        usable, refused = ["cpu"], dict[str, list[str]]()
        for index, gpu in enumerate(gpus()):
            if problem := why_not(index):
                refused.setdefault(problem, []).append(f"cuda:{index}")
            else:
                usable.append(f"cuda:{index} ({gpu.name})")
        return usable + [f"not {', '.join(names)}: {problem}" for problem, names in refused.items()]

    def build(self, node: Node, dtype: str = "float32") -> Any:
        """The block of a node, on the CPU, initialised as Gluon does by default."""
        network = builder.build(node)
        network.initialize(ctx=mx.cpu())
        network.cast(dtype)
        return network

    def copy(self, network: Any, dtype: str | None = None) -> Any:
        """A deep copy, of which weights that wait for their shape are drawn by its first run."""
        weights = weights_of(network)
        empty = [name for name, param in weights.items() if param._data is None and not param._deferred_init]
        if empty:
            raise WeightsError(f"{empty[0]} is not initialised; call the network's initialize() or load_parameters()")
        # What MXNet compiled and a trainer's state are behind pointers, and the copy is to have neither.
        blocks = [block for _, block in named_blocks(network)]
        pointers = [getattr(block, "_cached_op", None) for block in blocks]
        pointers += [param._trainer for param in weights.values()]
        try:
            copied = copy.deepcopy(network, {id(pointer): None for pointer in pointers})
        except (TypeError, ValueError, mx.MXNetError) as error:
            raise SpecError(f"{type(network).__name__}: mxnet cannot copy it: {one_line(error)}") from error
        if hasattr(copied, "hybridize"):
            copied.hybridize(False)
        for param in copied._collect_params_with_prefix().values():
            param.reset_ctx(mx.cpu())
            param.grad_req = "write"  # what cannot learn keeps its null
        if dtype:
            copied.cast(dtype)
        return copied

    def load(self, network: Any, weights: Mapping[str, Array]) -> None:
        """Set weights by name; raises WeightsError unless they fit exactly."""
        own = weights_of(network)
        check_weights(weights, {name: param.shape for name, param in own.items()}, _dtype(network))
        for name, param in own.items():
            param.set_data(ndarray(weights[name], param.dtype, mx.cpu()))

    def dump(self, network: Any) -> Weights:
        """A copy of the weights by name."""
        return {name: param.data(param.list_ctx()[0]).asnumpy() for name, param in weights_of(network).items()}

    def forward(self, network: Any, images: Array) -> Array:
        """The output for images ``(N, C, H, W)``, in inference mode and the network's dtype."""
        with mx.autograd.pause(train_mode=False):
            output: Array = network(_array(network, images)).asnumpy()
        return output

    def move(self, network: Any, device: str) -> Any:
        """The block on a device."""
        network.collect_params().reset_ctx(find_device(device))
        return network

    def watch(self, network: Any, images: Array, look: Look, names: Collection[str] | None = None) -> None:
        """Show the inputs and outputs of blocks, by hooks; a hybridized network runs block by block."""
        inputs: dict[str, tuple[Array, ...]] = {}

        def before(name: str) -> Callable[[Any, Any], None]:
            return lambda block, given: inputs.update({name: tuple(x.asnumpy() for x in _arrays(given))})

        def after(name: str) -> Callable[..., None]:
            def show(block: Any, given: Any, output: Any = None) -> None:
                for array in _arrays(given if output is None else output)[-1:]:
                    look(name, inputs.pop(name), array.asnumpy())

            return show

        handles = []
        for name, block in named_blocks(network):
            if names is None or name in names:
                inner = _activation(block)  # its input is what the layer itself computes
                register = block.register_forward_hook if inner is None else inner.register_forward_pre_hook
                handles += [block.register_forward_pre_hook(before(name)), register(after(name))]
        try:
            with mx.autograd.pause(train_mode=False), _imperative(network):
                network(_array(network, images))
        finally:
            for handle in handles:
                handle.detach()

    def settings(self, network: Any) -> dict[str, dict[str, float]]:
        """``eps`` and ``momentum`` of batch norms, in PyTorch's sense; ``rate`` of dropouts."""
        settings = {}
        for name, block in named_blocks(network):
            if isinstance(block, mx.gluon.nn.Dropout):
                settings[name] = {"rate": block._rate}
            elif isinstance(block, mx.gluon.nn.BatchNorm):
                settings[name] = {"eps": block._kwargs["eps"], "momentum": 1 - block._kwargs["momentum"]}
        return settings

    def apply(self, network: Any, name: str, inputs: Sequence[Array]) -> Array:
        """One block's output for inputs of its own."""
        block = dict(named_blocks(network))[name]
        with mx.autograd.pause(train_mode=False), _imperative(network), _bare(block):
            output: Array = block(*(_array(network, x) for x in inputs)).asnumpy()
        return output

    def differentiate(self, network: Any, name: str, inputs: Sequence[Array], cotangent: Array) -> Weights:
        """One block's gradients in training mode."""
        block = dict(named_blocks(network))[name]
        given = [_array(network, x) for x in inputs]
        for x in given:
            x.attach_grad()
        with mx.autograd.record(), _imperative(network), _bare(block):
            output = block(*given)
        output.backward(_array(network, cotangent))
        params = {key: param for key, param in weights_of(block).items() if param.grad_req != "null"}
        gradients = {f"input{n}": x.grad.asnumpy() for n, x in enumerate(given)}
        return gradients | {key: param.grad().asnumpy() for key, param in params.items()}

    def learner(self, task: Task) -> Learner:
        """A learner for a task."""
        return MxnetLearner(task)

    def roles(self, workers: int) -> list[Role]:
        """The processes of ``dist_sync``: a scheduler, a server, the workers."""
        return roles(workers)


def _activation(block: Any) -> Any:
    """The activation that a layer with weights has inside it, if any: ``Conv2D(8, 3, activation="relu")``."""
    return getattr(block, "act", None) if own_weights(block) else None


@contextmanager
def _bare(block: Any) -> Iterator[None]:
    """A layer without the activation inside it, which is a layer of its own to everybody else."""
    inner = _activation(block)
    if inner is not None:
        block.__dict__["act"] = None  # Gluon refuses to set it
    try:
        yield
    finally:
        if inner is not None:
            block.__dict__["act"] = inner


def _arrays(passed: Any) -> list[Any]:
    """The arrays in what a block is given or gives; of a backbone's list of maps, the last is the deepest."""
    if isinstance(passed, list | tuple):
        return [array for one in passed for array in _arrays(one)]
    return [passed] if isinstance(passed, mx.nd.NDArray) else []


def _dtype(network: Any) -> np.dtype[Any]:
    """The network's dtype; one without weights computes in float32."""
    return next((np.dtype(param.dtype) for param in weights_of(network).values()), np.dtype("float32"))


def _array(network: Any, images: Array) -> Any:
    """Images on the network's device, in its dtype."""
    context = next((param.list_ctx()[0] for param in weights_of(network).values()), mx.cpu())
    return ndarray(images, _dtype(network), context)


@contextmanager
def _imperative(network: Any) -> Iterator[None]:
    """Run a hybridized network block by block, so that hooks on inner blocks fire."""
    active = [block for _, block in named_blocks(network) if getattr(block, "_active", False)]
    for block in active:
        block._active = False
    try:
        yield
    finally:
        for block in active:
            block._active = True


BACKEND: Backend = MxnetBackend()
