"""A training run's state in one file, written atomically. Any backend can resume from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from safetensors import SafetensorError

from resnet_xf.architecture.spec import SPEC_KEY, Spec, read_spec
from resnet_xf.architecture.weights import (
    RUN_KEY,
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

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class EpochRecord(Struct, frozen=True, kw_only=True):
    """The results of one epoch: a line of ``metrics.jsonl``.

    Attributes:
        epoch: number of the epoch, from 1.
        train_loss, train_accuracy: means over the training images, each before its own step; accuracy is 0…1.
        test_loss, test_accuracy: means over the test images after the last step, without label smoothing.
        learning_rate: learning rate of the last step.
        images_per_second, seconds: of training, without evaluation and checkpoint.
        backend, device, workers: where the epoch ended, and the number of workers.
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
    """A position in a run: the epochs that are done, and batches, loss, and so on of the next epoch so far."""

    epoch: Whole = 0
    batch: Whole = 0
    loss: float = 0.0
    correct: Whole = 0
    seen: Whole = 0
    seconds: float = 0.0


class Header(Document, frozen=True, kw_only=True):
    """A run without its network and its arrays.

    The recipe's seed and the position determine the order of the images and their augmentation.

    Attributes:
        version: version of the file format.
        backend: name of the backend, or of the last one.
        data_dir: folder of the data set's files; None for the user's cache.
        limit: number of training images that were asked for; None for all.
        train_images: number of training images.
        train_digest: see :meth:`resnet_xf.data.Split.digest`.
        mean, std: normalisation of the images, one value for each channel or one for all.
        loss_scaling: see :meth:`resnet_xf.backend.learner.Learner.loss_scaling`.
        history: the records of all finished epochs.
    """

    title = "a run's header"
    error = CheckpointError

    version: Literal[1] = 1
    recipe: Recipe
    backend: str
    dataset: str
    data_dir: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    train_images: Whole
    train_digest: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    position: Position = Position()
    loss_scaling: dict[str, int | float] = {}  # noqa: RUF012 - msgspec copies it
    history: tuple[EpochRecord, ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches of an epoch."""
        whole, rest = divmod(self.train_images, self.recipe.batch_size)
        return whole + bool(rest and not self.recipe.drop_last)

    @property
    def step(self) -> int:
        """The number of steps that are done."""
        return self.position.epoch * self.steps_per_epoch + self.position.batch


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run at one moment: network, header, weights, and the optimiser's velocity as PyTorch defines it."""

    spec: Spec
    header: Header
    weights: Weights
    velocity: Weights


def save_checkpoint(run: str | Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint into a run's folder, delete all but the last ``keep`` checkpoints, and return its path.

    Raises CheckpointError if it cannot be written; then the earlier checkpoints stay.
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
        raise _not_written(path, error) from None
    return path


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint: a file, or the last checkpoint in a run's folder.

    Raises CheckpointError if there is none, or it is damaged, or holds no training run.
    """
    path = Path(path)
    checkpoints = list_checkpoints(path) if path.is_dir() else [path]
    if not checkpoints:
        raise CheckpointError(f"{path}: holds no run; expected {path / FOLDER / PREFIX}….safetensors")
    path = checkpoints[-1]
    try:
        arrays, texts = read_arrays(path)
        if RUN_KEY not in texts:
            raise CheckpointError("holds weights but no training run; begin one with `resnet-xf train --weights`")
        spec, header = read_spec(texts[SPEC_KEY]), Header.from_json(texts[RUN_KEY])
        shapes = all_weight_shapes(spec)
        weights = {name: array for name, array in arrays.items() if not name.startswith(VELOCITY)}
        velocity = {name.removeprefix(VELOCITY): arrays[name] for name in arrays if name not in weights}
        check_weights(weights, shapes, header.recipe.dtype)
        check_weights(velocity, {name: shapes[name] for name in velocity if name in shapes}, header.recipe.dtype)
    except ResNetXFError as error:
        older = f"; delete it to resume from {checkpoints[-2]}" if len(checkpoints) > 1 else ""
        raise CheckpointError(f"{path}: {str(error).removeprefix(f'{path}: ')}{older}") from None
    return Checkpoint(spec, header, weights, velocity)


def refuse_run(folder: str | Path) -> None:
    """Raise CheckpointError if a folder holds a run that has made a step; one of no step may be begun anew."""
    if any(path.stem != f"{PREFIX}{0:08d}" for path in list_checkpoints(folder)):
        raise CheckpointError(f"{folder}: holds a run already; go on with it by --resume, or choose another folder")


def clear_leftovers(run: str | Path) -> None:
    """Delete the temporary files of a killed run."""
    for folder, pattern in ((Path(run) / FOLDER, f".{PREFIX}*"), (Path(run), f".{METRICS}.*")):
        for leftover in folder.glob(pattern):
            leftover.unlink(missing_ok=True)


def write_metrics(run: str | Path, history: tuple[EpochRecord, ...]) -> None:
    """Write ``metrics.jsonl`` atomically, one line per epoch. Raises CheckpointError if it cannot be written."""
    path = Path(run) / METRICS
    try:
        with atomic(path) as temporary:
            temporary.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in history))
    except OSError as error:
        raise _not_written(path, error) from None


def _not_written(path: Path, error: Exception) -> CheckpointError:
    full = any(words in str(error) for words in ("No space left", "File too large", "quota exceeded"))
    hint = "; free some disk space and resume the run" if full else ""
    return CheckpointError(f"{path}: cannot be written: {error}{hint}")
