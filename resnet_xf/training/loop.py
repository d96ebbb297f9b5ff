"""The training loop of every backend: it feeds batches to a learner and writes metrics and checkpoints."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from signal import SIGTERM

import msgspec
import numpy as np

from resnet_xf.architecture.nodes import is_statistic
from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.trace import trace
from resnet_xf.architecture.weights import Weights, digest, first_not_finite
from resnet_xf.backend.contract import Trains, require
from resnet_xf.backend.fast import PRESETS
from resnet_xf.backend.learner import TIMEOUT, Learner, Outcome
from resnet_xf.backend.registry import get_backend
from resnet_xf.data import Batch, Batches, Dataset, keep, kept_memory
from resnet_xf.errors import CheckpointError, DataError, RecipeError, TrainingError, TrainingStopped
from resnet_xf.support.files import list_checkpoints, locked
from resnet_xf.support.parent import has_parent
from resnet_xf.support.signals import ANNOUNCEMENT, SIGPIPE, StopRequest, catch_stop_signals
from resnet_xf.training.checkpoint import (
    Checkpoint,
    EpochRecord,
    Position,
    clear_leftovers,
    refuse_run,
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
        loss, accuracy: means over this worker's images of the epoch so far; with a record, over those of all workers.
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
        weights: the trained weights by name.
        history: the record of each epoch.
        path: the run's folder, if any.
        first: whether this process was the first worker, the only one that writes and prints.
    """

    spec: Spec
    recipe: Recipe
    weights: Weights
    history: tuple[EpochRecord, ...]
    path: Path | None
    first: bool = True


