"""The training loop of every backend: it feeds batches to a learner and writes metrics and checkpoints."""

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
    """The progress of a run, after a step or an epoch.

    Attributes:
        epoch, epochs: number of the epoch, from 1, and of the last one.
        step, steps: number of the step in the run, from 1, and of the last one.
        loss, accuracy: means over the epoch so far.
        images_per_second: mean over the epoch so far, of all workers together.
        record: the epoch's record, if the epoch is finished and evaluated.
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
    """A finished run.

    Attributes:
        spec: the network's spec.
        recipe: the recipe.
        weights: the trained weights by name.
        history: the record of each epoch.
        path: the run's folder, if any.
        first: whether this process was the first worker, the only one that writes and prints.
    """

    spec: ResNetSpec
    recipe: Recipe
    weights: Weights
    history: tuple[EpochRecord, ...]
    path: Path | None
    first: bool = True


class Training:
    """A training that is ready to run, from its start or from a checkpoint; :meth:`run` trains.

    Args:
        planned: the network.
        data: the data set.
        start: the initial state.
        backend: the backend's name.
        device, preset, out, keep, timeout, callback: as in :func:`resnet_xf.train`.

    Raises:
        ResNetXFError: if network, data and recipe do not fit together.
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
            raise CheckpointError(f"keep: expected 1 checkpoint or more, got {keep}")
        self.keep = keep
        self.callback = callback
        self.steps = self.recipe.epochs * self.header.steps_per_epoch
        self.stop_request = StopRequest()
        self.clock = 0.0
        if not self.header.steps_per_epoch:
            raise RecipeError(
                f"$.drop_last: leaves no batch of {self.header.train_images} images; choose a smaller batch_size"
            )
        self.rates = learning_rates(self.recipe, self.header.steps_per_epoch)

    def run(self) -> Run:
        """Train to the end of the run and return it."""
        task = task_of(self.planned, self.recipe, self.device, self.timeout, together=True, preset=self.preset)
        self.learner: Learner = require(get_backend(self.header.backend), Trains).learner(task)
        failure: BaseException | None = None
        try:
            self.check_shares(self.learner.workers)
            self.learner.load(self.start.weights, self.start.velocity)
            self.learner.load_loss_scaling(self.header.loss_scaling)
            self._check_together()
            if self.learner.rank:  # only the first worker continues the sums of an unfinished epoch
                self.position = msgspec.structs.replace(self.position, loss=0.0, correct=0, seen=0)
            signals = catch_stop_signals(enabled=self.out is not None, announce=not has_parent())
            with self._lock(), signals as self.stop_request:
                if self.writes:
                    self._open()
                while self.position.epoch < self.recipe.epochs:
                    self._train_epoch()
            weights, _ = self.learner.dump()
            self._synchronize()
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
        """Prepare the run's folder: write the first checkpoint, or remove what a killed run left behind."""
        assert self.out is not None
        clear_leftovers(self.out)
        if list_checkpoints(self.out):
            write_metrics(self.out, self.history)
        else:
            self._save()

    def _lock(self) -> AbstractContextManager[None]:
        """Lock the run's folder against other processes."""
        return locked(self.out) if self.out is not None and self.writes else nullcontext()

    def check_shares(self, workers: int) -> None:
        """Check that each worker gets enough images of the smallest batch.

        A worker needs one image, or two if a batch norm sees a single pixel of each image: its variance would be 0.

        Raises:
            RecipeError: if the smallest batch is too small.
        """
        whole, rest = divmod(self.header.train_images, self.recipe.batch_size)
        sizes = ([self.recipe.batch_size] if whole else []) + ([rest] if rest and not self.recipe.drop_last else [])
        rows = trace(self.planned, (1, self.planned.spec.in_channels, *self.transform.size))
        single_pixel = not self.recipe.freeze_statistics and any(
            row.kind == "norm" and row.output_shape[2:] == (1, 1) for row in rows
        )
        if min(sizes) < workers * (2 if single_pixel else 1):
            why = "each needs two, since a norm sees one pixel of each image" if single_pixel else "each needs one"
            raise RecipeError(
                f"$.batch_size: the smallest batch has {min(sizes)} of the images, for {workers} at work, and {why}; "
                "set drop_last or another batch_size"
            )

    def _synchronize(self) -> None:
        """Wait for all workers, so that none looks for a checkpoint before the first worker has written it."""
        self.learner.total(np.zeros(1))

    def _check_together(self) -> None:
        """Raise TrainingError if the workers do not begin at the same step."""
        step = self.header.step
        if self.learner.total(np.array([float(step)]))[0] != step * self.learner.workers:
            raise TrainingError(
                f"worker {self.learner.rank} begins at step {step}, others at another; each needs the same checkpoint"
            )

    def _must_stop(self) -> bool:
        """Whether any worker got a stop signal; the answer is the same for all workers at the same step."""
        return bool(self.learner.total(np.array([float(self.stop_request.signal)]))[0])

    def _train_epoch(self) -> None:
        """Train the rest of an epoch, evaluate and save; raise TrainingStopped after a stop signal."""
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
        stop = False
        self.clock = time.perf_counter()
        for batch in batches:
            goal = targets(batch.labels, classes, recipe.label_smoothing, batch.size)
            outcome = learner.step(batch.images, goal, float(self.rates[step]))
            if waiting is not None:  # the step before is read while this one runs
                self._count(*waiting)
            waiting, step = (batch, outcome), step + 1
            if stop := self._must_stop():
                break
        if waiting is not None:
            self._count(*waiting)
        if not stop and self.position.batch == batches.total:
            stop = not self._finish_epoch()
        if stop:
            self._stop()

    def _count(self, batch: Batch, outcome: Outcome) -> None:
        """Wait for a step's outcome and add it to the epoch's sums."""
        loss, outputs = outcome()
        if not np.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at {self._where(self.header.step + 1)}; {self._last_good()}")
        now = time.perf_counter()
        last = self.position
        self.position = Position(
            epoch=last.epoch,
            batch=last.batch + 1,
            loss=last.loss + loss * batch.size,
            correct=last.correct + int((outputs.argmax(axis=1) == batch.labels).sum()),
            seen=last.seen + len(batch.labels),
            seconds=last.seconds + now - self.clock,
        )
        self.clock = now
        self.header = msgspec.structs.replace(self.header, position=self.position)
        self._report()

    def _sums(self) -> tuple[float, int, int]:
        """Return the epoch's summed loss, correct answers and images so far, of all workers."""
        at = self.position
        loss, correct, seen = self.learner.total(np.array([at.loss, at.correct, at.seen], np.float64)).tolist()
        return loss, int(correct), int(seen)

    def _finish_epoch(self) -> bool:
        """Evaluate, record and save the epoch; return False if a stop signal came before the evaluation ended."""
        learner, position = self.learner, self.position
        loss, correct, seen = self._sums()
        self._share_statistics()
        classes, size = self.planned.spec.num_classes, self.recipe.batch_size
        means = evaluate_split(learner, self.data.test, self.transform, size, classes, stopped=self._must_stop)
        if means is None:
            return False
        test_loss, test_accuracy = means
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
        self._report(record)
        return True

    def _share_statistics(self) -> None:
        """Copy the first worker's running statistics, which the checkpoint holds, to all workers."""
        if self.learner.workers == 1:
            return
        weights, _ = self.learner.dump()
        names = [name for name in weights if is_statistic(name)]
        if not names:
            return
        statistics = np.concatenate([weights[name].ravel() for name in names]).astype(np.float64)
        parts = np.split(
            self.learner.total(statistics if self.learner.rank == 0 else np.zeros_like(statistics)),
            np.cumsum([weights[name].size for name in names])[:-1],
        )
        self.learner.load({n: part.astype(weights[n].dtype) for n, part in zip(names, parts, strict=True)}, {})

    def _save(self) -> None:
        """Write the checkpoint and the metrics; raise TrainingError if a weight is not finite."""
        assert self.out is not None
        weights, velocity = self.learner.dump()
        self.header = msgspec.structs.replace(self.header, loss_scaling=self.learner.loss_scaling())
        broken = next((name for name, array in weights.items() if not np.isfinite(array).all()), None)
        if broken is not None:
            raise TrainingError(
                f"{broken} is no longer finite after {self._where(self.header.step)}; {self._last_good()}"
            )
        save_checkpoint(self.out, Checkpoint(self.planned.spec, self.header, weights, velocity), self.keep)
        write_metrics(self.out, self.history)

    def _stop(self) -> None:
        """Save and raise TrainingStopped, in all workers at the same step; only the first has a message."""
        loss, correct, seen = self._sums()
        self.position = msgspec.structs.replace(self.position, loss=loss, correct=correct, seen=seen)
        self.header = msgspec.structs.replace(self.header, position=self.position)
        message = ""
        if self.writes:
            self._save()
            again = f"resnet-xf train --resume {shlex.quote(str(self.out))}"
            message = f"stopped after {self._where(self.header.step)}; go on with `{again}`"
        self._synchronize()
        raise TrainingStopped(message, self.stop_request.signal or SIGTERM)

    def _where(self, step: int) -> str:
        """Return a step's number and epoch in words."""
        epoch = (step - 1) // self.header.steps_per_epoch + 1
        return f"step {step} of {self.steps} (epoch {epoch} of {self.recipe.epochs})"

    def _last_good(self) -> str:
        """Return the end of a failed run's message: its last good checkpoint, and what to do."""
        checkpoints = list_checkpoints(self.out) if self.out is not None else []
        if not checkpoints:
            return "begin anew with a lower learning rate"
        path = shlex.quote(str(checkpoints[-1]))
        return f"the last good checkpoint is {path}; begin anew with a lower --lr, from there by --weights {path}"

    def _report(self, record: EpochRecord | None = None) -> None:
        """Call the callback, on the first worker."""
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
