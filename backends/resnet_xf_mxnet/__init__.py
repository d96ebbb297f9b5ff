"""The Apache MXNet Gluon backend of resnet_xf."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from resnet_xf.backend import Backend
from resnet_xf.errors import one_line
from resnet_xf.learner import Learner, Task
from resnet_xf.nodes import Node
from resnet_xf.trace import Observed, ObservedTrace
from resnet_xf.weights import Array, Weights, check_weights
from resnet_xf.workers import Role
from resnet_xf_mxnet import builder
from resnet_xf_mxnet.arrays import named_blocks, ndarray, own_weights, weights_of
from resnet_xf_mxnet.learner import MxnetLearner, roles
from resnet_xf_mxnet.loan import mx

__all__ = ["BACKEND"]


class MxnetBackend:
    """Networks are ``mxnet.gluon.HybridBlock``; see :class:`resnet_xf.backend.Backend`."""

    name = "mxnet"

    def version(self) -> str:
        """MXNet's version."""
        return str(mx.__version__)

    def devices(self) -> list[str]:
        """``cpu``, and every GPU."""
        return ["cpu", *(f"gpu({n})" for n in range(mx.context.num_gpus()))]

    def build(self, node: Node, dtype: str = "float32") -> Any:
        """The block of a node, on the CPU, initialised as Gluon does by default."""
        network = builder.build(node)
        network.initialize(ctx=mx.cpu())
        network.cast(dtype)
        return network

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

    def trace(self, network: Any, images: Array) -> ObservedTrace:
        """What every named block showed while running."""
        blocks = dict(named_blocks(network))
        shapes: dict[str, tuple[int, ...]] = {}
        error = None
        try:
            self._watch(network, images, blocks, lambda name, y: shapes.update({name: _last(y).shape}))
        except (mx.MXNetError, ValueError) as broken:
            error = one_line(broken)
        layers = {
            name: Observed(shapes[name], {k: p.shape for k, p in own_weights(block).items()}, _settings(block))
            for name, block in blocks.items()
            if name in shapes
        }
        return ObservedTrace(layers, error)

    def capture(self, network: Any, images: Array, names: Collection[str]) -> dict[str, Array]:
        """The outputs of the named blocks."""
        outputs: Weights = {}
        chosen = {name: block for name, block in named_blocks(network) if name in names}
        self._watch(network, images, chosen, lambda name, output: outputs.update({name: output.asnumpy()}))
        return outputs

    def learner(self, task: Task) -> Learner:
        """A learner for a task."""
        return MxnetLearner(task)

    def roles(self, workers: int) -> list[Role]:
        """The processes of ``dist_sync``: a scheduler, a server, the workers."""
        return roles(workers)

    @staticmethod
    def _watch(network: Any, images: Array, blocks: Mapping[str, Any], look: Callable[[str, Any], None]) -> None:
        """Run the network block by block and show each of the blocks' outputs to ``look``."""

        def hook(name: str) -> Callable[[Any, object, Any], None]:
            return lambda block, inputs, output: look(name, output)

        handles = [(block, block.register_forward_hook(hook(name))) for name, block in blocks.items()]
        try:
            with mx.autograd.pause(train_mode=False), _imperative(network):
                network(_array(network, images))
        finally:
            for _, handle in handles:
                handle.detach()


def _last(output: Any) -> Any:
    """A backbone gives a list of maps; the last is the deepest."""
    return output[-1] if isinstance(output, list | tuple) else output


def _settings(block: Any) -> dict[str, float]:
    """A norm's eps and momentum, the latter in PyTorch's sense."""
    if not isinstance(block, mx.gluon.nn.BatchNorm):
        return {}
    return {"eps": block._kwargs["eps"], "momentum": 1 - block._kwargs["momentum"]}


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
    active = [block for _, block in named_blocks(network) if block._active]
    for block in active:
        block._active = False
    try:
        yield
    finally:
        for block in active:
            block._active = True


BACKEND: Backend = MxnetBackend()
