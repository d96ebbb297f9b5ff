"""A PyTorch network's tensors by name, and as NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from resnet_xf.architecture.weights import COUNTER, Array, Weights


def weights_of(network: nn.Module, *, recurse: bool = True) -> dict[str, torch.Tensor]:
    """The network's own tensors by name, without autograd, in the order of registration."""
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(COUNTER)}
    return state if recurse else {name: tensor for name, tensor in state.items() if "." not in name}


def to_numpy(tensor: torch.Tensor) -> Array:
    """A copy of a tensor; NumPy has no bfloat16, so that becomes float32."""
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    copied: Array = tensor.detach().cpu().numpy().copy(order="C")
    return copied


def copied(tensors: Mapping[str, torch.Tensor]) -> Weights:
    """Copies of tensors, by name."""
    return {name: to_numpy(tensor) for name, tensor in tensors.items()}
