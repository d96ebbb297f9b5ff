"""What low precision costs: loss curves of training beside float32's, and how many predictions stay the same.

``python benchmarks/low_precision.py`` trains the book's ResNet-18 on scikit-learn's digits in each precision. Then each
backend's fast inference predicts the test images in each precision. It writes ``results/low_precision.json``,
``docs/low_precision.png`` and the tables in ``docs/throughput.md``. With ``--tables`` it measures nothing, and writes
picture and tables from the results that are there.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import DOCS, RESULTS, picture, read_results, write_between, write_results
from msgspec.structs import replace

from resnet_xf import ResNetSpec, Stage, Stem, get_recipe, optimize, plan, train
from resnet_xf.data import Batches, Dataset, Transform, load_dataset
from resnet_xf.data.splits import pixel_statistics
from resnet_xf.speed.bench.charts import COLOURS
from resnet_xf.support.environment import environment, hardware
from resnet_xf.training.runs import default_recipe

WAYS = {"torch": (("float32", "eager"), ("bfloat16", "best")), "mxnet": (("float32", "eager"), ("bfloat16", "best"))}
"""Precisions and presets in which each backend trains."""

FAST = ("float32", "bfloat16", "int8")

SMALL = ResNetSpec(
    name="small", in_channels=1, stem=Stem(kind="conv3", width=8), stages=(Stage(depth=1, channels=8),), num_classes=10
)
"""The network of ``--smoke``."""


def learn(
    options: argparse.Namespace, data: Dataset, backend: str, precision: str, preset: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train; return the losses, the accuracy and the speed, and then the weights."""
    recipe = get_recipe(default_recipe(options.dataset))
    recipe = replace(recipe, epochs=options.epochs or recipe.epochs, precision=precision)
    spec = replace(plan(options.spec).spec, num_classes=len(data.classes))
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
    result = {"backend": backend, "precision": precision, "preset": preset, "seconds": time.perf_counter() - start}
    result |= {"loss": losses, "train_loss": last.train_loss, "test_accuracy": last.test_accuracy}
    return result | {"images_per_second": last.images_per_second}, run.weights


def answers(options: argparse.Namespace, data: Dataset, weights: dict[str, Any], backend: str) -> list[dict[str, Any]]:
    """For each precision, the shares of test images predicted as float32 does and predicted right."""
    recipe = get_recipe(default_recipe(options.dataset))
    mean, std = recipe.augmentation.mean, recipe.augmentation.std
    if mean is None or std is None:
        mean, std = pixel_statistics(data.train, data.channels)
    spec = replace(plan(options.spec).spec, num_classes=len(data.classes))
    size = recipe.image_size or spec.image_size
    transform = Transform(size, data.channels, recipe.augmentation.crop, mean=mean, std=std)
    calibration = next(iter(Batches(data.train.take(np.arange(256)), transform, 256))).images
    tests = data.test.take(np.arange(min(options.images, len(data.test))))
    batches = list(Batches(tests, transform, 64))
    predictions: dict[str, Any] = {}
    for precision in FAST:
        preset = "tuned" if options.smoke and backend == "torch" and precision != "int8" else "best"  # compiles nothing
        fast = optimize(
            spec, backend, weights=weights, precision=precision, batch=64, calibration=calibration, preset=preset
        )
        predictions[precision] = np.concatenate([fast(batch.images).argmax(1) for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    return [
        {
            "backend": backend,
            "precision": precision,
            "images": len(labels),
            "agreement": float((predicted == predictions["float32"]).mean()),
            "accuracy": float((predicted == labels).mean()),
        }
        for precision, predicted in predictions.items()
    ]


def table(results: dict[str, Any]) -> str:
    """Markdown: a table of training, then one of inference."""
    lines = [f"{results['spec']} on {results['dataset']}, {results['epochs']} epochs:\n"]
    lines += ["| trained in | train loss | test accuracy | images/s |", "| --- | --- | --- | --- |"]
    for run in results["runs"]:
        name = f"{run['backend']} {run['precision']}, {run['preset']}"
        speed = f"{run['images_per_second']:,.0f}"
        lines.append(f"| {name} | {run['train_loss']:.4f} | {run['test_accuracy']:.2%} | {speed} |")
    lines += ["", "| answers of | as float32's | right | images |", "| --- | --- | --- | --- |"]
    for row in results["answers"]:
        name = f"{row['backend']} {row['precision']}"
        lines.append(f"| {name} | {row['agreement']:.2%} | {row['accuracy']:.2%} | {row['images']:,} |")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the loss at every step: the mean of the epoch so far."""
    with picture(path, 9, 3.2) as drawn:
        axes = drawn.subplots()
        looks = {"float32": "-", "bfloat16": "--"}
        for run in results["runs"]:
            label = f"{run['backend']} {run['precision']}, {run['preset']}"
            look = {"color": COLOURS[run["backend"]], "linestyle": looks[run["precision"]], "linewidth": 1.4}
            axes.plot(range(1, len(run["loss"]) + 1), run["loss"], label=label, **look)
        axes.set(xlabel="step", ylabel="training loss, mean of the epoch so far", yscale="log")
        axes.legend(fontsize=8, frameon=False)


def main() -> None:
    """Train, predict and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--spec", default="d2l_resnet18")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--epochs", type=int, help="in place of the recipe's")
    parser.add_argument("--images", type=int, default=10_000, help="most images of the test half to predict")
    parser.add_argument("--smoke", action="store_true", help="train a small network for one epoch, and keep nothing")
    parser.add_argument("--tables", action="store_true", help="write tables and picture from earlier results")
    options = parser.parse_args()
    path = RESULTS / "low_precision.json"
    if options.smoke:
        options.spec, options.epochs, options.images = SMALL, 1, 64
    if not options.tables:
        data = load_dataset(options.dataset, options.data_dir)
        runs, kept = [], {}
        for backend, ways in WAYS.items():
            for precision, preset in ways[-1:] if options.smoke else ways:
                run, weights = learn(options, data, backend, precision, preset)
                kept.setdefault(backend, weights)
                print(
                    f"{backend} {precision} {preset}: {run['test_accuracy']:.2%} in {run['seconds']:.0f} s",
                    flush=True,
                )
                runs.append(run)
        results = {
            "environment": environment() | hardware(),
            "spec": plan(options.spec).spec.name,
            "dataset": options.dataset,
            "epochs": options.epochs or get_recipe(default_recipe(options.dataset)).epochs,
            "runs": runs,
            "answers": [row for backend in WAYS for row in answers(options, data, kept[backend], backend)],
        }
        if options.smoke:
            print(table(results))
            with TemporaryDirectory() as folder:
                draw(results, Path(folder) / "picture.png")
            return
        write_results(path, results)
    results = read_results(path)
    write_between(DOCS / "throughput.md", "low precision", table(results))
    draw(results, DOCS / "low_precision.png")


if __name__ == "__main__":
    main()
