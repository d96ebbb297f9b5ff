"""The training loop, the same for every backend: batches to a learner, metrics and checkpoints out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from resnet_xf.checkpoint import (
    Checkpoint,
    EpochRecord,
    Position,
    clear_leftovers,
    list_checkpoints,
    save_checkpoint,
    write_metrics,
)
from resnet_xf.data import Batch, Batches, Dataset
from resnet_xf.errors import RecipeError, TrainingError, TrainingStopped
from resnet_xf.evaluation import check_fit, evaluate_split, learner_of, transform_of
from resnet_xf.learner import Outcome
from resnet_xf.nodes import STATISTICS
from resnet_xf.plan import Plan
from resnet_xf.recipe import Recipe, learning_rates, targets
from resnet_xf.signals import Wish, asked_to_stop
from resnet_xf.spec import ResNetSpec
from resnet_xf.trace import trace
from resnet_xf.weights import Weights


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, after a step or an epoch.

    Attributes:
        epoch: its number, from 1; ``epochs`` is the last.
        step: of the whole run, from 1; ``steps`` is the last.
        loss, accuracy: means over the epoch so far.
        images_per_second: over the epoch so far, all workers together.
        record: the finished epoch's, if this step was its last and the epoch has been evaluated.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float
    record: EpochRecord | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: the network, its recipe, its weights by name, each epoch's record, and its folder if any.

    ``first`` says whether this process was the first of the workers, which alone writes and tells.
    """

    spec: ResNetSpec
    recipe: Recipe
    weights: Weights
    history: tuple[EpochRecord, ...]
    path: Path | None
    first: bool = True


