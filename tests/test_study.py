import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from helpers.processes import children
from helpers.runs import RECIPE, TINY
from resnet_xf import evaluate, load_dataset, plan, resume, train
from resnet_xf.data.splits import pixel_statistics
from resnet_xf.errors import (
    BackendError,
    CheckpointError,
    DataError,
    RecipeError,
    SpecError,
    TrainingError,
    TrainingStopped,
)
from resnet_xf.ladder.accuracy import study
from resnet_xf.ladder.accuracy.equivalence import compare
from resnet_xf.ladder.accuracy.study import Study, prepare_seeds
from resnet_xf.support import processes
from resnet_xf.support.environment import processors
from resnet_xf.support.files import list_checkpoints, locked
from resnet_xf.training.checkpoint import load_checkpoint, save_checkpoint
from resnet_xf.training.evaluation import images_for
from resnet_xf.training.recipe import Schedule

BACKENDS = ("torch", "mxnet")
SEEDS = (3, 11)
replace = msgspec.structs.replace
ONE = replace(RECIPE, name="one", epochs=1, schedule=Schedule())
LONG = replace(RECIPE, name="long", epochs=2, schedule=Schedule())


@pytest.fixture(autouse=True)
def guarded(monkeypatch):
    """No test hangs; and runs take one thread each, since two that wait for each other crawl where others work too."""

    def give_up(number, frame) -> None:
        raise TimeoutError("waited in vain")

    monkeypatch.setattr(study, "threads_each", lambda jobs: "1")
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def silent(done: int, total: int, text: str) -> None:
    pass


def go(
    out, recipe=ONE, backends=BACKENDS, seeds=SEEDS, spec=TINY, dataset="digits", callback=silent, **settings
) -> Study:
    settings = {"device": "cpu"} | settings
    return prepare_seeds(plan(spec), dataset, recipe, backends, seeds, out=out, **settings).train(callback)


@pytest.mark.parametrize("jobs", [1, 2])
def test_runs_at_the_same_time_share_the_memory_for_images(tmp_path, monkeypatch, jobs: int) -> None:
    monkeypatch.setattr(study, "kept_memory", lambda asked: 1000)
    prepared = prepare_seeds(plan(TINY), "digits", ONE, BACKENDS, SEEDS, out=tmp_path, device="cpu", jobs=jobs)
    assert {run.job.max_memory for run in prepared.runs.values()} == {1000 // jobs}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study's folder, what it gave and what it told."""
    out, told = tmp_path_factory.mktemp("study"), []
    threads = os.environ["OMP_NUM_THREADS"]  # with as many as this process has, a run is the same to the bit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "threads_each", lambda jobs: threads)
        found = go(out, jobs=processors() // int(threads), callback=lambda *args: told.append(args))
    return out, found, told


@pytest.fixture
def no_process(monkeypatch) -> None:
    """A study that would train anything fails."""
    monkeypatch.setattr(processes.Supervisor, "start", None)


def test_every_run_is_the_one_that_train_gives(finished) -> None:
    _, found, _ = finished
    for place, (backend, seed) in enumerate(zip(BACKENDS, SEEDS, strict=True)):  # one seed's here, the other's there
        (wanted,) = train(TINY, "digits", replace(ONE, seed=seed), backend=backend, device="cpu").history
        (record,) = found.histories[backend][place]
        assert found.accuracies[backend][place] == round(100 * wanted.test_accuracy, 9)
        for field in ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "backend", "workers"):
            assert getattr(record, field) == getattr(wanted, field)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Study) == found
    assert compare(*BACKENDS, found.accuracies, SEEDS, margin=100).verdict == "equivalent"


def test_runs_have_folders_of_their_own_with_one_checkpoint(finished) -> None:
    out, _, _ = finished
    assert {run.name for run in out.iterdir()} == {f"tiny-{b}-seed{s}" for b in BACKENDS for s in SEEDS}
    for run in out.iterdir():
        assert [path.name for path in list_checkpoints(run)] == ["step-00000045.safetensors"]
        header = load_checkpoint(run).header
        assert run.name == f"tiny-{header.backend}-seed{header.recipe.seed}"


