"""The training loop, the same for every backend: batches to a learner, metrics and checkpoints out."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

import msgspec
import numpy as np

from resnet_xf.architecture.nodes import is_statistic
from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.architecture.trace import trace
from resnet_xf.architecture.weights import Weights
from resnet_xf.backend.contract import Trains, require
from resnet_xf.backend.fast import PRESETS
from resnet_xf.backend.learner import Learner, Outcome
from resnet_xf.backend.registry import get_backend
from resnet_xf.data import Batch, Batches, Dataset
from resnet_xf.errors import CheckpointError, RecipeError, TrainingError, TrainingStopped
from resnet_xf.support.files import list_checkpoints, locked
from resnet_xf.support.parent import has_parent
from resnet_xf.support.signals import StopRequest, catch_stop_signals
from resnet_xf.training.checkpoint import (
    Checkpoint,
    EpochRecord,
    Position,
    clear_leftovers,
    save_checkpoint,
    write_metrics,
)
from resnet_xf.training.evaluation import check_fit, evaluate_split, task_of, transform_of
from resnet_xf.training.recipe import Recipe, learning_rates, targets


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
    """A run that is begun, or about to go on; :meth:`run` trains.

    Args:
        planned: the network.
        data: its images.
        start: the state to begin from.
        backend: its name.
        device, preset, out, keep, timeout, callback: as in :func:`resnet_xf.train`.

    Raises:
        ResNetXFError: if network, data and recipe do not fit each other.
    """

    def __init__(
        self,
        planned: Plan,
        data: Dataset,
        start: Checkpoint,
        *,
        backend: str,
        device: str,
        preset: str,
        out: str | Path | None,
        keep: int,
        timeout: float,
        callback: Callable[[Progress], object] | None,
    ) -> None:
        self.planned, self.data, self.start = planned, data, start
        self.header = msgspec.structs.replace(start.header, backend=backend)
        self.recipe = start.header.recipe
        self.position, self.history = self.header.position, self.header.history
        check_fit(planned, data)
        self.transform = transform_of(self.header, planned)
        if preset not in PRESETS:
            raise TrainingError(f"preset: nothing is called {preset!r}; choose one of {', '.join(PRESETS)}")
        self.device, self.preset, self.timeout = device, preset, timeout
        self.out = None if out is None else Path(out)
        if keep < 1:
            raise CheckpointError(f"keep: at least 1 checkpoint must be kept, got {keep}")
        self.keep = keep
        self.callback = callback
        self.steps = self.recipe.epochs * self.header.steps_per_epoch
        self.stop_request = StopRequest()
        self.clock = 0.0
        if not self.header.steps_per_epoch:
            raise RecipeError(
                f"$.drop_last: leaves nothing of {self.header.train_images} images; choose a smaller batch_size"
            )
        self.rates = learning_rates(self.recipe, self.header.steps_per_epoch)

    def run(self) -> Run:
        """Train from where the run is to its end."""
        task = task_of(self.planned, self.recipe, self.device, self.timeout, together=True, preset=self.preset)
        self.learner: Learner = require(get_backend(self.header.backend), Trains).learner(task)
        failure: BaseException | None = None
        try:
            self.check_shares(self.learner.workers)
            self.learner.load(self.start.weights, self.start.velocity)
            self.learner.load_loss_scaling(self.header.loss_scaling)
            self._check_together()
            if self.learner.rank:  # the sums of an unfinished epoch are the first worker's to go on with
                self.position = msgspec.structs.replace(self.position, loss=0.0, correct=0, seen=0)
            signals = catch_stop_signals(enabled=self.out is not None, announce=not has_parent())
            with self._alone(), signals as self.stop_request:
                if self.writes:
                    self._open()
                while self.position.epoch < self.recipe.epochs:
                    self._epoch()
            weights, _ = self.learner.dump()
            self._meet()
        except BaseException as error:
            failure = error
            raise
        finally:
            self.learner.close(failure)
        return Run(self.planned.spec, self.recipe, weights, self.history, self.out, self.learner.rank == 0)

    @property
    def writes(self) -> bool:
        """Whether this worker writes the run's files."""
        return self.out is not None and self.learner.rank == 0

    def _open(self) -> None:
        """Begin a run's folder, or find it as it was left."""
        assert self.out is not None
        clear_leftovers(self.out)
        if list_checkpoints(self.out):
            write_metrics(self.out, self.history)
        else:
            self._save()

    def _alone(self) -> AbstractContextManager[None]:
        """Keep other processes from writing into the run's folder."""
        return locked(self.out) if self.out is not None and self.writes else nullcontext()

    def check_shares(self, workers: int) -> None:
        """Refuse batches that give a worker nothing, or a single image where a norm sees a single pixel of it.

        Raises:
            RecipeError: saying which batch is too small.
        """
        whole, rest = divmod(self.header.train_images, self.recipe.batch_size)
        sizes = ([self.recipe.batch_size] if whole else []) + ([rest] if rest and not self.recipe.drop_last else [])
        rows = trace(self.planned, (1, self.planned.spec.in_channels, *self.transform.size))
        pixel = not self.recipe.freeze_statistics and any(
            row.kind == "norm" and row.output_shape[2:] == (1, 1) for row in rows
        )
        least = workers * (2 if pixel else 1)
        if min(sizes) < least:
            why = "each needs two, since a norm sees one pixel of each image" if pixel else "each needs one"
            raise RecipeError(
                f"$.batch_size: the smallest batch has {min(sizes)} of the images, for {workers} at work, and {why}; "
                "set drop_last or another batch_size"
            )

    def _meet(self) -> None:
        """Wait for all workers, so that none looks for a checkpoint that the first has yet to write."""
        self.learner.total(np.zeros(1))

    def _check_together(self) -> None:
        """All workers must begin at the same step."""
        mine = self.header.step
        if self.learner.total(np.array([float(mine)]))[0] != mine * self.learner.workers:
            raise TrainingError(
                f"worker {self.learner.rank} begins at step {mine}, others at another; each needs the same checkpoint"
            )

    def _asked(self) -> bool:
        """Whether any worker was asked to stop; all of them learn it at the same step."""
        return bool(self.learner.total(np.array([float(self.stop_request.signal)]))[0])

    def _epoch(self) -> None:
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
        asked = False
        self.clock = time.perf_counter()
        for batch in batches:
            wanted = targets(batch.labels, classes, recipe.label_smoothing, batch.size)
            outcome = learner.step(batch.images, wanted, float(self.rates[step]))
            if waiting is not None:  # the step before is read while this one runs
                self._settle(*waiting)
            waiting, step = (batch, outcome), step + 1
            if asked := self._asked():
                break
        if waiting is not None:
            self._settle(*waiting)
        if not asked and self.position.batch == batches.total:
            asked = not self._finish_epoch()
        if asked:
            self._stop()

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

    def _sums(self) -> tuple[float, int, int]:
        """Loss, correct answers and images seen of the epoch so far, of all workers."""
        at = self.position
        loss, correct, seen = self.learner.total(np.array([at.loss, at.correct, at.seen], np.float64)).tolist()
        return loss, int(correct), int(seen)

    def _finish_epoch(self) -> bool:
        """Evaluate, record and save; False if asked to stop before that was done."""
        learner, position = self.learner, self.position
        loss, correct, seen = self._sums()
        self._share_statistics()
        classes, size = self.planned.spec.num_classes, self.recipe.batch_size
        found = evaluate_split(learner, self.data.test, self.transform, size, classes, stopped=self._asked)
        if found is None:
            return False
        test_loss, test_accuracy = found
        if not np.isfinite(test_loss):
            raise TrainingError(
                f"the test loss is {test_loss} after {self._where(self.header.step)}; {self._last_good()}"
            )
        record = EpochRecord(
            epoch=position.epoch + 1,
            train_loss=loss / seen,
            train_accuracy=correct / seen,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            learning_rate=float(self.rates[self.header.step - 1]),
            images_per_second=seen / position.seconds,
            seconds=position.seconds,
            backend=self.header.backend,
            device=learner.device,
            workers=learner.workers,
        )
        self.position = Position(epoch=position.epoch + 1)
        self.history = (*self.history, record)
        self.header = msgspec.structs.replace(self.header, position=self.position, history=self.history)
        if self.writes:
            self._save()
        self._tell(record)
        return True

    def _share_statistics(self) -> None:
        """Give every worker the first one's running statistics, which the checkpoint will hold."""
        if self.learner.workers == 1:
            return
        weights, _ = self.learner.dump()
        names = [name for name in weights if is_statistic(name)]
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
        save_checkpoint(self.out, Checkpoint(self.planned.spec, self.header, weights, velocity), self.keep)
        write_metrics(self.out, self.history)

    def _stop(self) -> None:
        """Save and leave, all workers at the same step; the first one says so."""
        loss, correct, seen = self._sums()
        self.position = msgspec.structs.replace(self.position, loss=loss, correct=correct, seen=seen)
        self.header = msgspec.structs.replace(self.header, position=self.position)
        message = ""
        if self.writes:
            self._save()
            again = f"resnet-xf train --resume {shlex.quote(str(self.out))}"
            message = f"stopped after {self._where(self.header.step)}; go on with `{again}`"
        self._meet()
        raise TrainingStopped(message, self.stop_request.signal or SIGTERM)

    def _where(self, step: int) -> str:
        epoch = (step - 1) // self.header.steps_per_epoch + 1
        return f"step {step} of {self.steps} (epoch {epoch} of {self.recipe.epochs})"

    def _last_good(self) -> str:
        """What is left to a run that went wrong, and what to do."""
        found = list_checkpoints(self.out) if self.out is not None else []
        if not found:
            return "begin anew with a lower learning rate"
        path = shlex.quote(str(found[-1]))
        return f"the last good checkpoint is {path}; begin anew with a lower --lr, from there by --weights {path}"

    def _tell(self, record: EpochRecord | None = None) -> None:
        if self.callback is None or self.learner.rank:
            return
        at = self.position
        if record is not None:
            epoch, speed = record.epoch, record.images_per_second
            loss, accuracy = record.train_loss, record.train_accuracy
        else:
            images = min(at.batch * self.recipe.batch_size, self.header.train_images)
            epoch, speed = at.epoch + 1, images / at.seconds
            loss, accuracy = at.loss / at.seen, at.correct / at.seen
        self.callback(Progress(epoch, self.recipe.epochs, self.header.step, self.steps, loss, accuracy, speed, record))
