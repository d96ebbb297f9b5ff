"""A training run's whole state in one file, written atomically, which either backend can go on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from safetensors import SafetensorError

from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.architecture.weights import (
    RUN_KEY,
    SPEC_KEY,
    VELOCITY,
    Weights,
    all_weight_shapes,
    check_weights,
    read_arrays,
    write_arrays,
)
from resnet_xf.errors import CheckpointError, ResNetXFError
from resnet_xf.support.documents import Document, Struct
from resnet_xf.support.files import FOLDER, PREFIX, atomic, list_checkpoints
from resnet_xf.training.recipe import Recipe

METRICS = "metrics.jsonl"


class EpochRecord(Struct, frozen=True, kw_only=True):
    """What one epoch gave: a line of ``metrics.jsonl``.

    Attributes:
        epoch: its number, from 1.
        train_loss, train_accuracy: means over its training images, each as seen before its step; accuracy in 0…1.
        test_loss, test_accuracy: after its last step; the loss without label smoothing.
        learning_rate: of its last step.
        images_per_second: training images over the time that training took, evaluation and checkpoint not counted.
        seconds: that time.
        backend, device: on which it ended.
        workers: how many trained it.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    learning_rate: float
    images_per_second: float
    seconds: float
    backend: str
    device: str
    workers: int


class Position(Struct, frozen=True, kw_only=True):
    """Where in the run: ``epoch`` epochs and ``batch`` batches of the next are done.

    ``loss``, ``correct``, ``seen`` and ``seconds`` are the sums of that unfinished epoch.
    """

    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0


class Header(Document, frozen=True, kw_only=True):
    """All of a run but its network and arrays.

    The order of the images and their augmentation follow from the recipe's seed and the position alone.

    Attributes:
        version: of this form of file.
        recipe: see :class:`resnet_xf.training.recipe.Recipe`.
        backend: on which it is trained, or was last.
        dataset: its name.
        data_dir: where its files were, if not in the cache.
        train_images: how many images an epoch has.
        train_digest: of their labels and, of files, their names, in order.
        classes: their names.
        mean, std: with which images are normalised, one for each channel.
        position: see :class:`Position`.
        loss_scaling: of float16, see :meth:`resnet_xf.backend.learner.Learner.loss_scaling`.
        history: every finished epoch's record.
    """

    title = "a run's header"
    error = CheckpointError

    version: Literal[1] = 1
    recipe: Recipe
    backend: str
    dataset: str
    data_dir: str | None = None
    train_images: int
    train_digest: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    position: Position = Position()
    loss_scaling: dict[str, int | float] = {}  # noqa: RUF012 - msgspec copies it
    history: tuple[EpochRecord, ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch has."""
        whole, rest = divmod(self.train_images, self.recipe.batch_size)
        return whole + (1 if rest and not self.recipe.drop_last else 0)

    @property
    def step(self) -> int:
        """How many steps of the run are done."""
        return self.position.epoch * self.steps_per_epoch + self.position.batch


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run at one moment: the network, the header, its weights, and the optimiser's v under PyTorch's law."""

    spec: ResNetSpec
    header: Header
    weights: Weights
    velocity: Weights


def save_checkpoint(run: str | Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint into a run's folder, and remove all but the ``keep`` last.

    Raises:
        CheckpointError: if it cannot be written; those that were there are left.
    """
    folder = Path(run) / FOLDER
    path = folder / f"{PREFIX}{checkpoint.header.step:08d}.safetensors"
    arrays = checkpoint.weights | {VELOCITY + name: array for name, array in checkpoint.velocity.items()}
    texts = {SPEC_KEY: checkpoint.spec.to_json(), RUN_KEY: checkpoint.header.to_complete_json()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_arrays(path, arrays, texts)
        for old in list_checkpoints(run)[:-keep]:
            old.unlink()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}{_room(error)}") from None
    return path


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint: a file, or the last one of a run's folder.

    Raises:
        CheckpointError: if there is none, or it is damaged or not of a run.
    """
    path, found = Path(path), []
    if path.is_dir():
        found = list_checkpoints(path)
        if not found:
            raise CheckpointError(f"{path}: holds no run; expected {path / FOLDER / PREFIX}….safetensors")
        path = found[-1]
    try:
        arrays, texts = read_arrays(path)
        if RUN_KEY not in texts:
            raise CheckpointError("holds weights but no training run; begin one with `resnet-xf train --weights`")
        spec, header = ResNetSpec.from_json(texts[SPEC_KEY]), Header.from_json(texts[RUN_KEY])
        shapes = all_weight_shapes(spec)
        weights = {name: array for name, array in arrays.items() if not name.startswith(VELOCITY)}
        velocity = {name.removeprefix(VELOCITY): arrays[name] for name in arrays if name not in weights}
        check_weights(weights, shapes, header.recipe.dtype)
        check_weights(velocity, {name: shapes[name] for name in velocity if name in shapes}, header.recipe.dtype)
    except ResNetXFError as error:
        older = f"; take it away to go on from {found[-2]}" if len(found) > 1 else ""
        raise CheckpointError(f"{path}: {str(error).removeprefix(f'{path}: ')}{older}") from None
    return Checkpoint(spec, header, weights, velocity)


def clear_leftovers(run: str | Path) -> None:
    """Remove the temporary files that a killed run left behind."""
    for folder, pattern in ((Path(run) / FOLDER, f".{PREFIX}*"), (Path(run), f".{METRICS}.*")):
        for leftover in folder.glob(pattern):
            leftover.unlink(missing_ok=True)


def write_metrics(run: str | Path, history: tuple[EpochRecord, ...]) -> None:
    """Write ``metrics.jsonl``, a line an epoch; atomically.

    Raises:
        CheckpointError: if it cannot be written.
    """
    path = Path(run) / METRICS
    try:
        with atomic(path) as temporary:
            temporary.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in history))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}{_room(error)}") from None


def _room(error: Exception) -> str:
    """What helps where a disk is full."""
    full = any(words in str(error) for words in ("No space left", "File too large", "quota exceeded"))
    return "; make room and resume the run" if full else ""
