"""Train a network on Fashion-MNIST with each backend, one after the other: losses, accuracies and speed.

``python benchmarks/fashion_mnist.py`` trains CIFAR's ResNet-20 for three epochs. For the book's network, run
``python benchmarks/fashion_mnist.py --spec d2l_resnet18 --recipe d2l --image-size 96 --name fashion_mnist_d2l``. It
prints a table and writes ``benchmarks/results/NAME.json`` and ``NAME.png``. The runs are kept: the same command
continues those that were stopped. Options after ``--`` go to ``resnet-xf train``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from common import BENCHMARKS, RESULTS, picture, read_results, write_results

from resnet_xf import get_backend, plan
from resnet_xf.cli.options import read_size
from resnet_xf.cli.printing import print_table
from resnet_xf.support.environment import environment, hardware, processors
from resnet_xf.support.files import list_checkpoints
from resnet_xf.training.checkpoint import Checkpoint, EpochRecord, load_checkpoint
from resnet_xf.training.recipe import get_recipe

PUBLISHED = {
    "source": "Dive into Deep Learning, Residual Networks (ResNet), the notebook in PyTorch",
    "measured here": False,
    "epochs": 10,
    "train_loss": 0.009,
    "train_accuracy": 0.998,
    "test_accuracy": 0.921,
}
"""The book's results of ``d2l_resnet18``."""

PLACES = ("--runs", "--data-dir", "--out")
"""Options that hold paths of one machine, and change nothing that is measured."""

RESUMED = ("--device", "--workers", "--keep", "--timeout")
"""Options of ``resnet-xf train`` that are passed on when a run resumes; the run's checkpoint holds all others."""

LINES = (("#d9480f", 2.6), ("#1864ab", 1.2), ("#2b8a3e", 0.8))
"""Each backend's colour and line width: the first is wider, so that it shows below a later one."""


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--spec", default="cifar_resnet20")
    parser.add_argument("--recipe", default=str(BENCHMARKS / "recipes" / "cifar_3_epochs.toml"))
    parser.add_argument("--image-size", default="28")
    parser.add_argument("--epochs", type=int, help="replaces the recipe's")
    parser.add_argument("--backends", default="torch,mxnet")
    parser.add_argument("--data-dir", help="folder of the data set's files (default: download them)")
    parser.add_argument("--runs", type=Path, help="folder of the runs (default: runs/NAME)")
    parser.add_argument("--name", default="fashion_mnist", help="name of the results' files")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--partial", action="store_true", help="train nothing, and report the runs as they are")
    parser.add_argument("--plot-only", action="store_true", help="only draw the picture from earlier results")
    parser.add_argument("--note", help="a remark to keep with the results")
    parser.add_argument("extra", nargs="*", metavar="-- OPTION", help="more options for `resnet-xf train`")
    parsed = parser.parse_args()
    parsed.runs = parsed.runs or Path("runs") / parsed.name
    return parsed


def command() -> str:
    """The command line of this program, without ``PLACES``."""
    kept, skip = ["python", f"benchmarks/{Path(__file__).name}"], False
    for word in sys.argv[1:]:
        place = word.partition("=")[0] in PLACES
        if not (place or skip):
            kept.append(word)
        skip = place and "=" not in word
    return shlex.join(kept)


def read(run: Path, options: argparse.Namespace) -> Checkpoint:
    """A run's last checkpoint; ends the program if its network or recipe is not the one in the options."""
    checkpoint = load_checkpoint(run)
    recipe, trained = get_recipe(options.recipe), checkpoint.header.recipe
    expected = plan(options.spec).spec.name, recipe.name, options.epochs or recipe.epochs, read_size(options.image_size)
    actual = checkpoint.spec.name, trained.name, trained.epochs, trained.image_size
    if actual != expected:
        sys.exit(f"{run}: is a run of {actual}, and the options name {expected}; choose another folder with --runs")
    return checkpoint


def train(run: Path, backend: str, options: argparse.Namespace) -> None:
    """Train to the end; a run that was stopped continues."""
    if list_checkpoints(run):
        header = read(run, options).header
        if header.position.epoch == header.recipe.epochs:
            return
        passed_on = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for option in RESUMED:
            passed_on.add_argument(option)
        values = vars(passed_on.parse_known_args(options.extra)[0])
        arguments = ["--resume", str(run), *(f"--{name}={value}" for name, value in values.items() if value)]
    else:
        arguments = [options.spec, "--dataset", "fashion-mnist", "--recipe", options.recipe, "--out", str(run)]
        arguments += ["--image-size", options.image_size, "--in-channels", "1"]
        arguments += [f"--epochs={options.epochs}"] if options.epochs else []
        arguments += options.extra
    if options.data_dir:
        arguments += ["--data-dir", options.data_dir]
    timed([sys.executable, "-m", "resnet_xf", "train", *arguments, "--backend", backend], run)


