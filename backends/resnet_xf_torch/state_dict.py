"""Read and write PyTorch's checkpoint files as NumPy arrays. Only tensors and plain containers are unpickled."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from resnet_xf.architecture.measures import layer_of
from resnet_xf.architecture.weights import COUNTER, Array, Weights
from resnet_xf.errors import WeightsError, one_line
from resnet_xf.formats.files import save_weights_command
from resnet_xf.support.files import atomic, reading

MOST_WRAPPERS = 4

MOST_VIEWS = 10
"""How many times as large as the file its tensors may be: a view of one value can claim any shape."""

WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")
"""Keys under which training scripts save the state_dict in a larger checkpoint."""


STATE = (
    "(lambda x: x.state_dict() if hasattr(x, 'state_dict') else x)"
    f"(next((x[key] for key in {WRAPPERS} if isinstance(x.get(key), dict) or hasattr(x.get(key), 'state_dict')), "
    "{name: one for name, one in x.items() if isinstance(one, torch.Tensor)}) if isinstance(x, dict) else x)"
)
"""An expression for the state_dict of a whole model or a trainer's checkpoint, x."""


def read_file(path: Path) -> tuple[Weights, tuple[str, ...]]:
    """See :meth:`resnet_xf.backend.contract.OwnsFiles.read_file`. bfloat16 becomes float32."""
    with reading(path, WeightsError, "a state_dict"):
        return _read(path)


def _read(path: Path) -> tuple[Weights, tuple[str, ...]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript files, which the next line refuses
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the errors of torch.load for a damaged file have no common base class
        if "weights_only" not in str(error) and "Unsupported" not in str(error):
            raise WeightsError(
                f"not readable with weights_only=True: {one_line(error)}; copy or save it again"
            ) from None
        cause = re.search(r"GLOBAL ([\w.]+)", str(error))
        load = f"torch.load({json.dumps(str(path))}, weights_only=False)"
        command = save_weights_command(f"(lambda x: {STATE})({load})", path)
        raise WeightsError(
            f"not readable with weights_only=True: it holds more than tensors{f' ({cause[1]})' if cause else ''}, and "
            f"unpickling that could run any code. If you trust it, save its weights and read that file: {command}"
        ) from None
    notes: list[str] = []
    where = f"torch.load({json.dumps(str(path))}, weights_only=True)"
    for _ in range(MOST_WRAPPERS):
        keys = [key for key in WRAPPERS if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping)]
        if not keys:
            break
        if len(keys) > 1:
            command = save_weights_command(f"{where}[{json.dumps(keys[1])}]", path)
            notes.append(f"read what stands under {keys[0]!r}; {_some(keys[1:])} left; save that alone: {command}")
        loaded, where = loaded[keys[0]], f"{where}[{json.dumps(keys[0])}]"
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"holds a {type(loaded).__name__}, not a state_dict; save network.state_dict()")
    states = {key: value for key, value in loaded.items() if isinstance(key, str) and _is_state(value)}
    if states and not any(isinstance(value, torch.Tensor) and value.ndim for value in loaded.values()):
        if others := [key for key in loaded if key not in states and isinstance(key, str)]:
            notes.append(f"read what stands under {_some(states)}; {_some(others)} left")
        loaded = {f"{key}.{name}": tensor for key, state in states.items() for name, tensor in state.items()}
    # The text of a key that is no text can be endless: tuples may hold one another.
    other = [
        ascii(name) if isinstance(name, str | int) else f"a {type(name).__name__}"
        for name, value in loaded.items()
        if not (isinstance(name, str) and isinstance(value, torch.Tensor))
    ]
    if other:
        raise WeightsError(
            f"holds entries that are not named tensors: {', '.join(other[:5])}; save network.state_dict()"
        )
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in loaded.values())
    if claimed > (most := MOST_VIEWS * path.stat().st_size):
        raise WeightsError(f"its tensors claim {claimed:,} bytes, more than {most:,}; save copies of views")
    return {name: _array(name, tensor) for name, tensor in loaded.items()}, tuple(notes)


def _is_state(value: Any) -> bool:
    """Whether an entry of a trainer's checkpoint is a state_dict."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
    )


def _some(keys: Iterable[str]) -> str:
    return ", ".join(ascii(key) for key in [*keys][:5])


def write_file(path: Path, weights: Mapping[str, Array], norms: Collection[str]) -> None:
    """See :meth:`resnet_xf.backend.contract.OwnsFiles.write_file`. Each batch norm gets a step counter of 0."""
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


def _array(name: Any, tensor: torch.Tensor) -> Array:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise WeightsError(f"{name} is not a plain dense tensor; save it as one")
    try:
        plain = tensor.detach().resolve_conj().resolve_neg()
        array: Array = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    except (TypeError, RuntimeError):
        raise WeightsError(f"{name} is of dtype {tensor.dtype}, which NumPy has not; save it as float32") from None
    return array
