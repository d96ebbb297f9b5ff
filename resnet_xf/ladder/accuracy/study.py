"""Rung 10's runs: one network trained from several seeds on several backends, each run in a process of its own."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from signal import SIGTERM
from subprocess import DEVNULL, PIPE, Popen
from tempfile import TemporaryDirectory
from typing import IO, Any

import msgspec
import numpy as np

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.backend.learner import TIMEOUT
from resnet_xf.backend.registry import get_backend
from resnet_xf.backend.workers import (
    COMPLAINT,
    LOOK,
    PARENT,
    TO_SAVE,
    complain,
    end_with_parent,
    how_it_ended,
    threads_each,
)
from resnet_xf.data import ArraySplit, Dataset, Split, load_dataset
from resnet_xf.errors import CheckpointError, ResNetXFError, TrainingError, TrainingStopped, one_line
from resnet_xf.support.documents import Document
from resnet_xf.support.files import list_checkpoints
from resnet_xf.support.signals import asked_to_stop
from resnet_xf.training.checkpoint import EpochRecord, Header, load_checkpoint
from resnet_xf.training.loop import Progress
from resnet_xf.training.recipe import Recipe, check_recipe
from resnet_xf.training.runs import prepare, resume, train

Callback = Callable[[int, int, str], object]

COMMAND = (sys.executable, "-c", "from resnet_xf.ladder.accuracy.study import main; main()")
"""What a run's process is; the file of its :class:`Job` follows. Not ``-m``: a package may import this module first."""

SAME = ("dataset", "recipe", "train_images", "train_digest", "classes", "mean", "std", "backend")
"""What the header of a run that is found must have in common with the one that is asked for."""

PAUSE = 0.25
"""Seconds between two lines in which a run tells how far it is."""


class Job(Document, frozen=True, kw_only=True):
    """What one process trains, in ``folder``: a run, of which ``header`` is as it was before the first step."""

    title = "a job"
    error = TrainingError

    spec: ResNetSpec
    header: Header
    device: str
    folder: str

    def __str__(self) -> str:
        return f"{self.header.backend} seed {self.header.recipe.seed}"


class Told(msgspec.Struct, frozen=True):
    """A line from a run's process: how many of its steps are done, and more in words."""

    step: int
    text: str


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """What the runs gave.

    Attributes:
        seeds: of the runs, in order.
        histories: by backend, for each seed every epoch's record.
        found: how many of the runs were there already, from an earlier call.
    """

    seeds: tuple[int, ...]
    histories: dict[str, tuple[tuple[EpochRecord, ...], ...]]
    found: int = 0

    @property
    def accuracies(self) -> dict[str, tuple[float, ...]]:
        """By backend, for each seed the accuracy on the test images after the last epoch, in percent."""
        return {
            backend: tuple(round(100 * history[-1].test_accuracy, 9) for history in histories)
            for backend, histories in self.histories.items()
        }


def train_seeds(
    planned: Plan,
    dataset: str,
    recipe: Recipe,
    backends: Sequence[str],
    seeds: Sequence[int],
    *,
    out: str | Path,
    data_dir: str | Path | None = None,
    device: str = "auto",
    jobs: int | None = None,
    callback: Callback = lambda done, total, text: None,
) -> Study:
    """Train a network by one recipe from every seed on every backend, and go on with the runs that were begun before.

    The runs of one seed begin with the same weights and see the same images in the same order. Each has a folder
    ``SPEC-BACKEND-seedN``, which keeps one checkpoint; calling this again trains only what is not finished.

    Args:
        planned: the network; grey images are shown to one of three channels as three equal ones.
        dataset: what :func:`resnet_xf.data.load_dataset` takes.
        recipe: its seed is replaced.
        backends: names, as :func:`resnet_xf.backend.registry.get_backend` takes them.
        seeds: all different.
        out: the folder of the runs' folders.
        data_dir: where the data set's files are, if not to be fetched.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``, for every run.
        jobs: how many runs are trained at a time, the processors' threads shared out among them; if None, as many as
            there are processors. Never more than there are runs.
        callback: told of steps done, of all steps, both over all runs, and in words what was done.

    Raises:
        ResNetXFError: of the kind of what is wrong, before anything is trained; CheckpointError if a folder holds
            another run; TrainingError if a run fails, which names it; TrainingStopped after SIGINT or SIGTERM, once
            the checkpoints are written.
    """
    if sys.platform == "win32":
        raise TrainingError("runs in several processes cannot be stopped on Windows; use Linux, or a container of it")
    if "DMLC_ROLE" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        raise TrainingError("a study starts its processes itself; start it without torchrun and DMLC_ variables")
    backends = tuple(get_backend(name).name for name in backends)
    recipes = tuple(check_recipe(msgspec.structs.replace(recipe, seed=seed)) for seed in seeds)
    for what, given in (("backends", backends), ("seeds", seeds := tuple(one.seed for one in recipes))):
        if len(set(given)) < max(1, len(given)):
            got = ", ".join(map(str, given)) or "none"
            raise TrainingError(f"{what}: at least one, and each once, must be named; got {got}")
    if jobs is not None and jobs < 1:
        raise TrainingError(f"jobs: at least 1 run must be trained at a time, got {jobs}")
    jobs = min(jobs or int(threads_each(1)), len(backends) * len(seeds))
    runs = _prepare(planned, dataset, recipes, backends, Path(out).resolve(), data_dir, device)
    found = sum(run.finished for run in runs.values())
    _train_all(tuple(runs.values()), jobs, callback)
    histories = {backend: tuple(runs[backend, seed].history for seed in seeds) for backend in backends}
    return Study(seeds=seeds, histories=histories, found=found)


