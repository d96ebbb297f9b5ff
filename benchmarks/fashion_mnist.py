"""What a network learns on Fashion-MNIST, and how fast, on each backend, one after the other by the command line.

``python benchmarks/fashion_mnist.py`` trains CIFAR's ResNet-20 for three epochs, and the book's network is trained by
``python benchmarks/fashion_mnist.py --spec d2l_resnet18 --recipe d2l --image-size 96 --name fashion_mnist_d2l``. It
prints a table and writes ``benchmarks/results/NAME.json`` and ``NAME.svg``. The runs are kept: call it again to go on
with those that were stopped. Options behind ``--`` go to ``resnet-xf train``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from resnet_xf import get_backend, plan
from resnet_xf.cli.options import read_size
from resnet_xf.cli.printing import new_table, print_table
from resnet_xf.ladder.report.report import environment
from resnet_xf.support.files import list_checkpoints
from resnet_xf.training.checkpoint import Checkpoint, EpochRecord, load_checkpoint
from resnet_xf.training.recipe import get_recipe

HERE = Path(__file__).parent
PUBLISHED = {
    "source": "Dive into Deep Learning, Residual Networks (ResNet), the notebook in PyTorch",
    "measured here": False,
    "epochs": 10,
    "train_loss": 0.009,
    "train_accuracy": 0.998,
    "test_accuracy": 0.921,
}
"""What the book says of ``d2l_resnet18``."""

PLACES = ("--runs", "--data-dir", "--out")
"""Options that say where things are on one machine, and not what is measured."""

RESUMED = ("--device", "--workers", "--keep", "--timeout")
"""Options of ``resnet-xf train`` that a resumed run is given again; all others it remembers."""

LINES = (("#d9480f", 2.6), ("#1864ab", 1.2), ("#2b8a3e", 0.8))
"""Each backend's colour and width: a line that lies upon another leaves it to be seen."""


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--spec", default="cifar_resnet20")
    parser.add_argument("--recipe", default=str(HERE / "recipes" / "cifar_3_epochs.toml"))
    parser.add_argument("--image-size", default="28")
    parser.add_argument("--epochs", type=int, help="in place of the recipe's")
    parser.add_argument("--backends", default="torch,mxnet")
    parser.add_argument("--data-dir", help="the folder of the data set's files (else they are fetched)")
    parser.add_argument("--runs", type=Path, help="where the runs' folders are kept (else runs/NAME)")
    parser.add_argument("--name", default="fashion_mnist", help="of the results")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="the folder of the results")
    parser.add_argument("--partial", action="store_true", help="train nothing, and tell of the runs as they are")
    parser.add_argument("--plot-only", action="store_true", help="only draw again what the results say")
    parser.add_argument("--note", help="what a reader of the results should know")
    parser.add_argument("extra", nargs="*", metavar="-- OPTION", help="more options for `resnet-xf train`")
    found = parser.parse_args()
    found.runs = found.runs or Path("runs") / found.name
    return found


def command() -> str:
    """How this was called, without the places."""
    kept, skip = ["python", f"benchmarks/{Path(__file__).name}"], False
    for word in sys.argv[1:]:
        place = word.partition("=")[0] in PLACES
        if not (place or skip):
            kept.append(word)
        skip = place and "=" not in word
    return shlex.join(kept)


def read(run: Path, asked: argparse.Namespace) -> Checkpoint:
    """A run's last checkpoint; leaves if it is of another network or recipe than was asked for."""
    found = load_checkpoint(run)
    recipe, of = get_recipe(asked.recipe), found.header.recipe
    wanted = plan(asked.spec).spec.name, recipe.name, asked.epochs or recipe.epochs, read_size(asked.image_size)
    got = found.spec.name, of.name, of.epochs, of.image_size
    if got != wanted:
        sys.exit(f"{run}: is a run of {got}, and {wanted} was asked for; choose another folder by --runs")
    return found


