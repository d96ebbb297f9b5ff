"""What low precision costs a trained network: loss curves beside float32's, and how often the answers are the same.

``python benchmarks/low_precision.py`` trains the book's ResNet-18 on scikit-learn's digits in each precision, and asks
each backend's fast inference for its answers on the test images. It writes ``results/low_precision.json``,
``docs/low_precision.svg`` and the tables in ``docs/throughput.md``. ``--dataset fashion-mnist`` does so for that.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from msgspec.structs import replace
from throughput import DOCS, HERE, write_between

from resnet_xf import get_recipe, get_spec, optimize, train
from resnet_xf.data import Batches, Dataset, Transform, load_dataset
from resnet_xf.data.statistics import pixel_statistics
from resnet_xf.speed.bench.charts import COLOURS, figure
from resnet_xf.speed.bench.machine import environment
from resnet_xf.support.files import atomic
from resnet_xf.training.runs import default_recipe

WAYS = {"torch": (("float32", "eager"), ("bfloat16", "best")), "mxnet": (("float32", "eager"), ("bfloat16", "best"))}
"""In which each backend trains."""

FAST = ("float32", "bfloat16", "int8")


def learn(
    asked: argparse.Namespace, data: Dataset, backend: str, precision: str, preset: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's losses, accuracy and speed, and its weights."""
    recipe = get_recipe(default_recipe(asked.dataset))
    recipe = replace(recipe, epochs=asked.epochs or recipe.epochs, precision=precision)
    spec = replace(get_spec(asked.spec), num_classes=len(data.classes))
    losses: list[float] = []
    start = time.perf_counter()
    run = train(
        spec,
        data,
        recipe,
        backend=backend,
        device="cpu",
        preset=preset,
        callback=lambda at: losses.append(at.loss) if at.record is None else None,
    )
    last = run.history[-1]
    told = {"backend": backend, "precision": precision, "preset": preset, "seconds": time.perf_counter() - start}
    told |= {"loss": losses, "train_loss": last.train_loss, "test_accuracy": last.test_accuracy}
    return told | {"images_per_second": last.images_per_second}, run.weights


def answers(asked: argparse.Namespace, data: Dataset, weights: dict[str, Any], backend: str) -> list[dict[str, Any]]:
    """How often each precision gives float32's answer on the test images, and the right one."""
    recipe = get_recipe(default_recipe(asked.dataset))
    mean, std = recipe.augmentation.mean, recipe.augmentation.std
    if mean is None or std is None:
        mean, std = pixel_statistics(data.train, data.channels)
    spec = replace(get_spec(asked.spec), num_classes=len(data.classes))
    size = recipe.image_size or spec.image_size
    look = Transform(size, data.channels, recipe.augmentation.crop, mean=mean, std=std)
    shown = next(iter(Batches(data.train.take(np.arange(256)), look, 256))).images
    tests = data.test.take(np.arange(min(asked.images, len(data.test))))
    batches = list(Batches(tests, look, 64))
    found: dict[str, Any] = {}
    for precision in FAST:
        fast = optimize(spec, backend, weights=weights, precision=precision, batch=64, calibration=shown)
        found[precision] = np.concatenate([fast(batch.images).argmax(1) for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    return [
        {
            "backend": backend,
            "precision": precision,
            "images": len(labels),
            "agreement": float((got == found["float32"]).mean()),
            "accuracy": float((got == labels).mean()),
        }
        for precision, got in found.items()
    ]


def table(found: dict[str, Any]) -> str:
    """Markdown: training, then inference."""
    lines = [f"{found['spec']} on {found['dataset']}, {found['epochs']} epochs:\n"]
    lines += ["| trained in | train loss | test accuracy | images/s |", "| --- | --- | --- | --- |"]
    for run in found["runs"]:
        name = f"{run['backend']} {run['precision']}, {run['preset']}"
        speed = f"{run['images_per_second']:,.0f}"
        lines.append(f"| {name} | {run['train_loss']:.4f} | {run['test_accuracy']:.2%} | {speed} |")
    lines += ["", "| answers of | as float32's | right | images |", "| --- | --- | --- | --- |"]
    for row in found["answers"]:
        name = f"{row['backend']} {row['precision']}"
        lines.append(f"| {name} | {row['agreement']:.2%} | {row['accuracy']:.2%} | {row['images']:,} |")
    return "\n".join(lines) + "\n"


def draw(found: dict[str, Any], path: Path) -> None:
    """The losses, each epoch's mean so far at every step."""
    with figure() as new:
        drawn = new(figsize=(9, 3.2), layout="constrained")
        axes = drawn.subplots()
        looks = {"float32": "-", "bfloat16": "--"}
        for run in found["runs"]:
            label = f"{run['backend']} {run['precision']}, {run['preset']}"
            look = {"color": COLOURS[run["backend"]], "linestyle": looks[run["precision"]], "linewidth": 1.4}
            axes.plot(range(1, len(run["loss"]) + 1), run["loss"], label=label, **look)
        axes.set(xlabel="step", ylabel="training loss, mean of the epoch so far", yscale="log")
        axes.legend(fontsize=8, frameon=False)
        with atomic(path) as temporary:
            drawn.savefig(temporary, format="svg", metadata={"Date": None})


def main() -> None:
    """Train, ask and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--spec", default="d2l_resnet18")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--epochs", type=int, help="in place of the recipe's")
    parser.add_argument("--images", type=int, default=10_000, help="of the test half, at most")
    parser.add_argument("--smoke", action="store_true", help="one epoch of two runs, and nothing is kept")
    parser.add_argument("--tables", action="store_true", help="only write table and plot anew")
    asked = parser.parse_args()
    results = HERE / "results" / "low_precision.json"
    if asked.smoke:
        asked.epochs, asked.images = 1, 64
    if not asked.tables:
        data = load_dataset(asked.dataset, asked.data_dir)
        runs, kept = [], {}
        for backend, ways in WAYS.items():
            for precision, preset in ways[-1:] if asked.smoke else ways:
                told, weights = learn(asked, data, backend, precision, preset)
                kept.setdefault(backend, weights)
                print(
                    f"{backend} {precision} {preset}: {told['test_accuracy']:.2%} in {told['seconds']:.0f} s",
                    flush=True,
                )
                runs.append(told)
        found = {
            "environment": environment(),
            "spec": asked.spec,
            "dataset": asked.dataset,
            "epochs": asked.epochs or get_recipe(default_recipe(asked.dataset)).epochs,
            "runs": runs,
            "answers": [row for backend in WAYS for row in answers(asked, data, kept[backend], backend)],
        }
        if asked.smoke:
            print(table(found))
            with TemporaryDirectory() as folder:
                draw(found, Path(folder) / "plot.svg")
            return
        with atomic(results) as temporary:
            temporary.write_text(json.dumps(found, indent=2) + "\n")
    found = json.loads(results.read_text())
    write_between(DOCS / "throughput.md", "low precision", table(found))
    draw(found, DOCS / "low_precision.svg")


if __name__ == "__main__":
    main()