def test_the_callback_is_told_how_far_all_runs_are(finished) -> None:
    _, _, told = finished
    done = [at for at, _, _ in told]
    assert done == sorted(done)
    assert (done[-1], {total for _, total, _ in told}) == (180, {180})
    for backend in BACKENDS:
        for seed in SEEDS:
            mine = [text for _, _, text in told if text.startswith(f"{backend} seed {seed}: ")]
            assert mine[0].startswith(f"{backend} seed {seed}: epoch 1/1 loss ")
            assert mine[-1].endswith("% after epoch 1")
    assert "seed 3" in told[0][2]  # the first seed's runs come first


def test_a_finished_study_is_read_back(finished, no_process) -> None:
    out, found, _ = finished
    told = []
    assert found.already_trained == 0
    assert go(out, callback=lambda *args: told.append(args)) == replace(found, already_trained=4)
    assert [(done, total) for done, total, _ in told] == [(180, 180)] * 4
    assert [text.partition(":")[0] for _, _, text in told] == [f"{b} seed {s}" for s in SEEDS for b in BACKENDS]
    assert go(out, backends=("MXNet",), seeds=(11,)).accuracies == {"mxnet": found.accuracies["mxnet"][1:]}


def test_a_folder_of_another_run_is_refused_by_name(finished, no_process, monkeypatch) -> None:
    out, _, _ = finished
    digits = load_dataset("digits")
    half = dataclasses.replace(digits, train=digits.train.take(np.arange(700)))
    others = dataclasses.replace(digits.train, labels=digits.train.labels[::-1])
    wrong = {
        "its recipe.batch_size is 32, and 64 was asked for": {"recipe": replace(ONE, batch_size=64)},
        "its recipe.optimizer.momentum is 0.9, and 0.5 was": {"recipe": replace(ONE, optimizer=replace(ONE.optimizer, momentum=0.5))},
        "its recipe.epochs is 1, and 2 was": {"recipe": replace(ONE, epochs=2)},
        "its spec.stem.width is 8, and 12 was": {"spec": replace(TINY, stem=replace(TINY.stem, width=12))},
        "its spec.in_channels is 1, and 3 was": {"spec": replace(TINY, in_channels=3)},
        "its dataset is digits, and others was": {"dataset": dataclasses.replace(digits, name="others")},
        "its train_images is 1438, and 700 was": {"dataset": half},
        "its train_digest is [0-9a-f]{32}, and [0-9a-f]{32} was": {"dataset": dataclasses.replace(digits, train=others)},
    }  # fmt: skip
    for message, change in wrong.items():
        data = change.pop("dataset", digits)
        monkeypatch.setattr(study, "load_dataset", lambda *_, data=data: data)
        with pytest.raises(CheckpointError, match=rf"tiny-torch-seed3: holds another run: {message}") as refused:
            go(out, **change)
        assert "\n" not in str(refused.value)


def test_a_run_that_another_backend_trained_in_part_is_refused(finished, no_process, tmp_path) -> None:
    out, _, _ = finished
    found = load_checkpoint(out / "tiny-torch-seed3")
    for backend in BACKENDS:  # as it is, and as if its last steps had been on the other
        changed = dataclasses.replace(found, header=replace(found.header, backend=backend))
        save_checkpoint(tmp_path / "tiny-mxnet-seed3", changed, keep=1)
        with pytest.raises(CheckpointError, match="tiny-mxnet-seed3: .*its backend is torch, and mxnet was asked for"):
            go(tmp_path, seeds=(3,))


def test_a_run_on_another_device_is_refused(finished, no_process) -> None:
    out, _, _ = finished
    run = study._Run(
        study.Job(
            spec=TINY,
            header=load_checkpoint(out / "tiny-torch-seed3").header,
            device="cuda:0",
            folder=str(out / "tiny-torch-seed3"),
        )
    )
    with pytest.raises(CheckpointError, match="its device is cpu, and cuda was asked for"):
        run.read_progress()


