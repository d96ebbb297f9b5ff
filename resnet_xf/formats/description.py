"""What a checkpoint's network expects and answers: how images become input tensors, and the names of the classes.

A safetensors file holds its description in its metadata. Other files have it beside them: ``net.params.json`` belongs
to ``net.params``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from resnet_xf.architecture.spec import Side, Spec
from resnet_xf.data import TEST_CROPS, Crop, Interpolation, Transform
from resnet_xf.errors import DataError, WeightsError
from resnet_xf.support.documents import MOST_BYTES, Document, Struct
from resnet_xf.support.files import atomic, open_regular, read_bytes, reading

Channel = Annotated[tuple[Annotated[float, Meta(ge=-1e30, le=1e30)], ...], Meta(min_length=1)]

MARK = b'"resnet_xf"'
"""Stands in every description; a JSON file without it is another program's."""


UNTRAINED = "these are the first weights of a run that has made no training step"


class Preprocessing(Struct, frozen=True, kw_only=True, omit_defaults=False):
    """How an image becomes an input tensor, outside training.

    Attributes:
        image_size: height and width of the tensor, in pixels.
        crop: ``resize``: the whole image. ``centre``: its centre, after a resize to 8/7 of the size.
        mean: subtracted from the pixels; one value for each channel or one for all.
        std: divides the pixels after that.
        channel_order: of images in colour.
        scale: the pixels are 0…1 or 0…255 before the mean is subtracted.
        interpolation: ``antialias`` or ``bilinear``, as in :class:`resnet_xf.training.recipe.Augmentation`.
    """

    image_size: tuple[Side, Side]
    crop: Literal["resize", "centre"] = "resize"
    mean: Channel = (0.0,)
    std: Channel = (1.0,)
    channel_order: Literal["RGB", "BGR"] = "RGB"
    scale: Literal[1, 255] = 1
    interpolation: Interpolation = "antialias"

    def transform(self, channels: int) -> Transform:
        """Return the transform to tensors with so many channels. Raises DataError if mean or std do not fit."""
        mean, std = (tuple(value / self.scale for value in values) for values in (self.mean, self.std))
        return Transform(
            self.image_size,
            channels,
            self.crop,
            mean=mean,
            std=std,
            order=self.channel_order,
            interpolation=self.interpolation,
        )

    def text(self, channels: int | None) -> str:
        """Return the preprocessing in words. ``channels``: of the network's input; None if they are not known."""
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        height, width = self.image_size
        order = "grey" if channels == 1 else self.channel_order
        crop = self.crop if self.interpolation == "antialias" else f"{self.crop}, interpolation {self.interpolation}"
        return f"{height}×{width} pixels, crop {crop}, {order}, values 0…{self.scale}, mean {mean}, std {std}"


class Description(Document, frozen=True, kw_only=True, omit_defaults=False):
    """What belongs to a checkpoint's weights, so that they can be used as they were trained.

    Attributes:
        resnet_xf: version of the document.
        spec: the network; None if it is not known, or stands elsewhere in the file.
        preprocessing: None if it is not known.
        classes: the names of the outputs, in order; empty if they are not known.
        trained: False if the weights come from a run that has made no step.
        digest: of the file that the description lies beside; None if it fits any.
    """

    title = "a checkpoint's description"
    error = WeightsError

    resnet_xf: Literal[1] = 1
    spec: Spec | None = None
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()
    trained: bool = True
    digest: str | None = None

    def check(self, spec: Spec, where: str | Path) -> None:
        """Raise WeightsError if the description of a file does not fit the network; it names the file and the field."""
        wrong = f"{where}: its description does not fit"
        if len(self.classes) > spec.num_classes:
            raise WeightsError(
                f"{wrong}: $.classes: has {len(self.classes)} names, and {spec.name} {spec.num_classes} classes"
            )
        try:
            if self.preprocessing is not None:
                self.preprocessing.transform(spec.in_channels)
        except DataError as error:
            raise WeightsError(f"{wrong}: $.preprocessing.{error}") from None


class _Augmentation(msgspec.Struct):
    crop: Crop = "resize"
    interpolation: Interpolation = "antialias"


class _Recipe(msgspec.Struct):
    image_size: tuple[Side, Side] | None = None
    augmentation: _Augmentation = msgspec.field(default_factory=_Augmentation)


class _Position(msgspec.Struct):
    epoch: int = 0
    batch: int = 0


class _Run(msgspec.Struct):
    """The part of :class:`resnet_xf.training.checkpoint.Header` that a description needs."""

    recipe: _Recipe
    classes: tuple[str, ...]
    mean: Channel
    std: Channel
    position: _Position = msgspec.field(default_factory=_Position)


def describe_run(header: str, spec: Spec) -> Description:
    """Return the description of a training run's network, from the run's header as JSON.

    Raises:
        WeightsError: if the header is malformed.
    """
    try:
        run = msgspec.json.decode(header, type=_Run)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise WeightsError(f"the run's header is malformed: {error}") from None
    preprocessing = Preprocessing(
        image_size=run.recipe.image_size or spec.image_size,
        crop=TEST_CROPS[run.recipe.augmentation.crop],
        mean=run.mean,
        std=run.std,
        interpolation=run.recipe.augmentation.interpolation,
    )
    trained = bool(run.position.epoch or run.position.batch)
    return Description(preprocessing=preprocessing, classes=run.classes, trained=trained)


def path_beside(path: Path) -> Path:
    """Return the path of the description that lies beside a checkpoint."""
    return path.with_name(f"{path.name}.json")


def read_beside(path: Path) -> Description | None:
    """Return the description beside a checkpoint, or None if there is none.

    Raises:
        WeightsError: if it cannot be read, or was written for other contents of the checkpoint.
    """
    beside = path_beside(path)
    if not _is_description(beside):
        return None
    description = Description.read(beside)
    if description.digest is not None and description.digest != _digest(path):
        raise WeightsError(f"{beside}: describes other contents of {path.name}, which was changed; remove one of them")
    return description


def check_beside(path: Path) -> None:
    """Raise WeightsError if a file of another program is where the description of a checkpoint is to be."""
    beside = path_beside(path)
    if beside.exists() and not _is_description(beside):
        raise WeightsError(f"{beside}: is another program's, and the preprocessing is written there; move it away")


def write_beside(path: Path, description: Description) -> None:
    """Write the description of a checkpoint that was written, or remove an earlier one if nothing is known.

    Raises:
        OSError: if it cannot be written.
    """
    if description == Description():
        if _is_description(path_beside(path)):
            path_beside(path).unlink()
        return
    description = msgspec.structs.replace(description, digest=_digest(path))
    with atomic(path_beside(path)) as temporary:
        temporary.write_bytes(msgspec.json.format(description.to_complete_json().encode(), indent=2) + b"\n")


def _is_description(beside: Path) -> bool:
    if not beside.exists():
        return False
    with reading(beside, WeightsError, Description.title):
        return MARK in read_bytes(beside, MOST_BYTES[".json"])


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.blake2b(file.read(), digest_size=16).hexdigest()