def timed(words: list[str], run: Path) -> None:
    """Run a command and append its seconds to the run's file of times; a question mark while it runs."""
    log = times(run)
    before = log.read_text() if log.exists() else "? " if run.exists() else ""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"{before}? ")
    begun = time.perf_counter()
    child = subprocess.Popen(words)
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C stops the child, which saves a checkpoint first
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    code = child.wait()
    log.write_text(f"{before}{time.perf_counter() - begun:.1f} ")
    if code:
        sys.exit(code)


def times(run: Path) -> Path:
    """The file that holds the seconds of each of a run's processes."""
    return run.with_name(f"{run.name}.seconds")


def summarize(run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A run's epochs, time and records, finished or not."""
    metrics, log = run / "metrics.jsonl", times(run)
    of = read(run, options).header.recipe.epochs
    records = msgspec.json.Decoder(EpochRecord).decode_lines(metrics.read_bytes()) if metrics.exists() else []
    seconds = log.read_text().split() if log.exists() else ["?"]
    return {
        "epochs": len(records),
        "of": of,
        "wall seconds": None if "?" in seconds else round(sum(map(float, seconds)), 1),
        "records": msgspec.to_builtins(records),
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw loss and accuracy against the epoch; the same results give the same bytes."""
    from matplotlib.ticker import MaxNLocator

    with picture(path, 10, 4) as figure:
        panels = figure.subplots(1, 2)
        for panel, what in zip(panels, ("loss", "accuracy"), strict=True):
            for (name, run), (colour, width) in zip(result["backends"].items(), LINES, strict=False):
                for part, style in (("train", "o--"), ("test", "o-")):
                    x, y = [[record[key] for record in run["records"]] for key in ("epoch", f"{part}_{what}")]
                    face = "white" if part == "train" else colour
                    panel.plot(x, y, style, color=colour, mfc=face, ms=4 + width, lw=width, label=f"{name}, {part}")
            panel.set(xlabel="epoch", title=what)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if "published" in result:
            at = result["published"]["test_accuracy"]
            panels[1].axhline(at, color="black", ls="--", lw=1, label=f"the book's notebook, test: {at}")
        figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        figure.suptitle(f"{result['spec']} on Fashion-MNIST, {result['recipe']['name']}")


def show(result: dict[str, Any]) -> None:
    """Print each backend's last epoch as a table."""
    rows = []
    formats = {"train_loss": ".4f", "train_accuracy": ".2%", "test_accuracy": ".2%", "images_per_second": ",.0f"}
    for name, run in result["backends"].items():
        last = [format(run["records"][-1][key], form) for key, form in formats.items()] if run["records"] else []
        rows.append((name, f"{run['epochs']} of {run['of']}", *last))
    print_table(("backend", "epochs>", "train loss>", "train accuracy>", "test accuracy>", "images/s>"), rows)


def main() -> None:
    """Train or read runs, write the results, draw and print."""
    options = parse_options()
    path = options.out / f"{options.name}.json"
    if options.plot_only:
        result = read_results(path)
    else:
        runs = {backend: options.runs / backend for backend in options.backends.split(",")}
        if options.partial:
            runs = {backend: run for backend, run in runs.items() if list_checkpoints(run)}
        for backend, run in runs.items():
            if not options.partial:
                train(run, backend, options)
        if not runs:
            sys.exit(f"{options.runs}: holds no runs")
        first = read(next(iter(runs.values())), options)
        result = {
            "command": command(),
            "environment": environment()
            | hardware()
            | {name: get_backend(name).version() for name in runs}
            | {"cores": processors(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")},
            "spec": first.spec.name,
            "recipe": msgspec.to_builtins(first.header.recipe),
            "backends": {backend: summarize(run, options) for backend, run in runs.items()},
        }
        if first.spec.name == "d2l_resnet18":
            result["published"] = PUBLISHED
        if options.note:
            result["note"] = options.note
        write_results(path, result)
    draw(result, path.with_suffix(".png"))
    show(result)


if __name__ == "__main__":
    main()
