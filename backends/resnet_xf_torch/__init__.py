"""The PyTorch backend of resnet_xf."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from math import nan

import numpy as np
import torch
from torch import nn

from resnet_xf.backend import Backend
from resnet_xf.errors import one_line
from resnet_xf.learner import Learner, Task
from resnet_xf.nodes import Node
from resnet_xf.trace import Observed, ObservedTrace
from resnet_xf.weights import Array, Weights, check_weights, plain
from resnet_xf.workers import Role
from resnet_xf_torch import builder
from resnet_xf_torch.arrays import weights_of
from resnet_xf_torch.learner import TorchLearner, roles

__all__ = ["BACKEND"]


class TorchBackend:
    """Networks are ``torch.nn.Module``; see :class:`resnet_xf.backend.Backend`."""

    name = "torch"

    def version(self) -> str:
        """PyTorch's version."""
        return str(torch.__version__)

    def devices(self) -> list[str]:
        """``cpu``, and every CUDA device with its name."""
        names = [f"cuda:{n} ({torch.cuda.get_device_name(n)})" for n in range(torch.cuda.device_count())]
        return ["cpu", *names]

    def build(self, node: Node, dtype: str = "float32") -> nn.Module:
        """The module of a node, on the CPU, in training mode as PyTorch's own are."""
        return builder.build(node).to(getattr(torch, dtype))

    def load(self, network: nn.Module, weights: Mapping[str, Array]) -> None:
        """Copy weights in by name; raises WeightsError unless they fit exactly."""
        own = weights_of(network)
        dtype = np.dtype(str(_reference(network).dtype).removeprefix("torch."))
        check_weights(weights, {name: tuple(tensor.shape) for name, tensor in own.items()}, dtype)
        for name, tensor in own.items():
            tensor.copy_(torch.tensor(plain(weights[name])))

    def dump(self, network: nn.Module) -> Weights:
        """A copy of the weights by name."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in weights_of(network).items()}

    def forward(self, network: nn.Module, images: Array) -> Array:
        """The output for images ``(N, C, H, W)``, in inference mode and the network's dtype."""
        with _inference(network):
            output: Array = network(_tensor(network, images)).cpu().numpy()
        return output

    def trace(self, network: nn.Module, images: Array) -> ObservedTrace:
        """What every named module showed while running."""
        modules = dict(network.named_modules())
        shapes: dict[str, tuple[int, ...]] = {}
        error = None
        try:
            self._watch(network, images, modules, lambda name, y: shapes.update({name: tuple(_last(y).shape)}))
        except (RuntimeError, ValueError) as broken:
            error = one_line(broken)
        layers = {
            name: Observed(
                shapes[name],
                {k: tuple(t.shape) for k, t in weights_of(module, recurse=False).items()},
                _settings(module),
            )
            for name, module in modules.items()
            if name in shapes
        }
        return ObservedTrace(layers, error)

    def capture(self, network: nn.Module, images: Array, names: Collection[str]) -> dict[str, Array]:
        """The outputs of the named modules."""
        outputs: Weights = {}
        chosen = {name: module for name, module in network.named_modules() if name in names}
        # A copy, since the next layer may work in place.
        self._watch(network, images, chosen, lambda name, y: outputs.update({name: y.cpu().numpy().copy()}))
        return outputs

    def learner(self, task: Task) -> Learner:
        """A learner for a task."""
        return TorchLearner(task)

    def roles(self, workers: int) -> list[Role]:
        """The processes of DistributedDataParallel, as ``torchrun`` would start them."""
        return roles(workers)

    @staticmethod
    def _watch(
        network: nn.Module,
        images: Array,
        modules: Mapping[str, nn.Module],
        look: Callable[[str, torch.Tensor], None],
    ) -> None:
        """Run the network and show each of the modules' outputs to ``look``."""

        def hook(name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
            return lambda module, inputs, output: look(name, output)

        handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
        try:
            with _inference(network):
                network(_tensor(network, images))
        finally:
            for handle in handles:
                handle.remove()


def _last(output: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
    """A backbone gives a list of maps; the last is the deepest."""
    return output[-1] if isinstance(output, list) else output


def _settings(module: nn.Module) -> dict[str, float]:
    """A norm's eps and momentum."""
    if not isinstance(module, nn.BatchNorm2d):
        return {}
    return {"eps": module.eps, "momentum": nan if module.momentum is None else module.momentum}


def _reference(network: nn.Module) -> torch.Tensor:
    """A tensor of the network's dtype on its device; a network without weights computes in float32."""
    return next(iter(weights_of(network).values()), torch.empty(0))


def _tensor(network: nn.Module, images: Array) -> torch.Tensor:
    like = _reference(network)
    return torch.tensor(plain(images), dtype=like.dtype, device=like.device)


@contextmanager
def _inference(network: nn.Module) -> Iterator[None]:
    """No gradients and every module in eval mode; each module's own mode is put back."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


BACKEND: Backend = TorchBackend()