class Training:
    """One run under way."""

    def __init__(
        self,
        planned: Plan,
        data: Dataset,
        start: Checkpoint,
        backend: str,
        device: str,
        out: str | Path | None,
        keep: int,
        timeout: float,
        callback: Callable[[Progress], object] | None,
    ) -> None:
        self.planned, self.data, self.start, self.header = planned, data, start, start.header
        self.recipe = start.header.recipe
        self.position, self.history = self.header.position, self.header.history
        check_fit(planned, data)
        self.transform = transform_of(self.header, planned)
        self.backend = backend
        self.device, self.timeout = device, timeout
        self.out = None if out is None else Path(out)
        self.keep = max(1, keep)
        self.callback = callback
        self.steps = self.recipe.epochs * self.header.steps_per_epoch
        self.saved: Path | None = None
        if not self.header.steps_per_epoch:
            raise RecipeError(
                f"$.drop_last: leaves nothing of {self.header.train_images} images; choose a smaller batch_size"
            )
        self.rates = learning_rates(self.recipe, self.header.steps_per_epoch)

    def run(self) -> Run:
        """Train from where the run is to its end."""
        self.learner = learner_of(self.planned, self.recipe, self.backend, self.device, self.timeout)
        try:
            self._check_shares()
            self.learner.load(self.start.weights, self.start.velocity)
            self.learner.load_loss_scaling(self.header.loss_scaling)
            self._check_together()
            if self.writes:
                self._open()
            with asked_to_stop(heeded=self.out is not None) as wish:  # a worker that is not the first ends after it
                while self.position.epoch < self.recipe.epochs:
                    self._epoch(wish)
            weights, _ = self.learner.dump()
        finally:
            self.learner.close()
        return Run(self.planned.spec, self.recipe, weights, self.history, self.out, self.learner.rank == 0)

    @property
    def writes(self) -> bool:
        """Whether this worker writes the run's files."""
        return self.out is not None and self.learner.rank == 0

    def _open(self) -> None:
        """Begin a run's folder, or find it as it was left."""
        assert self.out is not None
        clear_leftovers(self.out)
        found = list_checkpoints(self.out)
        if found:
            self.saved = found[-1]
            write_metrics(self.out, self.history)
        else:
            self._save()

    def _check_shares(self) -> None:
        """Refuse batches that give a worker nothing, or a single image where a norm sees a single pixel of it."""
        whole, rest = divmod(self.header.train_images, self.recipe.batch_size)
        sizes = ([self.recipe.batch_size] if whole else []) + ([rest] if rest and not self.recipe.drop_last else [])
        rows = trace(self.planned, (1, self.planned.spec.in_channels, *self.transform.size))
        pixel = not self.recipe.freeze_statistics and any(
            row.kind == "norm" and row.output_shape[2:] == (1, 1) for row in rows
        )
        least = self.learner.workers * (2 if pixel else 1)
        if min(sizes) < least:
            why = "a norm sees one pixel of each image and needs two images" if pixel else "each needs an image"
            raise RecipeError(
                f"$.batch_size: a batch has {min(sizes)} images for {self.learner.workers} workers, and {why}; "
                "set drop_last or another batch_size"
            )

    def _check_together(self) -> None:
        """All workers must begin at the same step."""
        mine = self.header.step
        if self.learner.total(np.array([float(mine)]))[0] != mine * self.learner.workers:
            raise TrainingError(
                f"worker {self.learner.rank} begins at step {mine}, others at another; each needs the same checkpoint"
            )

    def _epoch(self, wish: Wish) -> None:
        """The rest of an epoch, its evaluation and its checkpoint; leaves when that is wished."""
        recipe, learner = self.recipe, self.learner
        batches = Batches(
            self.data.train,
            self.transform,
            recipe.batch_size,
            seed=recipe.seed,
            epoch=self.position.epoch,
            first=self.position.batch,
            rank=learner.rank,
            workers=learner.workers,
            drop_last=recipe.drop_last,
        )
        classes, step = self.planned.spec.num_classes, self.header.step
        waiting: tuple[Batch, Outcome] | None = None
        self.clock = time.perf_counter()
        for batch in batches:
            wanted = targets(batch.labels, classes, recipe.label_smoothing, batch.size)
            outcome = learner.step(batch.images, wanted, float(self.rates[step]))
            if waiting is not None:  # the step before is read while this one runs
                self._settle(*waiting)
            waiting, step = (batch, outcome), step + 1
            if wish.signal and self.writes:
                break
        if waiting is not None:
            self._settle(*waiting)
        if self.position.batch == batches.total:
            self._finish_epoch()
        if wish.signal and self.writes and self.position.epoch < recipe.epochs:
            self._stop(wish.signal)

    def _settle(self, batch: Batch, outcome: Outcome) -> None:
        """Wait for a step, and count it."""
        loss, outputs = outcome()
        if not np.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at {self._where(self.header.step + 1)}; {self._last_good()}")
        now = time.perf_counter()
        before = self.position
        self.position = Position(
            epoch=before.epoch,
            batch=before.batch + 1,
            loss=before.loss + loss * batch.size,
            correct=before.correct + int((outputs.argmax(axis=1) == batch.labels).sum()),
            seen=before.seen + len(batch.labels),
            seconds=before.seconds + now - self.clock,
        )
        self.clock = now
        self.header = msgspec.structs.replace(self.header, position=self.position)
        self._tell()

    def _finish_epoch(self) -> None:
        """Evaluate, record and save."""
        learner, position = self.learner, self.position
        loss, correct, seen = learner.total(np.array([position.loss, position.correct, position.seen], np.float64))
        self._share_statistics()
        test_loss, test_accuracy = evaluate_split(
            learner, self.data.test, self.transform, self.recipe.batch_size, self.planned.spec.num_classes
        )
        if not np.isfinite(test_loss):
            raise TrainingError(
                f"the test loss is {test_loss} after {self._where(self.header.step)}; {self._last_good()}"
            )
        record = EpochRecord(
            epoch=position.epoch + 1,
            train_loss=float(loss / seen),
            train_accuracy=float(correct / seen),
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            learning_rate=float(self.rates[self.header.step - 1]),
            images_per_second=float(seen / position.seconds),
            seconds=position.seconds,
            backend=self.backend,
            device=learner.device,
            workers=learner.workers,
        )
        self.position = Position(epoch=position.epoch + 1)
        self.history = (*self.history, record)
        self.header = msgspec.structs.replace(self.header, position=self.position, history=self.history)
        if self.writes:
            self._save()
        self._tell(record)

    def _share_statistics(self) -> None:
        """Give every worker the first one's running statistics, which the checkpoint will hold."""
        if self.learner.workers == 1:
            return
        weights, _ = self.learner.dump()
        names = [name for name in weights if name.rpartition(".")[2] in STATISTICS]
        if not names:
            return
        mine = np.concatenate([weights[name].ravel() for name in names]).astype(np.float64)
        parts = np.split(
            self.learner.total(mine if self.learner.rank == 0 else np.zeros_like(mine)),
            np.cumsum([weights[name].size for name in names])[:-1],
        )
        self.learner.load({n: part.astype(weights[n].dtype) for n, part in zip(names, parts, strict=True)}, {})

    def _save(self) -> None:
        """Write the checkpoint and the metrics; only whole, finite states."""
        assert self.out is not None
        weights, velocity = self.learner.dump()
        self.header = msgspec.structs.replace(self.header, loss_scaling=self.learner.loss_scaling())
        bad = next((name for name, array in weights.items() if not np.isfinite(array).all()), None)
        if bad is not None:
            raise TrainingError(f"{bad} is no longer finite after {self._where(self.header.step)}; {self._last_good()}")
        self.saved = save_checkpoint(self.out, Checkpoint(self.planned.spec, self.header, weights, velocity), self.keep)
        write_metrics(self.out, self.history)

    def _stop(self, signal: int) -> None:
        """Save and leave, as asked."""
        if self.position.batch:
            self._save()
        raise TrainingStopped(
            f"stopped after {self._where(self.header.step)}; go on with `resnet-xf train --resume {self.out}`", signal
        )

    def _where(self, step: int) -> str:
        epoch = (step - 1) // self.header.steps_per_epoch + 1
        return f"step {step} of {self.steps} (epoch {epoch} of {self.recipe.epochs})"

    def _last_good(self) -> str:
        """What is left to a run that went wrong."""
        kept = f"the last good checkpoint is {self.saved}" if self.saved else "this worker keeps no checkpoint"
        return f"{kept}; lower the learning rate, or warm it up"

    def _tell(self, record: EpochRecord | None = None) -> None:
        if self.callback is None or self.learner.rank:
            return
        if record is not None:
            epoch, loss, accuracy, speed = (
                record.epoch,
                record.train_loss,
                record.train_accuracy,
                record.images_per_second,
            )
        else:
            at = self.position
            epoch, accuracy = at.epoch + 1, at.correct / at.seen
            loss, speed = at.loss / at.seen, at.seen * self.learner.workers / at.seconds
        self.callback(Progress(epoch, self.recipe.epochs, self.header.step, self.steps, loss, accuracy, speed, record))