def _prepare(
    planned: Plan,
    dataset: str,
    recipes: Sequence[Recipe],
    backends: Sequence[str],
    out: Path,
    data_dir: str | Path | None,
    device: str,
) -> dict[tuple[str, int], _Run]:
    """The runs by backend and seed, those of one seed together; with all checked that can be before the first step."""
    data = images_for(planned.spec, load_dataset(dataset, data_dir))
    settings: dict[str, Any] = {"device": device, "preset": "tuned", "keep": 1, "timeout": TIMEOUT, "callback": None}
    begun = prepare(
        planned, data, recipes[0], backend=backends[0], out=None, weights=None, data_dir=data_dir, **settings
    )
    begun.check_shares(1)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be a study's folder: {error.strerror}; choose another") from None
    runs = {}
    for recipe in recipes:
        for backend in backends:
            header = msgspec.structs.replace(begun.header, recipe=recipe, backend=backend)
            folder = str(out / f"{planned.spec.name}-{backend}-seed{recipe.seed}")
            run = _Run(Job(spec=planned.spec, header=header, device=device, folder=folder))
            run.look()
            runs[backend, recipe.seed] = run
    return runs


def images_for(spec: ResNetSpec, data: Dataset) -> Dataset:
    """A data set as a network is shown it: grey images in three equal channels where it takes three."""
    if (data.channels, spec.in_channels) != (1, 3):
        return data
    return replace(data, channels=3, train=_in_three(data.train), test=_in_three(data.test))


def _in_three(split: Split) -> Split:
    if isinstance(split, ArraySplit):  # whose arrays must have as many channels as are asked for
        return replace(split, images=np.broadcast_to(split.images, (*split.images.shape[:3], 3)))
    return split


@dataclass(eq=False)
class _Run:
    """One run as the parent sees it: how many of its steps are done, and its finished epochs."""

    job: Job
    done: int = 0
    history: tuple[EpochRecord, ...] = ()

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.job.header.recipe.epochs * self.job.header.steps_per_epoch

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return len(self.history) >= self.job.header.recipe.epochs

    def look(self) -> None:
        """Read how far the folder's run is, if there is one.

        Raises:
            CheckpointError: if it is another run; names the folder and the field that differs.
        """
        if not list_checkpoints(self.job.folder):
            return
        found, wanted = load_checkpoint(self.job.folder), self.job.header
        pairs: list[tuple[str, Any, Any]] = [("spec", found.spec, self.job.spec)]
        pairs += ((name, getattr(found.header, name), getattr(wanted, name)) for name in SAME)
        pairs += (("backend", record.backend, wanted.backend) for record in found.header.history)
        if self.job.device != "auto":
            kind = self.job.device.partition(":")[0]
            pairs += (("device", record.device.partition(":")[0], kind) for record in found.header.history)
        if differs := next(filter(None, (_difference(*pair) for pair in pairs)), None):
            raise CheckpointError(
                f"{self.job.folder}: holds another run: {differs}; choose another folder for the study, or take it away"
            )
        self.history, self.done = found.header.history, found.header.step


def _difference(name: str, there: Any, asked: Any) -> str | None:
    """The first field, by its path, that is not as asked for, and what it is."""
    if isinstance(there, msgspec.Struct) and isinstance(asked, msgspec.Struct):
        fields = asked.__struct_fields__
        found = (_difference(f"{name}.{field}", getattr(there, field), getattr(asked, field)) for field in fields)
        return next(filter(None, found), None)
    return None if there == asked else f"its {name} is {there}, and {asked} was asked for"


@dataclass(eq=False)
class _Child:
    """A run's process."""

    run: _Run
    process: Popen[bytes]
    pipe: IO[bytes]
    complaint: Path
    unread: bytes = b""

    def read(self, selector: DefaultSelector) -> list[Told]:
        """What it has told since; the pipe is done with once its other end is closed."""
        some = os.read(self.pipe.fileno(), 65536)
        if not some:
            self.close(selector)
        *lines, self.unread = (self.unread + some).split(b"\n")
        return [msgspec.json.decode(line, type=Told) for line in lines]

    def close(self, selector: DefaultSelector) -> None:
        """Listen no more."""
        if not self.pipe.closed:
            selector.unregister(self.pipe)
            self.pipe.close()

    def how(self) -> str:
        """How it ended, if it did not end well, in a line."""
        if self.complaint.exists():
            return f"{self.run.job}: {self.complaint.read_text()}"
        return f"{self.run.job} {how_it_ended(self.process.returncode)}"


