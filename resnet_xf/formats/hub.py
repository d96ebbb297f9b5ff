"""What the ``config.json`` of Hugging Face's hub says of the network in the file beside it.

timm and transformers write it beside ``model.safetensors`` or ``pytorch_model.bin``. It says what names do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.errors import WeightsError
from resnet_xf.formats.files import HUB_FILES
from resnet_xf.formats.matching import Match
from resnet_xf.support.documents import MOST_BYTES
from resnet_xf.support.files import read_bytes, reading

TRANSFORMERS = {"hidden_act": "relu", "downsample_in_first_stage": False}
TIMM = {"act_layer": "relu", "aa_layer": None, "global_pool": "avg", "block_args": None}
"""The settings of both libraries that change outputs but no name, and their values in our networks of these names."""

SMOOTH = "resnetblur", "resnetaa", "seresnetaa", "resnextaa"
"""How the names of timm's networks begin that smooth a map before it is halved. It changes no name of an array."""


def allowed(path: Path, fits: Sequence[Match]) -> tuple[list[Match], int | None] | None:
    """Those of several networks with a file's names and shapes that its config.json allows, and the output stride.

    The stride is None if it has no say in the family. The result is None if the file has no config.json, or this allows
    none of the networks.

    Raises:
        WeightsError: if it says that the network computes what no plan does.
    """
    config, stride = _read(path), None
    chosen: list[Match] = []
    args = config.get("model_args")
    if "transformers" in fits[0].layout.title and config.get("model_type") == "resnet":
        _check(path, config, TRANSFORMERS)
        stride_on = "1x1" if config.get("downsample_in_bottleneck") else "3x3"
        chosen = [match for match in fits if _stride_on(match) in (stride_on, None)]
    elif isinstance(architecture := config.get("architecture"), str):
        name = architecture.partition(".")[0]
        if name.startswith(SMOOTH):
            raise _refuse(path, f"the architecture is {name}, which smooths a map before it is halved")
        settings = args if isinstance(args, dict) else {}
        _check(path, settings, TIMM)
        chosen = [match for match in fits if match.plan.spec.name == name]
        asked = settings.get("output_stride", 32)
        stride = asked if asked in (8, 16, 32) else None
    return (chosen, stride) if chosen else None


def _check(path: Path, settings: dict[str, Any], same: Mapping[str, object]) -> None:
    for key, value in same.items():
        if settings.get(key, value) != value:
            raise _refuse(path, f"{key} is {settings[key]!r}, and in our networks it is {value!r}")


def _stride_on(match: Match) -> str | None:
    spec = match.plan.spec
    return spec.stride_on if isinstance(spec, ResNetSpec) and spec.block == "bottleneck" else None


def _read(path: Path) -> dict[str, Any]:
    beside = path.with_name("config.json")
    if path.name not in HUB_FILES or not beside.exists():
        return {}
    with reading(beside, WeightsError, "a hub's config"):
        config = msgspec.json.decode(read_bytes(beside, MOST_BYTES[".json"]))
    return config if isinstance(config, dict) else {}


def _refuse(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"{path}: the config.json beside it says: {what}; names and shapes do not tell, so it is not read"
    )