def test_what_is_wrong_is_told_before_anything_is_trained(no_process, tmp_path, monkeypatch) -> None:
    wrong = {
        "no backend is called 'jax'": (BackendError, {"backends": ("torch", "jax")}),
        "backends: at least one, and each once, must be named; got torch, torch": (TrainingError, {"backends": ("torch", "pytorch")}),
        "backends: at least one, and each once, must be named; got none": (TrainingError, {"backends": ()}),
        "seeds: at least one, and each once, must be named; got 1, 1": (TrainingError, {"seeds": (1, 1)}),
        "seeds: at least one, and each once, must be named; got none": (TrainingError, {"seeds": ()}),
        r"\$\.seed: expected `int` >= 0": (RecipeError, {"seeds": (1, -1)}),
        r"\$\.batch_size": (RecipeError, {"recipe": replace(ONE, batch_size=0)}),
        r"\$\.drop_last: leaves no batch of": (RecipeError, {"recipe": replace(ONE, batch_size=5000, drop_last=True)}),
        r"\$\.batch_size: the smallest batch has 1 of": (RecipeError, {"recipe": replace(ONE, batch_size=1437, image_size=(2, 2))}),
        "jobs: at least 1 run must be trained at a time, got 0": (TrainingError, {"jobs": 0}),
        "no data set is called 'nope'": (DataError, {"dataset": "nope"}),
        "digits: its labels go up to 9 and tiny has 5 classes": (DataError, {"spec": replace(TINY, num_classes=5)}),
        "cannot be a study's folder: (File exists|Not a directory); choose another": (CheckpointError, {"out": __file__}),
    }  # fmt: skip
    for message, (error, change) in wrong.items():
        with pytest.raises(error, match=message) as refused:
            go(**{"out": tmp_path / "out"} | change)
        assert "\n" not in str(refused.value)
    with pytest.raises(SpecError):
        go(tmp_path / "out", spec=replace(TINY, num_classes=-1))
    monkeypatch.setenv("DMLC_ROLE", "worker")
    with pytest.raises(TrainingError, match="start it without torchrun and DMLC_ variables"):
        go(tmp_path / "out")


def test_grey_images_have_three_equal_channels_for_a_network_of_three(tmp_path) -> None:
    digits, spec = load_dataset("digits"), replace(TINY, in_channels=3)
    assert images_for(TINY, digits) is digits
    shown = images_for(spec, digits)
    assert shown.channels == 3
    assert pixel_statistics(shown.train, 3) == tuple(3 * numbers for numbers in pixel_statistics(digits.train, 1))
    for split, wanted in ((shown.train, digits.train), (shown.test, digits.test)):
        assert split.digest() == wanted.digest()
        assert split.stack(np.arange(2), 3).shape == (2, 8, 8, 3)
        np.testing.assert_array_equal(np.asarray(split.image(1, 3)), np.asarray(wanted.image(1, 3)))
    run = train(spec, shown, ONE, backend="torch", device="cpu", out=tmp_path / "run")
    assert evaluate(run.path, device="cpu").accuracy == run.history[-1].test_accuracy
    assert resume(run.path, epochs=2, device="cpu").history[:1] == run.history
    colour = dataclasses.replace(shown, channels=3)
    assert images_for(TINY, colour) is colour  # and check_fit refuses it


def test_a_run_s_complaint_names_the_run(tmp_path) -> None:
    with (
        locked(tmp_path / "tiny-mxnet-seed0"),
        pytest.raises(TrainingError, match=r"^mxnet seed 0: .*tiny-mxnet-seed0: another process trains there.*; the same command goes on") as refused,
    ):  # fmt: skip
        go(tmp_path, backends=("mxnet",), seeds=(0, 1), jobs=1)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "tiny-mxnet-seed1").exists()


ACTING = """
import os, sys, time
from resnet_xf.training.loop import Progress
from resnet_xf.ladder.accuracy import study

def act(network, data, recipe, *, backend, out, callback, **settings):
    {}

study.train = act
study.main()
"""


def acting(monkeypatch, *lines: str) -> None:
    """What every run's process does in place of training."""
    monkeypatch.setattr(study, "COMMAND", (sys.executable, "-c", ACTING.format("\n    ".join(lines))))


