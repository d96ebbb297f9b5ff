"""The options and arguments that several commands share, and the readers of their texts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.errors import ResNetXFError

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
"""Bytes in one K, M and G."""


def _zoo() -> list[str]:
    """The names of all networks, for the shell's completion."""
    from resnet_xf.architecture.zoo import list_models

    return list_models()


SpecArgument = Annotated[
    str,
    typer.Argument(metavar="SPEC", help="A name from `resnet-xf list`, or a .toml or .json file.", autocompletion=_zoo),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ImageSize = Annotated[
    str | None,
    typer.Option(metavar="S or HxW", help="Image size in pixels, as 224 or 96x64.", show_default="the spec's"),
]
BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help="`torch`, `mxnet` or another installed one.",
        show_default="RESNET_XF_BACKEND, else an installed one",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1. auto: a GPU if there is one.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with the data set's files.", show_default="download once into the user's cache"),
]
RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", help="digits, d2l, cifar, imagenet, or a .toml or .json file.", show_default=False),
]
TopOnly = Annotated[bool, typer.Option("--top", help="Show only the network's own layers and stages.")]
Batch = Annotated[int, typer.Option(min=1, help="Number of images.")]


def _refuse_input(value: str | None) -> None:
    if value is not None:
        raise typer.BadParameter("was replaced by --image-size HxW and --batch N; the channels are the spec's")


InputShape = Annotated[str | None, typer.Option("--input", hidden=True, callback=_refuse_input)]
"""The old spelling, kept for its message."""


def input_shape(spec: ResNetSpec, image_size: str | None, batch: int) -> tuple[int, int, int, int]:
    """Return ``(N, C, H, W)``: the spec's channels, and its image size if none is given."""
    return (batch, spec.in_channels, *(read_size(image_size) or spec.image_size))


def check_outputs(*files: Path | None) -> None:
    """Check before a long computation that its results can be written to these files.

    Raises:
        ResNetXFError: if a file is a folder, or its folder does not exist.
    """
    for file in filter(None, files):
        if file.is_dir():
            raise ResNetXFError(f"{file}: is a folder; name a file in it")
        if not file.parent.is_dir():
            raise ResNetXFError(f"{file}: there is no folder {file.parent}; make it first")


def arguments_without(*options: str) -> list[str]:
    """Return this process's command line, without its program and without these options and their values."""
    remaining: list[str] = []
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        option, _, value = argument.partition("=")
        if option not in options:
            remaining.append(argument)
        elif not value:
            next(arguments, None)
    return remaining


def read_size(text: str | None) -> tuple[int, int] | None:
    """Return height and width of ``224`` or ``67x61``; None for None.

    Raises:
        typer.BadParameter: if the text is no size.
    """
    if text is None:
        return None
    sides = text.lower().replace("×", "x").split("x")
    if not all(side.isdecimal() and 0 < int(side) <= 8192 for side in sides) or len(sides) > 2:
        raise typer.BadParameter(
            f"{text!r} is not a size of 1 to 8192 pixels; write 224, or 67x61 for height 67", param_hint="--image-size"
        )
    return int(sides[0]), int(sides[-1])


def read_bytes(text: str | None) -> int | None:
    """Return the bytes of ``500M`` or ``2G``; None for None.

    Raises:
        typer.BadParameter: if the text is no amount of memory.
    """
    if text is None:
        return None
    number, unit = text[:-1], text[-1:].upper()
    if unit not in UNITS or not number.isdecimal() or not int(number):
        raise typer.BadParameter(f"{text!r} is not an amount of memory; write 500M or 2G", param_hint="--max-memory")
    return int(number) * UNITS[unit]
