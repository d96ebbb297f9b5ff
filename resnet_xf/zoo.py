"""The named specs, as data. Each stands for one published network, and a test holds it equal to that one."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from resnet_xf.errors import SpecError
from resnet_xf.spec import ResNetSpec, Stage, read_spec

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks in each stage, by the network's depth (He et al. 2015, table 1)."""


def _stages(depth: int, block: Literal["basic", "bottleneck"]) -> tuple[Stage, ...]:
    """Four stages of 64, 128, 256 and 512 channels, times four in bottlenecks; all but the first stride."""
    expansion = 4 if block == "bottleneck" else 1
    return tuple(
        Stage(depth=blocks, channels=64 * 2**index * expansion, stride=1 if index == 0 else 2)
        for index, blocks in enumerate(DEPTHS[depth])
    )


_SPECS = (
    # torchvision's (v1.5: the stride on the 3×3)
    ResNetSpec(name="resnet18", stages=_stages(18, "basic")),
    ResNetSpec(name="resnet34", stages=_stages(34, "basic")),
    ResNetSpec(name="resnet50", stages=_stages(50, "bottleneck"), block="bottleneck"),
    ResNetSpec(name="resnet101", stages=_stages(101, "bottleneck"), block="bottleneck"),
    ResNetSpec(name="resnet152", stages=_stages(152, "bottleneck"), block="bottleneck"),
    # Gluon's model zoo (v1: the stride on the first 1×1, and the block's 1×1 convolutions carry biases)
    ResNetSpec(
        name="resnet50_v1",
        stages=_stages(50, "bottleneck"),
        block="bottleneck",
        stride_on="1x1",
        conv_bias=("1x1",),
    ),
    # Dive into Deep Learning's (grey images, every convolution biased, no norm on the shortcut)
    ResNetSpec(
        name="d2l_resnet18",
        in_channels=1,
        num_classes=10,
        image_size=(96, 96),
        stages=_stages(18, "basic"),
        shortcut_norm=False,
        conv_bias=("stem", "3x3", "shortcut"),
    ),
)

ZOO: dict[str, ResNetSpec] = {spec.name: spec for spec in _SPECS}
"""Every named spec, by name."""


def list_models() -> list[str]:
    """The names of the zoo's specs."""
    return list(ZOO)


def get_spec(name_or_path: str | Path) -> ResNetSpec:
    """A spec of the zoo by name, or one read from a ``.toml`` or ``.json`` file.

    Raises:
        SpecError: if there is no such name, or the file cannot be read or is malformed.
    """
    name = str(name_or_path)
    if name in ZOO:
        return ZOO[name]
    if Path(name).suffix in (".toml", ".json"):
        return read_spec(name)
    near = difflib.get_close_matches(name, ZOO, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(ZOO)}"
    raise SpecError(f"no spec is called {name!r}: {hint} A .toml or .json file serves as well")