def train(run: Path, backend: str, asked: argparse.Namespace) -> None:
    """Train to the end; go on where a run has been left."""
    if list_checkpoints(run):
        header = read(run, asked).header
        if header.position.epoch == header.recipe.epochs:
            return
        again = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for option in RESUMED:
            again.add_argument(option)
        given = vars(again.parse_known_args(asked.extra)[0])
        arguments = ["--resume", str(run), *(f"--{name}={value}" for name, value in given.items() if value)]
    else:
        arguments = [asked.spec, "--dataset", "fashion-mnist", "--recipe", asked.recipe, "--out", str(run)]
        arguments += ["--image-size", asked.image_size, "--in-channels", "1"]
        arguments += [f"--epochs={asked.epochs}"] if asked.epochs else []
        arguments += asked.extra
    if asked.data_dir:
        arguments += ["--data-dir", asked.data_dir]
    timed([sys.executable, "-m", "resnet_xf", "train", *arguments, "--backend", backend], run)


def timed(words: list[str], run: Path) -> None:
    """Run a command, and note beside the run how long it took; while that is not known, a question mark."""
    log = times(run)
    before = log.read_text() if log.exists() else "? " if run.exists() else ""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"{before}? ")
    begun = time.perf_counter()
    child = subprocess.Popen(words)
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the child, which saves its checkpoint and ends
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    code = child.wait()
    log.write_text(f"{before}{time.perf_counter() - begun:.1f} ")
    if code:
        sys.exit(code)


def times(run: Path) -> Path:
    """The file of the seconds that a run's processes took."""
    return run.with_name(f"{run.name}.seconds")


def told(run: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """What is known of a run, finished or not."""
    metrics, log = run / "metrics.jsonl", times(run)
    of = read(run, asked).header.recipe.epochs
    records = msgspec.json.Decoder(EpochRecord).decode_lines(metrics.read_bytes()) if metrics.exists() else []
    seconds = log.read_text().split() if log.exists() else ["?"]
    return {
        "epochs": len(records),
        "of": of,
        "wall seconds": None if "?" in seconds else round(sum(map(float, seconds)), 1),
        "records": msgspec.to_builtins(records),
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Loss and accuracy against the epoch, the same bytes for the same results."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "resnet-xf", "font.size": 10, "axes.grid": True, "grid.alpha": 0.3})
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", facecolor="white")
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
    figure.savefig(path, metadata={"Date": None})


def show(result: dict[str, Any]) -> None:
    """The last epochs as a table."""
    table = new_table("backend", "epochs>", "train loss>", "train accuracy>", "test accuracy>", "images/s>")
    formats = {"train_loss": ".4f", "train_accuracy": ".2%", "test_accuracy": ".2%", "images_per_second": ",.0f"}
    for name, run in result["backends"].items():
        last = [format(run["records"][-1][key], form) for key, form in formats.items()] if run["records"] else []
        table.add_row(name, f"{run['epochs']} of {run['of']}", *last)
    print_table(table)


def main() -> None:
    """Train or read, write, draw and print."""
    asked = options()
    path = asked.out / f"{asked.name}.json"
    if asked.plot_only:
        result = json.loads(path.read_text())
    else:
        runs = {backend: asked.runs / backend for backend in asked.backends.split(",")}
        if asked.partial:
            runs = {backend: run for backend, run in runs.items() if list_checkpoints(run)}
        for backend, run in runs.items():
            if not asked.partial:
                train(run, backend, asked)
        if not runs:
            sys.exit(f"{asked.runs}: holds no runs")
        first = read(next(iter(runs.values())), asked)
        result = {
            "command": command(),
            "environment": environment()
            | {name: get_backend(name).version() for name in runs}
            | {"cores": len(os.sched_getaffinity(0)), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")},
            "spec": first.spec.name,
            "recipe": msgspec.to_builtins(first.header.recipe),
            "backends": {backend: told(run, asked) for backend, run in runs.items()},
        }
        if first.spec.name == "d2l_resnet18":
            result["published"] = PUBLISHED
        if asked.note:
            result["note"] = asked.note
        asked.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")
    draw(result, path.with_suffix(".svg"))
    show(result)


if __name__ == "__main__":
    main()
