"""The Apache MXNet Gluon backend of resnet_xf."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np

from resnet_xf.architecture.nodes import Node
from resnet_xf.architecture.weights import Array, Weights, check_weights
from resnet_xf.architecture.windows import pool_settings, window_settings
from resnet_xf.backend.contract import Backend, Look
from resnet_xf.errors import SpecError, WeightsError, one_line
from resnet_xf_mxnet import builder
from resnet_xf_mxnet.arrays import in_kind_of, kind, named_blocks, ndarray, own_weights, set_values, weights_of
from resnet_xf_mxnet.bench import MxnetBench
from resnet_xf_mxnet.cuda import gpus
from resnet_xf_mxnet.learner import MxnetLearner, find_device, roles, why_unusable
from resnet_xf_mxnet.numpy_compat import mx
from resnet_xf_mxnet.reference import graph_of, peer, run_exported
from resnet_xf_mxnet.source import DIALECT

__all__ = ["BACKEND"]


_in_its_kind = in_kind_of(lambda self, network, *args: network)


class MxnetBackend:
    """Networks are ``mxnet.gluon.HybridBlock``; see :class:`resnet_xf.backend.contract.Backend`."""

    name = "mxnet"
    unbiased_variance = False
    bench = MxnetBench()
    dialect = DIALECT
    network_type = mx.gluon.Block
    learner = staticmethod(MxnetLearner)
    roles = staticmethod(roles)
    peer = staticmethod(peer)
    run_exported = staticmethod(run_exported)
    graph_of = staticmethod(graph_of)

    def version(self) -> str:
        return str(mx.__version__)

    def devices(self) -> list[str]:
        """Return ``cpu``, every GPU that MXNet can use, with its name, then the others, with the reason."""
        usable, unusable = ["cpu"], dict[str, list[str]]()
        for index, gpu in enumerate(gpus()):
            if problem := why_unusable(index):
                unusable.setdefault(problem, []).append(f"cuda:{index}")
            else:
                usable.append(f"cuda:{index} ({gpu.name})")
        return usable + [f"not {', '.join(names)}: {problem}" for problem, names in unusable.items()]

    def build(self, node: Node, dtype: str = "float32") -> Any:
        """Build the block of a node, on the CPU, with weights of 0."""
        with kind(numpy=False):
            network = builder.build(node)
            network.cast(dtype)
            builder.initialize(network, mx.cpu())
        return network

    @_in_its_kind
    def copy(self, network: Any, dtype: str | None = None) -> Any:
        """Return a deep copy. Weights with deferred initialization are drawn in the first run of the copy."""
        weights = weights_of(network)
        empty = [name for name, param in weights.items() if param._data is None and not param._deferred_init]
        if empty:
            raise WeightsError(f"{empty[0]} is not initialised; call the network's initialize() or load_parameters()")
        # The copy has neither the compiled graph nor the trainer. deepcopy cannot follow their C pointers.
        blocks = [block for _, block in named_blocks(network)]
        pointers = [getattr(block, "_cached_op", None) for block in blocks]
        pointers += [param._trainer for param in network._collect_params_with_prefix().values()]
        try:
            duplicate = copy.deepcopy(network, {id(pointer): None for pointer in pointers})
        except (TypeError, ValueError, mx.MXNetError) as error:
            raise SpecError(f"{type(network).__name__}: mxnet cannot copy it: {one_line(error)}") from error
        if hasattr(duplicate, "hybridize"):
            duplicate.hybridize(False)
        for param in duplicate._collect_params_with_prefix().values():
            param.reset_ctx(mx.cpu())
        for param in weights_of(duplicate).values():
            param.grad_req = "write"  # MXNet keeps "null" for running statistics
        if dtype:
            duplicate.cast(dtype)
        return duplicate

    @_in_its_kind
    def load(self, network: Any, weights: Mapping[str, Array]) -> None:
        own = weights_of(network)
        check_weights(weights, {name: param.shape for name, param in own.items()}, _dtype(network))
        for name, param in own.items():
            set_values(param, weights[name])

    def dump(self, network: Any) -> Weights:
        return {name: param.data(param.list_ctx()[0]).asnumpy() for name, param in weights_of(network).items()}

    @_in_its_kind
    def forward(self, network: Any, images: Array) -> Any:
        with mx.autograd.pause(train_mode=False):
            output = network(_array(network, images))
        return [one.asnumpy() for one in output] if isinstance(output, list) else output.asnumpy()

    def move(self, network: Any, device: str) -> Any:
        network.collect_params().reset_ctx(find_device(device))
        return network

    @_in_its_kind
    def watch(self, network: Any, images: Array, look: Look, names: Collection[str] | None = None) -> None:
        """Call ``look`` with the inputs and output of every block, from hooks. Hybridization is turned off."""
        inputs: dict[str, tuple[Array, ...]] = {}

        def before(name: str, block: Any, args: Any) -> None:
            inputs[name] = tuple(array.asnumpy() for array in _arrays(args))

        def after(name: str, block: Any, args: Any, output: Any = None) -> None:
            for array in _arrays(args if output is None else output)[-1:]:
                look(name, inputs.pop(name), array.asnumpy())

        with ExitStack() as hooks, mx.autograd.pause(train_mode=False), _imperative(network):
            for name, block in named_blocks(network):
                if names is None or name in names:
                    inner = _activation(block)  # its input is the output of the layer without activation
                    register = block.register_forward_hook if inner is None else inner.register_forward_pre_hook
                    hooks.enter_context(block.register_forward_pre_hook(partial(before, name)))
                    hooks.enter_context(register(partial(after, name)))
            network(_array(network, images))

    def settings(self, network: Any) -> dict[str, dict[str, float]]:
        """Return the settings. The momentum is PyTorch's: 1 minus MXNet's."""
        settings = {}
        for name, block in named_blocks(network):
            if isinstance(block, mx.gluon.nn.Dropout):
                settings[name] = {"rate": block._rate}
            elif isinstance(block, mx.gluon.nn.BatchNorm):
                settings[name] = {"eps": block._kwargs["eps"], "momentum": 1 - block._kwargs["momentum"]}
            elif isinstance(block, mx.gluon.nn.Conv2D):
                of = block._kwargs
                settings[name] = window_settings(
                    of["kernel"], of["stride"], of["pad"], of["dilate"], groups=of["num_group"]
                )
            elif isinstance(block, mx.gluon.nn.MaxPool2D | mx.gluon.nn.AvgPool2D):
                of = block._kwargs
                settings[name] = pool_settings(
                    of["kernel"],
                    of["stride"],
                    of["pad"],
                    ceil=of["pooling_convention"] == "full",
                    counts_padding=None if of["pool_type"] == "max" else of.get("count_include_pad", True),
                )
        return settings

    @_in_its_kind
    def apply(self, network: Any, name: str, inputs: Sequence[Array]) -> Array:
        block = _inner(network, name)
        with mx.autograd.pause(train_mode=False), _imperative(block), _without_activation(block):
            output: Array = block(*(_array(network, x) for x in inputs)).asnumpy()
        return output

    @_in_its_kind
    def differentiate(self, network: Any, name: str, inputs: Sequence[Array], cotangent: Array) -> Weights:
        block = _inner(network, name)
        arrays = [_array(network, x) for x in inputs]
        for x in arrays:
            x.attach_grad()
        with mx.autograd.record(), _imperative(block), _without_activation(block):
            output = block(*arrays)
        output.backward(_array(network, cotangent))
        params = {key: param for key, param in weights_of(block).items() if param.grad_req != "null"}
        gradients = {f"input{n}": x.grad.asnumpy() for n, x in enumerate(arrays)}
        return gradients | {key: param.grad().asnumpy() for key, param in params.items()}


def _inner(network: Any, name: str) -> Any:
    """Return the block of a dotted name."""
    return next(block for own, block in named_blocks(network) if own == name)


def _activation(block: Any) -> Any:
    """Return the activation inside a layer such as ``Conv2D(8, 3, activation="relu")``, or None."""
    return getattr(block, "act", None) if own_weights(block) else None


@contextmanager
def _changed(blocks: list[Any], attribute: str, value: object) -> Iterator[None]:
    """Set an attribute of blocks, and restore it afterwards. Gluon's own ``__setattr__`` refuses None for a block."""
    before = [vars(block)[attribute] for block in blocks]
    for block in blocks:
        vars(block)[attribute] = value
    try:
        yield
    finally:
        for block, old in zip(blocks, before, strict=True):
            vars(block)[attribute] = old