@dataclass(eq=False)
class Training:
    """A training that is ready to run, from its start or from a checkpoint; :meth:`run` trains.

    Attributes:
        start: the initial state.
        out, device, preset, keep, timeout, max_memory, callback: as in :func:`resnet_xf.train`.
        note: what is changed in a resumed run, in words.
        header: the state so far, but for the weights.

    Raises:
        ResNetXFError: if network, data and recipe do not fit together.
    """

    planned: Plan
    data: Dataset
    start: Checkpoint
    out: Path | None = None
    device: str = "auto"
    preset: str = "tuned"
    keep: int = 3
    timeout: float = TIMEOUT
    max_memory: int | None = None
    callback: Callable[[Progress], object] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        self.header, self.recipe = self.start.header, self.start.header.recipe
        check_fit(self.planned, self.data)
        self.transform = transform_of(self.planned, self.recipe, self.header.mean, self.header.std)
        if self.preset not in PRESETS:
            raise TrainingError(f"preset: nothing is called {self.preset!r}; choose one of {', '.join(PRESETS)}")
        if self.keep < 1:
            raise CheckpointError(f"keep: expected 1 checkpoint or more, got {self.keep}")
        if not self.header.steps_per_epoch:
            raise RecipeError(
                f"$.drop_last: leaves no batch of {self.header.train_images} images; choose a smaller batch_size"
            )
        self.steps = self.recipe.epochs * self.header.steps_per_epoch
        self.rates = learning_rates(self.recipe, self.header.steps_per_epoch)
        self.stop_request = StopRequest()
        self.unreadable: DataError | None = None

    def run(self) -> Run:
        """Train to the end of the run and return it."""
        task = task_of(self.planned, self.recipe, self.device, timeout=self.timeout, together=True, preset=self.preset)
        self.learner: Learner = require(get_backend(self.header.backend), Trains).learner(task)
        first = self.learner.rank == 0
        self.folder = self.out if first else None  # only the first worker writes
        with ExitStack() as stack:
            stack.push(lambda _kind, failure, _traceback: self.learner.close(failure))
            self.check_shares(self.learner.workers)
            self.learner.load(self.start.weights, self.start.velocity)
            self.learner.load_loss_scaling(self.header.loss_scaling)
            step, rank, workers = self.header.step, self.learner.rank, self.learner.workers
            own = self._identity() if workers > 1 else 0
            steps, identities = self._total(step, own)
            if steps != step * workers:
                raise TrainingError(
                    f"worker {rank} begins at step {step}, others at another; each needs the same checkpoint"
                )
            if identities != own * workers:
                raise TrainingError(
                    f"worker {rank} has another recipe, network, data set or weights than others; give each the same"
                )
            if not first:  # only the first worker continues the sums of an unfinished epoch
                self._move(loss=0.0, correct=0, seen=0)
            memory = kept_memory(self.max_memory) // workers
            self.kept_train, memory = keep(self.data.train, self.transform, memory, training=True)
            self.kept_test, _ = keep(self.data.test, self.transform, memory, training=False)
            test = Batches(self.data.test, self.transform, self.recipe.batch_size, threads=1)
            for batches in (self._batches(threads=1), test):  # if an image cannot be read, no folder is made
                next(iter(batches), None)
            lock = nullcontext() if self.folder is None else locked(self.folder)
            announcement = b"" if has_parent() else ANNOUNCEMENT
            signals = nullcontext(StopRequest()) if self.out is None else catch_stop_signals(announcement)
            with lock, signals as self.stop_request:
                if self.folder is not None:
                    clear_leftovers(self.folder)
                    if self.header.step:
                        write_metrics(self.folder, self.header.history)
                    else:
                        refuse_run(self.folder)
                        self._save(self.folder)
                while self.header.position.epoch < self.recipe.epochs:
                    self._train_epoch()
            weights, _ = self.learner.dump()
            self._total(0)  # so that no worker looks for a checkpoint before the first one has written it
        return Run(self.planned.spec, self.recipe, weights, self.header.history, self.out, first)

    def check_shares(self, workers: int) -> None:
        """Raise RecipeError unless each worker gets enough images of the smallest batch.

        A worker needs one image, or two if a batch norm sees a single pixel of each image: its variance would be 0.
        """
        rest = self.header.train_images % self.recipe.batch_size
        smallest = rest if rest and not self.recipe.drop_last else self.recipe.batch_size
        rows = trace(self.planned, (1, self.planned.spec.in_channels, *self.transform.size))
        single_pixel = not self.recipe.freeze_statistics and any(
            row.kind == "norm" and prod(row.output_shape[2:]) == 1 for row in rows
        )
        if smallest < workers * (2 if single_pixel else 1):
            why = "each needs two, since a norm sees one pixel of each image" if single_pixel else "each needs one"
            raise RecipeError(
                f"$.batch_size: the smallest batch has {smallest} of the images, for {workers} at work, and {why}; "
                "set drop_last or another batch_size"
            )

    def _move(self, **changes: float) -> None:
        """Change the position in the header."""
        position = msgspec.structs.replace(self.header.position, **changes)
        self.header = msgspec.structs.replace(self.header, position=position)

    def _identity(self) -> int:
        """Return a number that is equal for workers with equal images, recipe, network and weights."""
        texts = {
            "spec": self.planned.spec.to_json(),
            "recipe": self.recipe.to_json(),
            "images": f"{self.header.train_digest} {self.data.test.digest()}",
        }
        return int(digest(self.start.weights, texts)[:4], 16)  # few digits: their sum is exact in float32 too

    def _total(self, *values: float) -> tuple[float, ...]:
        """Wait for all workers, and return the sum of each value over them."""
        return tuple(self.learner.total(np.array(values, np.float64)).tolist())

    def _must_stop(self) -> bool:
        """Whether any worker got a stop signal; the answer is the same for all workers at the same step."""
        return any(self._total(self.stop_request.signal))

    def _train_epoch(self) -> None:
        """Train the rest of an epoch, evaluate and save.

        Raises:
            TrainingStopped: after a stop signal.
            DataError: if an image cannot be read; all workers end before this step, and the first one saves.
        """
        recipe, learner = self.recipe, self.learner
        batches = self._batches()
        stream = self._until_unreadable(batches)
        classes, step = self.planned.spec.num_classes, self.header.step
        waiting: tuple[Batch, Outcome] | None = None
        self.clock = time.perf_counter()
        batch = next(stream, None)
        while True:
            # The same for all workers, before the same step.
            signals, unreadable = self._total(self.stop_request.signal, self.unreadable is not None)
            stop = bool(signals or unreadable)
            if stop or batch is None:
                break
            goal = targets(batch.labels, classes, recipe.label_smoothing, batch.size)
            outcome = learner.step(batch.pixels, goal, float(self.rates[step]))
            if waiting is not None:  # the step before is read while this one runs
                self._count(*waiting)
            waiting, step = (batch, outcome), step + 1
            batch = next(stream, None)
        if waiting is not None:
            self._count(*waiting)
        if unreadable:
            self._stop(self.unreadable or DataError("another worker could not read an image of its share"))
        if not stop and self.header.position.batch == batches.total:
            try:
                stop = not self._finish_epoch()
            except DataError as error:
                if learner.workers > 1:  # others wait in the evaluation
                    raise
                self._stop(error)
        if stop:
            self._stop()

    def _batches(self, **settings: int) -> Batches:
        """Return this worker's training batches from the header's position to the end of the epoch."""
        return Batches(
            self.data.train,
            self.transform,
            self.recipe.batch_size,
            seed=self.recipe.seed,
            epoch=self.header.position.epoch,
            first=self.header.position.batch,
            rank=self.learner.rank,
            workers=self.learner.workers,
            drop_last=self.recipe.drop_last,
            kept=self.kept_train,
            **settings,
        )

    def _until_unreadable(self, batches: Batches) -> Iterator[Batch]:
        """Yield the batches up to one that cannot be read, and keep the error in ``unreadable``."""
        try:
            yield from batches
        except DataError as error:
            self.unreadable = error

    def _count(self, batch: Batch, outcome: Outcome) -> None:
        """Wait for a step's outcome and add it to the epoch's sums."""
        loss, outputs = outcome()
        if not np.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at {self._where(self.header.step + 1)}; {self._last_good()}")
        now, last = time.perf_counter(), self.header.position
        self._move(
            batch=last.batch + 1,
            loss=last.loss + loss * batch.size,
            correct=last.correct + int((outputs.argmax(axis=1) == batch.labels).sum()),
            seen=last.seen + len(batch.labels),
            seconds=last.seconds + now - self.clock,
        )
        self.clock = now
        at = self.header.position
        images = min(at.batch * self.recipe.batch_size, self.header.train_images)
        self._report(at.epoch + 1, at.loss / at.seen, at.correct / at.seen, images / at.seconds)

    def _finish_epoch(self) -> bool:
        """Evaluate, record and save the epoch; return False if a stop signal came before the evaluation ended."""
        learner, position = self.learner, self.header.position
        loss, correct, seen = self._total(position.loss, position.correct, position.seen)
        self._share_statistics()
        size = self.recipe.batch_size
        means = evaluate_split(
            learner, self.data.test, self.transform, size, kept=self.kept_test, stopped=self._must_stop
        )
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
        history = (*self.header.history, record)
        self.header = msgspec.structs.replace(self.header, position=Position(epoch=record.epoch), history=history)
        if self.folder is not None:
            self._save(self.folder)
        self._report(record.epoch, record.train_loss, record.train_accuracy, record.images_per_second, record)
        return True

    def _share_statistics(self) -> None:
        """Copy the first worker's running statistics, which the checkpoint holds, to all workers."""
        if self.learner.workers == 1:
            return
        statistics = {name: array for name, array in self.learner.dump()[0].items() if is_statistic(name)}
        if not statistics:
            return
        flat = np.concatenate([array.ravel() for array in statistics.values()]).astype(np.float64)
        total = self.learner.total(flat if self.learner.rank == 0 else np.zeros_like(flat))
        parts = np.split(total, np.cumsum([array.size for array in statistics.values()])[:-1])
        shared = zip(statistics.items(), parts, strict=True)
        self.learner.load({name: part.astype(array.dtype) for (name, array), part in shared}, {})

    def _save(self, folder: Path) -> None:
        """Write the checkpoint and the metrics; raise TrainingError if a weight is not finite."""
        weights, velocity = self.learner.dump()
        self.header = msgspec.structs.replace(self.header, loss_scaling=self.learner.loss_scaling())
        broken = first_not_finite(weights)
        if broken is not None:
            raise TrainingError(
                f"{broken} is no longer finite after {self._where(self.header.step)}; {self._last_good()}"
            )
        save_checkpoint(folder, Checkpoint(self.planned.spec, self.header, weights, velocity), self.keep)
        write_metrics(folder, self.header.history)

    def _stop(self, error: DataError | None = None) -> None:
        """Save, in all workers at the same step; raise the error, or TrainingStopped. Only the first one says where."""
        at = self.header.position
        loss, correct, seen = self._total(at.loss, at.correct, at.seen)
        self._move(loss=loss, correct=int(correct), seen=int(seen))
        message = ""
        if self.folder is not None:
            self._save(self.folder)
            message = self._stopped(self.folder)
        self._total(0)
        if error is not None:
            raise DataError("; ".join(filter(None, (str(error), message))))
        raise TrainingStopped(message, self.stop_request.signal or SIGTERM)

    def _stopped(self, folder: Path) -> str:
        """Return where a run was saved, and how to go on with it."""
        again = f"resnet-xf train --resume {shlex.quote(str(folder))}"
        return f"stopped after {self._where(self.header.step)}; go on with `{again}`"

    def _where(self, step: int) -> str:
        """Return a step's number and epoch in words."""
        epoch = max(step - 1, 0) // self.header.steps_per_epoch + 1
        return f"step {step} of {self.steps} (epoch {epoch} of {self.recipe.epochs})"

    def _last_good(self) -> str:
        """Return the end of a failed run's message: its last good checkpoint, and what to do."""
        checkpoints = list_checkpoints(self.out) if self.out is not None else []
        if not checkpoints:
            return "begin anew with a lower learning rate"
        path = shlex.quote(str(checkpoints[-1]))
        return f"the last good checkpoint is {path}; begin anew with a lower --lr, from there by --weights {path}"

    def _report(
        self, epoch: int, loss: float, accuracy: float, speed: float, record: EpochRecord | None = None
    ) -> None:
        """Call the callback, on the first worker; if nobody reads its output any more, request a stop."""
        if self.callback is not None and self.learner.rank == 0:
            step = self.header.step
            try:
                self.callback(Progress(epoch, self.recipe.epochs, step, self.steps, loss, accuracy, speed, record))
            except BrokenPipeError:
                if self.folder is None:
                    raise
                self.callback, self.stop_request.signal = None, SIGPIPE  # save, and stop