def _start(run: _Run, folder: Path, threads: str, selector: DefaultSelector) -> _Child:
    """Start a run's process, in a process group of its own, so that Ctrl-C reaches this process alone."""
    name = Path(run.job.folder).name
    job, complaint = folder / f"{name}.json", folder / f"{name}.complaint"
    job.write_text(run.job.to_complete_json(), encoding="utf-8")
    variables = {PARENT: str(os.getpid()), COMPLAINT: str(complaint), "OMP_NUM_THREADS": threads}
    process = Popen([*COMMAND, str(job)], env={**os.environ, **variables}, stdin=DEVNULL, stdout=PIPE, process_group=0)
    assert process.stdout is not None
    child = _Child(run, process, process.stdout, complaint)
    selector.register(child.pipe, EVENT_READ, child)
    return child


def _train_all(runs: Sequence[_Run], jobs: int, callback: Callback) -> None:
    """Train what is not finished, some at a time, in order; where one fails, the others are asked to save and stop."""

    def tell(of: _Run, text: str) -> None:
        callback(sum(run.done for run in runs), sum(run.steps for run in runs), f"{of.job}: {text}")

    def tell_end(of: _Run) -> None:
        tell(of, f"test accuracy {of.history[-1].test_accuracy:.2%} after epoch {of.history[-1].epoch}")

    for run in runs:
        if run.finished:
            tell_end(run)
    waiting = deque(run for run in runs if not run.finished)
    children: list[_Child] = []
    failures: list[str] = []
    until = inf
    with (
        TemporaryDirectory() as folder,
        DefaultSelector() as selector,
        asked_to_stop(heeded=True, tell=True) as wish,
    ):
        try:
            while (children or waiting) and time.monotonic() < until:
                stopping = bool(wish.signal or failures)
                if stopping and until == inf:
                    waiting.clear()
                    until = time.monotonic() + TO_SAVE
                    for child in children:
                        child.process.send_signal(SIGTERM)
                while waiting and len(children) < jobs:
                    children.append(_start(waiting.popleft(), Path(folder), threads_each(jobs), selector))
                for key, _ in selector.select(LOOK):
                    for told in key.data.read(selector):
                        key.data.run.done = told.step
                        tell(key.data.run, told.text)
                for child in [child for child in children if child.process.poll() is not None]:
                    child.close(selector)
                    children.remove(child)
                    if child.process.returncode == 0:
                        child.run.look()
                    if child.run.finished:
                        tell_end(child.run)
                    elif not stopping:
                        failures.append(child.how())
        finally:
            for child in children:
                child.process.kill()
                child.process.wait()
                child.close(selector)
    again = "the same command goes on with what is left, from the last checkpoints"
    if failures:
        raise TrainingError(f"{'; '.join(failures)}; {again}")
    if left := sum(not run.finished for run in runs):
        raise TrainingStopped(f"stopped with {len(runs) - left} of {len(runs)} runs done; {again}", wish.signal)


def main() -> None:
    """Do the job whose file the command line names: a run's own process."""
    end_with_parent()
    told = os.dup(1)
    os.dup2(2, 1)  # what a framework prints is not for the parent
    os.set_blocking(told, False)
    try:
        work(Job.read(sys.argv[1]), told)
    except ResNetXFError as error:
        complain(str(error))
        sys.exit(128 + error.signal if isinstance(error, TrainingStopped) else 2)
    except Exception as error:
        traceback.print_exc()
        complain(f"{type(error).__name__}: {one_line(error)}")
        sys.exit(1)


def work(job: Job, told: int) -> None:
    """Train a run to its end, from its last checkpoint if there is one; ``told`` is the pipe for how far it is."""
    last = -inf

    def tell(at: Progress) -> None:
        nonlocal last
        if at.record is None and time.monotonic() < last + PAUSE:
            return
        last = time.monotonic()
        line = msgspec.json.encode(Told(at.step, f"epoch {at.epoch}/{at.epochs} loss {at.loss:.2f}")) + b"\n"
        with suppress(BlockingIOError, BrokenPipeError):  # a parent that is busy holds nothing up, and misses a line
            os.write(told, line)

    header, network = job.header, plan(job.spec)
    data = images_for(job.spec, load_dataset(header.dataset, header.data_dir, progress=False))
    settings: dict[str, Any] = {"backend": header.backend, "device": job.device, "data_dir": header.data_dir, "keep": 1}
    if list_checkpoints(job.folder):
        resume(job.folder, network, dataset=data, callback=tell, **settings)
    else:
        train(network, data, header.recipe, out=job.folder, callback=tell, **settings)


if __name__ == "__main__":
    main()