def _imperative(network: Any) -> AbstractContextManager[None]:
    """Run a hybridized network block by block, so that hooks on inner blocks fire."""
    return _changed([block for _, block in named_blocks(network) if getattr(block, "_active", False)], "_active", False)


def _without_activation(block: Any) -> AbstractContextManager[None]:
    """Run a layer without the activation inside it: the ladder checks activations as separate layers."""
    return _changed([block] if _activation(block) is not None else [], "act", None)


def _arrays(value: Any) -> list[Any]:
    """Return the arrays in a block's inputs or output. A backbone's last array is its deepest feature map."""
    if isinstance(value, list | tuple):
        return [array for item in value for array in _arrays(item)]
    return [value] if isinstance(value, mx.nd.NDArray) else []


def _dtype(network: Any) -> np.dtype[Any]:
    """Return the network's dtype; float32 if it has no weights."""
    return next((np.dtype(param.dtype) for param in _params(network)), np.dtype("float32"))


def _params(network: Any) -> Iterator[Any]:
    """Yield the network's parameters in order. To ask for the first one does not collect them all."""
    return (param for _, block in named_blocks(network) for param in own_weights(block).values())


def _array(network: Any, images: Array) -> Any:
    """Return images on the network's device, in its dtype."""
    context = next((param.list_ctx()[0] for param in _params(network)), mx.cpu())
    return ndarray(images, _dtype(network), context)


BACKEND: Backend = MxnetBackend()
