"""Rung 10's training runs: one network, trained from several seeds on several backends, each run in its own process."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import msgspec

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import Spec
from resnet_xf.backend.registry import get_backend
from resnet_xf.backend.workers import threads_each
from resnet_xf.data import Dataset, kept_memory, load_dataset
from resnet_xf.errors import CheckpointError, ResNetXFError, TrainingError, TrainingStopped, one_line
from resnet_xf.support.documents import Document
from resnet_xf.support.files import list_checkpoints
from resnet_xf.support.parent import Parent, connect, report_failure
from resnet_xf.support.processes import STDERR, Child, supervise
from resnet_xf.training.checkpoint import EpochRecord, Header, load_checkpoint
from resnet_xf.training.evaluation import images_for
from resnet_xf.training.loop import Progress
from resnet_xf.training.recipe import Recipe, check_recipe
from resnet_xf.training.runs import prepare, resume, train

Callback = Callable[[int, int, str], object]
"""Takes the number of steps done, the number of all steps, and what was done in words."""

COMMAND = (sys.executable, "-c", "from resnet_xf.ladder.accuracy.study import main; main()")
"""Command that starts the process of a run. The run's folder follows, to be seen in a list of processes. Not ``-m``: a
package may have imported this module before."""

SAME_FIELDS = ("dataset", "recipe", "train_images", "train_digest", "classes", "mean", "std", "backend")
"""Fields of a checkpoint's header that must equal those of the requested run, or the folder holds another run."""

PAUSE = 0.25
"""Seconds between two messages in which a run says how many steps it has done."""


class Job(Document, frozen=True, kw_only=True):
    """A training run that one child process does: a network, a backend, a recipe and its seed.

    Attributes:
        spec: the network.
        header: the run's checkpoint header before any step: backend, recipe, data set and so on.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        folder: the run's folder.
        max_memory: as in :func:`resnet_xf.train`. Runs at the same time share what one alone would take.
    """

    title = "a job"
    error = TrainingError

    spec: Spec
    header: Header
    device: str
    folder: str
    max_memory: int | None = None

    def __str__(self) -> str:
        return f"{self.header.backend} seed {self.header.recipe.seed}"


class StepDone(msgspec.Struct, frozen=True, tag=True):
    """A message from a run's process: the number of its last step, and a text with the epoch and the loss."""

    step: int
    text: str


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """The results of training runs from several seeds on several backends.

    Attributes:
        histories: for each backend and each seed, the records of all epochs.
        already_trained: how many of the runs an earlier call had finished.
    """

    histories: dict[str, tuple[tuple[EpochRecord, ...], ...]]
    already_trained: int = 0

    @property
    def accuracies(self) -> dict[str, tuple[float, ...]]:
        """For each backend and each seed, the test accuracy after the last epoch, in percent."""
        return {
            backend: tuple(round(100 * history[-1].test_accuracy, 9) for history in histories)
            for backend, histories in self.histories.items()
        }


