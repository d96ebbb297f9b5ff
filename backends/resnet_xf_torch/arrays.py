"""The tensors of a PyTorch network: by name, and as NumPy arrays."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import nn

from resnet_xf.architecture.measures import layer_of
from resnet_xf.architecture.nodes import is_statistic, join
from resnet_xf.architecture.weights import Array, Weights, plain

in_own_mode = torch.inference_mode(mode=False)
"""Decorates a function: gradients are recorded in it, also within a caller's ``no_grad`` or ``inference_mode``."""


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and running statistics by name. They share memory with the network.

    A frozen batch norm's scale and shift, which are buffers, count as parameters. Other buffers, as constants and the
    batch norms' step counters, are left out.
    """
    tensors = network.state_dict()
    kept = set(dict(network.named_parameters(remove_duplicate=False)))
    for name in filter(is_statistic, tensors):
        kept |= {name, *(join(layer_of(name), word) for word in ("weight", "bias"))}
    return {name: tensor for name, tensor in tensors.items() if name in kept}


def as_tensor(array: Array) -> torch.Tensor:
    """Return a tensor that shares the array's memory, if :func:`plain` does. Nothing may write into it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(plain(array))


def to_numpy(tensor: torch.Tensor) -> Array:
    """Return a copy as a NumPy array. NumPy has no bfloat16: it becomes float32."""
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    array: Array = tensor.detach().cpu().numpy().copy(order="C")
    return array


def numpy_copies(tensors: Mapping[str, torch.Tensor]) -> Weights:
    """Return copies of tensors as NumPy arrays, by name."""
    return {name: to_numpy(tensor) for name, tensor in tensors.items()}