def test_what_nobody_foresaw_is_told_in_a_line(monkeypatch, tmp_path, capfd) -> None:
    acting(monkeypatch, "print('a framework speaks', flush=True)", "raise ValueError('one\\ntwo')")
    with pytest.raises(TrainingError, match="^torch seed 5: ValueError: one; the same command goes on"):
        go(tmp_path, backends=("torch",), seeds=(5,))
    out, err = capfd.readouterr()
    assert not out
    assert "a framework speaks" in err
    assert "Traceback" in err


def test_a_process_that_ends_without_a_word_is_told_of(monkeypatch, tmp_path) -> None:
    acting(monkeypatch, "os._exit(recipe.seed)")
    for seed in (0, 7):
        with pytest.raises(TrainingError, match=f"^torch seed {seed} ended with exit code {seed}; "):
            go(tmp_path, backends=("torch",), seeds=(seed,))


def test_names_of_classes_may_be_longer_than_a_command_line(monkeypatch, tmp_path) -> None:
    digits = load_dataset("digits")
    long = dataclasses.replace(digits, classes=tuple(name * 50_000 for name in digits.classes))
    acting(monkeypatch, "os._exit(9)")
    with pytest.raises(TrainingError, match="^torch seed 3 ended with exit code 9"):
        go(tmp_path, backends=("torch",), seeds=(3,), dataset=long)


