"""The options and arguments that several commands share, and the readers of their texts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NewType

import typer

from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.zoo import ZOO
from resnet_xf.errors import ResNetXFError

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
"""Bytes in one K, M and G."""


Size = NewType("Size", tuple[int, int])
"""Height and width in pixels."""


def read_size(text: str) -> Size:
    """Return height and width of ``224`` or ``67x61``. Raises BadParameter if the text is no size."""
    sides = text.lower().replace("×", "x").split("x")
    if not all(side.isdecimal() and 0 < int(side) <= 8192 for side in sides) or len(sides) > 2:
        raise typer.BadParameter(f"{text!r} is not a size of 1 to 8192 pixels; write 224, or 67x61 for height 67")
    return Size((int(sides[0]), int(sides[-1])))


def read_bytes(text: str) -> int:
    """Return the bytes of ``500M`` or ``2G``. Raises BadParameter if the text is no amount of memory."""
    number, unit = text[:-1], text[-1:].upper()
    if unit not in UNITS or not number.isdecimal() or not int(number):
        raise typer.BadParameter(f"{text!r} is not an amount of memory; write 500M or 2G")
    return int(number) * UNITS[unit]


def refuse_input(value: str | None) -> None:
    """Refuse the option ``--input`` of an earlier version, and name the options that replaced it."""
    if value is not None:
        raise typer.BadParameter("was replaced by --image-size HxW and --batch N; the channels are the spec's")


def option(description: str, *names: str, default: str | bool = True, **settings: Any) -> Any:
    """Return an option, named after its parameter if ``names`` are left out.

    ``default`` tells in the help what a command takes without the option; True: the parameter's default.
    """
    return typer.Option(*names, help=description, show_default=default, **settings)


def size_option(default: str) -> Any:
    """Return the option ``--image-size``."""
    return option("Image size in pixels, as 224 or 96x64.", default=default, metavar="S or HxW", parser=read_size)


Prefix = Annotated[
    str | None,
    option("Of the network's names, if the file has more than one network.", default="what all names share"),
]
SpecArgument = Annotated[
    str,
    typer.Argument(
        metavar="SPEC",
        help="A name from `resnet-xf list`, or a .toml, .json or .safetensors file with one.",
        autocompletion=lambda: [*ZOO],
    ),
]
KeepSoftmax = Annotated[bool, option("Keep the softmax at the end of an exported graph.", "--keep-softmax")]
AsJson = Annotated[bool, option("Print JSON.", "--json")]
ImageSize = Annotated[Size | None, size_option("the spec's")]
ANY_BACKEND = "RESNET_XF_BACKEND, else an installed one"
BackendName = Annotated[str | None, option("`torch`, `mxnet` or another installed one.", default=ANY_BACKEND)]
Device = Annotated[str, option("auto, cpu, cuda or cuda:1. auto: a GPU if there is one.")]
DataDir = Annotated[
    Path | None, option("Folder with the data set's files.", default="download once into the user's cache")
]
RecipeName = Annotated[
    str | None, option("digits, d2l, cifar, imagenet, small, or a .toml or .json file.", default=False)
]
TopOnly = Annotated[bool, option("Show only the network's own layers and stages.", "--top")]
Batch = Annotated[int, option("Number of images.", min=1)]
InputShape = Annotated[str | None, typer.Option("--input", hidden=True, callback=refuse_input)]


def input_shape(spec: Spec, image_size: Size | None, batch: int) -> tuple[int, int, int, int]:
    """Return ``(N, C, H, W)``: the spec's channels, and its image size if none is given."""
    return (batch, spec.in_channels, *(image_size or spec.image_size))


def not_none(**values: Any) -> dict[str, Any]:
    """Return the values that are not None: the options that stand on the command line."""
    return {name: value for name, value in values.items() if value is not None}


def check_outputs(*files: Path | None) -> None:
    """Check before a long computation that no file of results is a folder, and that each one's folder exists."""
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
