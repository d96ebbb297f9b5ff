"""The PyTorch backend of resnet_xf."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from math import nan
from typing import Any

import numpy as np
import torch
from torch import nn

from resnet_xf.architecture.nodes import Node
from resnet_xf.architecture.weights import Array, Weights, check_weights, plain
from resnet_xf.architecture.windows import pool_settings, window_settings
from resnet_xf.backend.contract import Backend, Look
from resnet_xf.errors import SpecError, one_line
from resnet_xf_torch import builder
from resnet_xf_torch.arrays import as_tensor, in_own_mode, numpy_copies, to_numpy, weights_of
from resnet_xf_torch.bench import TorchBench
from resnet_xf_torch.export import export, run_export
from resnet_xf_torch.learner import TorchLearner, count_gpus, find_device, roles, settings_of_convolutions
from resnet_xf_torch.reference import peer
from resnet_xf_torch.source import DIALECT
from resnet_xf_torch.state_dict import read_file, write_file

__all__ = ["BACKEND"]


class TorchBackend:
    """Networks are ``torch.nn.Module``; see :class:`resnet_xf.backend.contract.Backend`."""

    name = "torch"
    unbiased_variance = True
    bench = TorchBench()
    dialect = DIALECT
    network_type = nn.Module
    learner = staticmethod(TorchLearner)
    roles = staticmethod(roles)
    peer = staticmethod(peer)
    read_file = staticmethod(read_file)
    write_file = staticmethod(write_file)
    export = staticmethod(export)
    run_export = staticmethod(run_export)

    def version(self) -> str:
        return str(torch.__version__)

    def devices(self) -> list[str]:
        names = [f"cuda:{n} ({torch.cuda.get_device_name(n)})" for n in range(count_gpus())]
        return ["cpu", *names]

    @in_own_mode
    def build(self, node: Node, dtype: str = "float32") -> nn.Module:
        """Build the module of a node, on the CPU, with weights of 0."""
        return builder.build_empty(node, getattr(torch, dtype))

    @in_own_mode
    def copy(self, network: nn.Module, dtype: str | None = None) -> nn.Module:
        """Return a deep copy, not compiled. Hooks are copied too, because some compute weights."""
        network = getattr(network, "_orig_mod", network)
        if isinstance(network, torch.jit.ScriptModule):
            raise SpecError(
                f"{type(network).__name__}: a TorchScript program has no layers; give the module it was made of"
            )
        try:
            duplicate = copy.deepcopy(network)
        except (RuntimeError, TypeError) as error:
            raise SpecError(f"{type(network).__name__}: torch cannot copy it: {one_line(error)}") from error
        return duplicate.to("cpu", getattr(torch, dtype) if dtype else None).requires_grad_()

    def load(self, network: nn.Module, weights: Mapping[str, Array]) -> None:
        own = weights_of(network)
        dtype = np.dtype(str(_reference(network).dtype).removeprefix("torch."))
        check_weights(weights, {name: tuple(tensor.shape) for name, tensor in own.items()}, dtype)
        for name, tensor in own.items():
            tensor.copy_(as_tensor(weights[name]))

    def dump(self, network: nn.Module) -> Weights:
        return numpy_copies(weights_of(network))

    def forward(self, network: nn.Module, images: Array) -> Any:
        with _inference(network):
            output = network(_tensor(network, images))
        maps = output if isinstance(output, list) else [output]
        if not all(isinstance(one, torch.Tensor) for one in maps):
            raise SpecError(
                f"{type(network).__name__}: gives a {type(output).__name__}; let a module around it return one tensor"
            )
        arrays = [to_numpy(one) for one in maps]
        return arrays if isinstance(output, list) else arrays[0]

    @in_own_mode
    def move(self, network: nn.Module, device: str) -> nn.Module:
        return network.to(find_device(device))

    def watch(self, network: nn.Module, images: Array, look: Look, names: Collection[str] | None = None) -> None:
        inputs: dict[str, tuple[Array, ...]] = {}

        def before(name: str, module: nn.Module, args: Any) -> None:
            inputs[name] = tuple(to_numpy(tensor) for tensor in _tensors(args))

        def after(name: str, module: nn.Module, args: Any, output: Any) -> None:
            for tensor in _tensors(output)[-1:]:
                look(name, inputs.pop(name), to_numpy(tensor))

        with ExitStack() as hooks, _inference(network):
            for name, module in network.named_modules():
                if names is None or name in names:
                    hooks.enter_context(module.register_forward_pre_hook(partial(before, name)))
                    hooks.enter_context(module.register_forward_hook(partial(after, name)))
            network(_tensor(network, images))

    def settings(self, network: nn.Module) -> dict[str, dict[str, float]]:
        settings: dict[str, dict[str, float]] = {}
        for name, module in network.named_modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                settings[name] = {"rate": module.p}
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                momentum = nan if module.momentum is None else module.momentum
                settings[name] = {"eps": module.eps, "momentum": momentum}
            elif isinstance(module, nn.Conv2d) and module.padding_mode == "zeros":
                padding = module.padding
                if isinstance(padding, str):  # "same" or "valid"
                    padding = tuple(module._reversed_padding_repeated_twice[::-2])
                sizes = module.kernel_size, module.stride, padding, module.dilation
                settings[name] = window_settings(*sizes, groups=module.groups)
            elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
                window = module.kernel_size, module.stride, module.padding
                of = {"dilation": module.dilation} if isinstance(module, nn.MaxPool2d) else {}
                counts = module.count_include_pad if isinstance(module, nn.AvgPool2d) else None
                settings[name] = pool_settings(*window, ceil=module.ceil_mode, counts_padding=counts, **of)
        return settings

    def apply(self, network: nn.Module, name: str, inputs: Sequence[Array]) -> Array:
        module = network.get_submodule(name)
        with _inference(module):
            return to_numpy(module(*(_tensor(network, x) for x in inputs)))

    @in_own_mode
    def differentiate(self, network: nn.Module, name: str, inputs: Sequence[Array], cotangent: Array) -> Weights:
        module = network.get_submodule(name).train()
        tensors = [_tensor(network, x).requires_grad_() for x in inputs]
        leaves = {f"input{n}": x for n, x in enumerate(tensors)} | dict(module.named_parameters())
        with settings_of_convolutions(), _without_autocast():
            output = module(*(x.clone() for x in tensors))  # a clone, because the module may work in place
            cotangents = _tensor(network, cotangent)
            gradients = torch.autograd.grad(output, list(leaves.values()), cotangents, materialize_grads=True)
        return {key: to_numpy(gradient) for key, gradient in zip(leaves, gradients, strict=True)}


def _tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors in a module's inputs or output. A backbone's last tensor is its deepest feature map."""
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in items for tensor in _tensors(item)]


def _reference(network: nn.Module) -> torch.Tensor:
    """Return a tensor of the network's dtype on its device: float32 on the CPU if it has no weights."""
    tensors = chain(network.parameters(), network.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0, device="cpu"))


def _tensor(network: nn.Module, images: Array) -> torch.Tensor:
    like = _reference(network)
    return torch.tensor(plain(images), dtype=like.dtype, device=like.device)


@contextmanager
def _inference(network: nn.Module) -> Iterator[None]:
    """Turn gradients off and set every module to eval mode; restore each module's mode afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode(), settings_of_convolutions(), _without_autocast():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _without_autocast() -> Iterator[None]:
    """Compute in the network's own type, also within a caller's ``autocast``."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


BACKEND: Backend = TorchBackend()