def test_jobs_share_the_threads_and_a_failure_ends_the_others(monkeypatch, tmp_path) -> None:
    acting(
        monkeypatch,
        "if (backend, recipe.seed) != ('mxnet', 3):",
        "    time.sleep(1000)",
        "study.report_failure(os.environ['OMP_NUM_THREADS'] + ' threads')",
        "os._exit(2)",
    )
    monkeypatch.setattr(study, "threads_each", lambda jobs: str(12 // jobs))
    with pytest.raises(TrainingError, match="^mxnet seed 3: 6 threads; "):
        go(tmp_path, jobs=2)
    with pytest.raises(TrainingError, match="^mxnet seed 3: 3 threads; "):
        go(tmp_path)  # 12 processors, and no more than the four runs
    with pytest.raises(TrainingError, match="^mxnet seed 3: 12 threads; "):
        go(tmp_path, backends=("mxnet",), jobs=1)


def test_a_callback_that_is_slow_holds_no_run_up(monkeypatch, tmp_path) -> None:
    acting(
        monkeypatch,
        "for step in range(1, 20_001):",  # far more than a pipe holds
        "    callback(Progress(1, 1, step, 45, 0.5, 0.5, 1.0, record='an epoch'))",
        "open(out + '.done', 'w').close()",
        "time.sleep(1)",
        "os._exit(9)",
    )
    told = []

    def wait(*args) -> None:
        while not (tmp_path / "tiny-torch-seed3.done").exists():
            time.sleep(0.05)
        told.append(args)

    with pytest.raises(TrainingError, match="^torch seed 3 ended with exit code 9"):
        go(tmp_path, backends=("torch",), seeds=(3,), callback=wait)
    steps = [done for done, _, _ in told]
    assert steps == sorted(set(steps))
    assert len(steps) < 20_000
    assert {(total, text) for _, total, text in told} == {(45, "torch seed 3: epoch 1/1 loss 0.50")}
    assert len(told) < 20_000


in_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")


@in_proc
def test_a_callback_that_fails_leaves_no_process(monkeypatch, tmp_path) -> None:
    def fail(*told) -> None:
        raise KeyError("a bar that is closed")

    acting(monkeypatch, "callback(Progress(1, 1, 1, 45, 0.5, 0.5, 1.0))", "time.sleep(1000)")
    with pytest.raises(KeyError, match="a bar"):
        go(tmp_path, jobs=2, callback=fail)
    assert not children(os.getpid())


def command_of(pid: int) -> str:
    """Its command line; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@in_proc
def test_a_run_that_is_killed_is_named_and_goes_on(tmp_path) -> None:
    killed = []

    def kill(done: int, total: int, text: str) -> None:
        if not killed and text.startswith("mxnet seed 1: epoch"):
            for pid in children(os.getpid()):
                if "mxnet-seed1" in command_of(pid):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    settings = {"recipe": LONG, "backends": ("mxnet",), "seeds": (1, 2), "jobs": 2}
    with pytest.raises(TrainingError, match="^mxnet seed 1 was killed by SIGKILL; the same command goes on"):
        go(tmp_path, **settings, callback=kill)
    assert not children(os.getpid())
    before = {run.name: load_checkpoint(run).header.step for run in tmp_path.iterdir() if list_checkpoints(run)}
    assert before["tiny-mxnet-seed1"] < 90
    told = []
    found = go(tmp_path, **settings, callback=lambda *args: told.append(args))
    assert told[0][0] >= sum(before.values())
    assert told[-1][:2] == (180, 180)
    assert [[record.epoch for record in history] for history in found.histories["mxnet"]] == [[1, 2]] * 2


UNGUARDED = """
import sys
from resnet_xf import Recipe, ResNetSpec, plan
from resnet_xf.errors import TrainingStopped
from resnet_xf.ladder.accuracy.study import prepare_seeds

folder = sys.argv[1]
try:
    prepare_seeds(
        plan(ResNetSpec.read(f"{folder}/spec.json")), "digits", Recipe.read(f"{folder}/recipe.json"), ["mxnet"], [0, 1],
        out=f"{folder}/out", device="cpu", jobs=2,
    ).train(lambda *told: print(*told, flush=True))
except TrainingStopped as stopped:
    print(stopped, flush=True)
    sys.exit(128 + stopped.signal)
"""


def unguarded(folder: Path, spec, recipe) -> subprocess.Popen:
    """A script without a ``__main__`` guard, as the leader of a process group, which has begun to train."""
    (folder / "spec.json").write_text(spec.to_json())
    (folder / "recipe.json").write_text(recipe.to_json())
    (folder / "script.py").write_text(UNGUARDED)
    process = subprocess.Popen(
        [sys.executable, folder / "script.py", folder],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "default"},
    )
    assert "mxnet seed" in process.stdout.readline()
    return process


@in_proc
def test_ctrl_c_saves_and_the_same_call_goes_on(tmp_path) -> None:
    spec = replace(TINY, in_channels=3)
    process = unguarded(tmp_path, spec, LONG)
    try:
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does, to the whole group in the foreground
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT
    assert "stopped with 0 of 2 runs done; the same command goes on with what is left" in out.splitlines()[-1]
    assert "Traceback" not in err
    assert err.count("stopping, as soon as the checkpoint is written") == 1
    left = [run for run in (tmp_path / "out").iterdir() if list_checkpoints(run)]
    steps = sum(load_checkpoint(run).header.step for run in left)
    assert 0 < steps < 180
    told = []
    found = go(tmp_path / "out", LONG, ("mxnet",), (0, 1), spec, jobs=2, callback=lambda *args: told.append(args))
    assert told[0][0] >= steps
    assert [[record.epoch for record in history] for history in found.histories["mxnet"]] == [[1, 2]] * 2


@in_proc
def test_runs_end_with_the_process_that_started_them(tmp_path) -> None:
    process = unguarded(tmp_path, TINY, replace(LONG, epochs=10_000))
    started = children(process.pid)
    process.kill()
    try:
        process.communicate(timeout=60)  # the runs have the same stderr
        assert len(started) == 2
        while any(Path(f"/proc/{pid}").exists() for pid in started):
            time.sleep(0.05)
    finally:
        for pid in started:
            if "tiny-mxnet" in command_of(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_signal_to_this_process_stops_the_runs(tmp_path) -> None:
    def stop(done: int, total: int, text: str) -> None:
        if not stopped:
            stopped.append(text)
            os.kill(os.getpid(), signal.SIGTERM)

    stopped: list[str] = []
    with pytest.raises(TrainingStopped, match="^stopped with 0 of 1 runs done") as error:
        go(tmp_path, LONG, ("mxnet",), (2,), callback=stop)
    assert error.value.signal == signal.SIGTERM
    assert 0 < load_checkpoint(tmp_path / "tiny-mxnet-seed2").header.step < 90
