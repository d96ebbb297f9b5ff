"""PyTorch's own checkpoint files, as NumPy arrays. Nothing in them is unpickled but tensors and plain containers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from resnet_xf.errors import WeightsError, one_line
from resnet_xf.files import atomic
from resnet_xf.weights import Array, Weights

WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")
"""Keys under which trainers put the state_dict among other things."""


def read_state_dict(path: str | Path) -> Weights:
    """The arrays of a ``.pth`` or ``.pt`` file, in their own dtype (bfloat16 as float32).

    Raises:
        WeightsError: if the file is damaged, or holds anything but tensors and plain containers.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch.load raises for a damaged file has no common base
        said = (
            "it holds more than tensors, and unpickling that could run any code" if _refused(error) else one_line(error)
        )
        raise WeightsError(f"{path}: not readable with weights_only=True: {said}") from None
    while isinstance(loaded, Mapping) and (key := next((k for k in WRAPPERS if _is_dict(loaded.get(k))), None)):
        loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path}: holds a {type(loaded).__name__}, not a state_dict; save network.state_dict()")
    other = [str(name) for name, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if other:
        raise WeightsError(f"{path}: holds what is no tensor beside the tensors: {', '.join(other[:5])}")
    return {name: _array(path, name, tensor) for name, tensor in loaded.items()}


def write_state_dict(path: str | Path, weights: Mapping[str, Array], counters: list[str]) -> None:
    """Write a state_dict that loads strictly; atomically.

    ``counters`` names the norms' step counters, which PyTorch's own files hold; they begin at 0.

    Raises:
        WeightsError: if the file cannot be written.
    """
    state: dict[str, torch.Tensor] = {}
    for name, array in weights.items():
        state[name] = torch.tensor(array)
        if (counter := name.replace("running_var", "num_batches_tracked")) in counters:
            state[counter] = torch.tensor(0)
    try:
        with atomic(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"{path}: cannot be written: {one_line(error)}") from None


def _is_dict(value: object) -> bool:
    return isinstance(value, Mapping)


def _refused(error: Exception) -> bool:
    return "weights_only" in str(error) or "Unsupported" in str(error)


def _array(path: str | Path, name: Any, tensor: torch.Tensor) -> Array:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise WeightsError(f"{path}: {name} is not a plain dense tensor")
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array
