"""PyTorch's own checkpoint files, as NumPy arrays. Nothing in them is unpickled but tensors and plain containers."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from resnet_xf.architecture.measures import layer_of
from resnet_xf.architecture.weights import COUNTER, Array, Weights
from resnet_xf.errors import WeightsError, one_line
from resnet_xf.support.files import atomic

MOST_WRAPPERS = 4

WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")
"""Keys under which trainers put the state_dict among other things."""


def read_file(path: Path) -> tuple[Weights, tuple[str, ...]]:
    """The arrays of a ``.pth`` or ``.pt`` file, in their own dtype (bfloat16 as float32), and notes on the choice.

    Raises:
        WeightsError: if the file is damaged, or holds anything but tensors and plain containers.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise WeightsError(f"{path}: is compressed, which PyTorch's own files never are")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript files, which the next line refuses
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch.load raises for a damaged file has no common base
        said = (
            "it holds more than tensors, and unpickling that could run any code" if _refused(error) else one_line(error)
        )
        raise WeightsError(f"{path}: not readable with weights_only=True: {said}") from None
    notes: list[str] = []
    for _ in range(MOST_WRAPPERS):
        keys = [key for key in WRAPPERS if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping)]
        if not keys:
            break
        if len(keys) > 1:
            notes.append(f"read what stands under {keys[0]!r}; {', '.join(map(repr, keys[1:]))} left")
        loaded = loaded[keys[0]]
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path}: holds a {type(loaded).__name__}, not a state_dict; save network.state_dict()")
    other = [ascii(n) for n, value in loaded.items() if not (isinstance(n, str) and isinstance(value, torch.Tensor))]
    if other:
        raise WeightsError(f"{path}: holds what is no named tensor beside the tensors: {', '.join(other[:5])}")
    return {name: _array(path, name, tensor) for name, tensor in loaded.items()}, tuple(notes)


def write_file(path: Path, weights: Mapping[str, Array], norms: Collection[str]) -> None:
    """Write a state_dict that loads strictly; atomically.

    PyTorch's own files hold a step counter for each norm, which begins at 0.

    Raises:
        WeightsError: if the file cannot be written.
    """
    state: dict[str, torch.Tensor] = {}
    for name, array in weights.items():
        state[name] = torch.tensor(array)
        if name.endswith("running_var") and layer_of(name) in norms:
            state[f"{layer_of(name)}.{COUNTER}"] = torch.tensor(0)
    try:
        with atomic(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"{path}: cannot be written: {one_line(error)}") from None


def _refused(error: Exception) -> bool:
    return "weights_only" in str(error) or "Unsupported" in str(error)


def _array(path: str | Path, name: Any, tensor: torch.Tensor) -> Array:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise WeightsError(f"{path}: {name} is not a plain dense tensor")
    try:
        plain = tensor.detach().resolve_conj().resolve_neg()
        array: Array = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    except (TypeError, RuntimeError):
        raise WeightsError(f"{path}: {name} is of dtype {tensor.dtype}, which NumPy has not") from None
    return array
