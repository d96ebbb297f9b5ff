"""The tensors of a PyTorch network: by name, and as NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from resnet_xf.architecture.weights import COUNTER, Array, Weights

in_own_mode = torch.inference_mode(mode=False)
"""Decorates a function: gradients are recorded in it, also within a caller's ``no_grad`` or ``inference_mode``."""


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of the ``state_dict`` without the batch norms' step counters. They share memory with it."""
    return {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(COUNTER)}


def to_numpy(tensor: torch.Tensor) -> Array:
    """Return a copy as a NumPy array. NumPy has no bfloat16: it becomes float32."""
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    array: Array = tensor.detach().cpu().numpy().copy(order="C")
    return array


def numpy_copies(tensors: Mapping[str, torch.Tensor]) -> Weights:
    """Return copies of tensors as NumPy arrays, by name."""
    return {name: to_numpy(tensor) for name, tensor in tensors.items()}