def prepare_seeds(
    planned: Plan,
    dataset: Dataset | str,
    recipe: Recipe,
    backends: Sequence[str],
    seeds: Sequence[int],
    *,
    out: str | Path,
    data_dir: str | Path | None = None,
    device: str = "auto",
    jobs: int | None = None,
) -> PreparedStudy:
    """Prepare to train a network by one recipe, from every seed on every backend: check all that can be checked before.

    The runs of one seed begin with the same weights and see the same images in the same order. Each has a folder
    ``SPEC-BACKEND-seedN``, which keeps one checkpoint. Runs that were interrupted continue from it, and finished ones
    are not trained again.

    Args:
        planned: the network. If it takes three channels and the images are grey, it sees them in three equal channels.
        dataset: as :func:`resnet_xf.data.load_dataset` takes it.
        recipe: the recipe; its seed is replaced by each of ``seeds``.
        backends: names, as :func:`resnet_xf.backend.registry.get_backend` takes them.
        seeds: different integers, 0 or more.
        out: the folder that will hold the runs' folders.
        data_dir: the folder with the data set's files; if None they are fetched.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``, for every run.
        jobs: how many runs are trained at the same time; they share the processors' threads. One for each processor if
            None, and never more than there are runs.

    Raises:
        ResNetXFError: if an argument is wrong.
        CheckpointError: if a folder holds a different run.
    """
    if sys.platform == "win32":
        raise TrainingError("runs in several processes cannot be stopped on Windows; use Linux, or a container of it")
    if "DMLC_ROLE" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        raise TrainingError("a study starts its processes itself; start it without torchrun and DMLC_ variables")
    backends = tuple(get_backend(name).name for name in backends)
    recipes = tuple(check_recipe(msgspec.structs.replace(recipe, seed=seed)) for seed in seeds)
    for name, values in (("backends", backends), ("seeds", seeds := tuple(one.seed for one in recipes))):
        if len(set(values)) < max(1, len(values)):
            got = ", ".join(map(str, values)) or "none"
            raise TrainingError(f"{name}: at least one, and each once, must be named; got {got}")
    if jobs is not None and jobs < 1:
        raise TrainingError(f"jobs: at least 1 run must be trained at a time, got {jobs}")
    jobs = min(jobs or int(threads_each(1)), len(backends) * len(seeds))
    memory = kept_memory(None) // jobs
    data = images_for(planned.spec, load_dataset(dataset, data_dir))
    begun = prepare(planned, data, recipes[0], backend=backends[0], data_dir=data_dir, device=device, keep=1)
    begun.check_shares(1)
    out = Path(out).resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be a study's folder: {error.strerror}; choose another") from None
    runs = {}
    for one in recipes:
        for backend in backends:
            header = msgspec.structs.replace(begun.header, recipe=one, backend=backend)
            folder = str(out / f"{planned.spec.name}-{backend}-seed{one.seed}")
            run = _Run(Job(spec=planned.spec, header=header, device=device, folder=folder, max_memory=memory))
            run.read_progress()
            runs[backend, one.seed] = run
    return PreparedStudy(runs, jobs)


@dataclass(frozen=True)
class PreparedStudy:
    """Runs from several seeds on several backends, ready to be trained.

    Attributes:
        runs: by backend and seed.
        jobs: how many of them are trained at the same time.
    """

    runs: Mapping[tuple[str, int], _Run]
    jobs: int

    def train(self, callback: Callback) -> Study:
        """Train what is not finished, and return the records of all epochs of all runs.

        ``callback`` is called with the steps done and the steps in all, both over all runs, and a text.

        Raises:
            TrainingError: if a run fails; the message names it.
            TrainingStopped: after Ctrl-C or SIGTERM, once the checkpoints are written.
        """
        already_trained = sum(run.finished for run in self.runs.values())
        _train_all(tuple(self.runs.values()), self.jobs, callback)
        histories: dict[str, tuple[tuple[EpochRecord, ...], ...]] = {}
        for (backend, _), run in self.runs.items():
            histories[backend] = (*histories.get(backend, ()), run.history)
        return Study(histories=histories, already_trained=already_trained)


@dataclass(eq=False)
class _Run:
    """One training run, as the parent of its process sees it.

    Attributes:
        job: the run's settings, which its process gets.
        done: how many steps are done.
        history: the records of the finished epochs.
    """

    job: Job
    done: int = 0
    history: tuple[EpochRecord, ...] = ()

    @property
    def steps(self) -> int:
        """How many steps the whole run has."""
        return self.job.header.recipe.epochs * self.job.header.steps_per_epoch

    @property
    def finished(self) -> bool:
        """Whether all epochs are trained."""
        return len(self.history) >= self.job.header.recipe.epochs

    def read_progress(self) -> None:
        """Set ``done`` and ``history`` from the last checkpoint in the run's folder, if there is one.

        Raises:
            CheckpointError: if the checkpoint is of a different run; names the folder and the first field that differs.
        """
        if not list_checkpoints(self.job.folder):
            return
        checkpoint, requested = load_checkpoint(self.job.folder), self.job.header
        header = checkpoint.header
        pairs: list[tuple[str, Any, Any]] = [("spec", checkpoint.spec, self.job.spec)]
        pairs += ((name, getattr(header, name), getattr(requested, name)) for name in SAME_FIELDS)
        pairs += (("backend", record.backend, requested.backend) for record in header.history)
        if self.job.device != "auto":
            kind = self.job.device.partition(":")[0]
            pairs += (("device", record.device.partition(":")[0], kind) for record in header.history)
        if difference := next(filter(None, (_difference(*pair) for pair in pairs)), None):
            raise CheckpointError(
                f"{self.job.folder}: holds another run: {difference}; choose another folder for the study, or take it "
                "away"
            )
        self.history, self.done = header.history, header.step


