"""A PyTorch network's tensors by name, and as NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from resnet_xf.architecture.weights import COUNTER, Weights


def weights_of(network: nn.Module, *, recurse: bool = True) -> dict[str, torch.Tensor]:
    """The network's own tensors by name, without autograd, in the order of registration."""
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(COUNTER)}
    return state if recurse else {name: tensor for name, tensor in state.items() if "." not in name}


def copied(tensors: Mapping[str, torch.Tensor]) -> Weights:
    """Copies as NumPy arrays, by name."""
    return {name: tensor.detach().cpu().numpy().copy(order="C") for name, tensor in tensors.items()}