def _difference(name: str, actual: Any, requested: Any) -> str | None:
    """Return a text on the first difference of two values, with the path of its field; None if they are equal.

    Structs are compared field by field. ``name``: the path so far.
    """
    if isinstance(actual, msgspec.Struct) and isinstance(requested, msgspec.Struct):
        fields = requested.__struct_fields__
        pairs = ((f"{name}.{field}", getattr(actual, field), getattr(requested, field)) for field in fields)
        return next(filter(None, (_difference(*pair) for pair in pairs)), None)
    return None if actual == requested else f"its {name} is {actual}, and {requested} was asked for"


def _train_all(runs: Sequence[_Run], jobs: int, callback: Callback) -> None:
    """Train the runs that are not finished, in order, ``jobs`` at a time. If one fails, the others save and stop.

    Raises:
        TrainingError: if a run failed; the message names it.
        TrainingStopped: after Ctrl-C or SIGTERM.
    """

    def report(run: _Run, text: str) -> None:
        callback(sum(run.done for run in runs), sum(run.steps for run in runs), f"{run.job}: {text}")

    def report_end(run: _Run) -> None:
        report(run, f"test accuracy {run.history[-1].test_accuracy:.2%} after epoch {run.history[-1].epoch}")

    for run in runs:
        if run.finished:
            report_end(run)
    waiting = deque(run for run in runs if not run.finished)
    by_child: dict[Child, _Run] = {}
    failures: list[str] = []
    with supervise() as supervisor:

        def start_some() -> None:
            while waiting and len(supervisor.running) < jobs and not supervisor.stopping:
                run = waiting.popleft()
                command, variables = [*COMMAND, run.job.folder], {"OMP_NUM_THREADS": threads_each(jobs)}
                child = supervisor.start(str(run.job), command, variables, StepDone, stdout=STDERR)
                child.send(run.job.to_complete_json())  # a command line has no room for a thousand names of classes
                by_child[child] = run

        start_some()
        for child, message in supervisor.events():
            run = by_child[child]
            if message is not None:
                run.done = message.step
                report(run, message.text)
                continue
            if child.exit_code == 0:
                run.read_progress()
            if run.finished:
                report_end(run)
            elif not supervisor.stopping:
                failures.append(f"{child.name}: {child.failure}" if child.failure else f"{child.name} {child.ending}")
                supervisor.stop()
            start_some()
    again = "the same command goes on with what is left, from the last checkpoints"
    if failures:
        raise TrainingError(f"{'; '.join(failures)}; {again}")
    if left := sum(not run.finished for run in runs):
        finished = len(runs) - left
        raise TrainingStopped(f"stopped with {finished} of {len(runs)} runs done; {again}", supervisor.request.signal)


def main() -> None:
    """Entry point of a run's process: train the :class:`Job` that its parent sends as JSON."""
    parent = connect()
    assert parent is not None
    try:
        work(Job.from_json(next(parent.messages(str))), parent)
    except ResNetXFError as error:
        report_failure(str(error))
        sys.exit(128 + error.signal if isinstance(error, TrainingStopped) else 2)
    except Exception as error:
        traceback.print_exc()
        report_failure(f"{type(error).__name__}: {one_line(error)}")
        sys.exit(1)


def work(job: Job, parent: Parent) -> None:
    """Train a run to its end, from its last checkpoint if there is one, and report its progress to the parent."""
    last = -inf

    def report(at: Progress) -> None:
        nonlocal last
        if at.record is None and time.monotonic() < last + PAUSE:
            return
        last = time.monotonic()
        parent.send(StepDone(at.step, f"epoch {at.epoch}/{at.epochs} loss {at.loss:.2f}"), droppable=True)

    header, network = job.header, plan(job.spec)
    data = images_for(job.spec, load_dataset(header.dataset, header.data_dir, progress=False))
    settings: dict[str, Any] = {"backend": header.backend, "device": job.device, "max_memory": job.max_memory}
    settings |= {"data_dir": header.data_dir, "keep": 1}
    if list_checkpoints(job.folder):
        resume(job.folder, network, dataset=data, callback=report, **settings)
    else:
        train(network, data, header.recipe, out=job.folder, callback=report, **settings)
