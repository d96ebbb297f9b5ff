"""The commands on parity: parity, capture, capture-script."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.cli import options
from resnet_xf.cli.application import new_app
from resnet_xf.cli.options import check_outputs, not_none, option, read_bytes
from resnet_xf.cli.printing import ProgressBar, by_sign, echo, print_json, print_table
from resnet_xf.errors import EvidenceError, SpecError, WeightsError, escaped
from resnet_xf.formats.files import is_checkpoint, read_checkpoint
from resnet_xf.formats.identify import identify
from resnet_xf.ladder.capture import script
from resnet_xf.ladder.capture.against import capture, parity_against
from resnet_xf.ladder.capture.evidence import Manifest, read_manifest
from resnet_xf.ladder.climb import parity
from resnet_xf.ladder.report.html import write_html
from resnet_xf.ladder.report.junit import write_junit
from resnet_xf.ladder.report.report import Level, Report, check_level
from resnet_xf.ladder.rungs.accuracy import Trial
from resnet_xf.support.optional import optional

app = new_app()

NETWORK = "A name from `resnet-xf list`, a .toml or .json file, or a checkpoint that `inspect` recognises."
LevelName = Annotated[
    Level | None,
    option(
        "quick: inference, seconds; standard: also gradients and training steps, a minute for resnet18 "
        "on 2 cores; full: also learning curves and accuracies, minutes.",
        default="standard",
        metavar="LEVEL",
        parser=check_level,
    ),
]
Images = Annotated[
    Path | None, option("Folder of images.", default="scikit-learn's photographs; its digits for one channel")
]
Weights = Annotated[
    Path | None, option("A checkpoint of this network, in any format `convert` reads.", default="random")
]
Seed = Annotated[int | None, option("Seed of the random weights and of the training batches.", default="0", min=0)]
Precisions = Annotated[
    str, option("Further precisions of the forward pass, by comma: bfloat16, float16, tf32 (on a GPU).")
]
MaxMemory = Annotated[
    int | None,
    option("Memory for the layers' tensors, as 500M or 2G.", default="1G", metavar="SIZE", parser=read_bytes),
]
Accuracy = Annotated[bool, option("Also train, and compare accuracies, as level full does.", "--accuracy")]
DataSet = Annotated[str | None, option("Data set for the accuracies, as in `train`.", default="digits")]
Epochs = Annotated[int | None, option("Epochs for the accuracies.", default="the recipe's", min=1)]
Seeds = Annotated[int | None, option("Number of pairs of runs for the accuracies.", default="5", min=2)]
Margin = Annotated[
    float | None, option("Largest difference of accuracies that is no failure, in percentage points.", default="2.0")
]
Runs = Annotated[
    Path | None, option("Folder of the accuracies' runs; unfinished runs resume.", default="one under runs/")
]
Jobs = Annotated[int | None, option("Runs at a time for the accuracies.", default="one for each core", min=1)]


@app.command("parity")
def parity_(
    spec: Annotated[str | None, typer.Argument(metavar="SPEC", help=NETWORK, show_default=False)] = None,
    backends: Annotated[
        str | None, option("Backends to compare, by comma; the first is the reference.", default="all installed")
    ] = None,
    level: LevelName = None,
    against: Annotated[
        list[Path] | None,
        option(
            "A folder from `capture`, in place of a backend; may be repeated. Or a file from `capture-script`.",
            metavar="CAPTURE",
        ),
    ] = None,
    image_size: options.ImageSize = None,
    images: Images = None,
    weights: Weights = None,
    prefix: options.Prefix = None,
    seed: Seed = None,
    device: options.Device = "cpu",
    precision: Precisions = "",
    max_memory: MaxMemory = None,
    accuracy: Accuracy = False,
    dataset: DataSet = None,
    recipe: options.RecipeName = None,
    epochs: Epochs = None,
    seeds: Seeds = None,
    margin: Margin = None,
    runs: Runs = None,
    data_dir: options.DataDir = None,
    jobs: Jobs = None,
    html: Annotated[Path | None, option("Also write the report as one HTML file.")] = None,
    junit: Annotated[Path | None, option("Also write the report as JUnit XML, one test a rung.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Prove that backends build the same network from a spec.

    The networks are compared rung by rung, up to the first rung that fails; its layer is named. Exit code 1 if a rung
    fails, 3 if one is inconclusive.
    """
    check_outputs(html, junit)
    if html is not None:
        optional("jinja2", "an HTML report is made by Jinja")
    if spec is None and not against:
        raise SpecError("name a network from `resnet-xf list`, or a capture by --against")
    captured = [read_manifest(path) for path in against or () if not path.is_file()]
    trained = [manifest for manifest in captured if "train" not in manifest.cannot]
    all_known = bool(trained) and all(manifest.trial for manifest in trained)
    trial = _trial(
        next(iter(trained or captured), spec or ""),
        accuracy or level == "full" or (level is None and all_known),
        epochs,
        data_dir,
        not_none(dataset=dataset, recipe=recipe, seeds=seeds, margin=margin, out=runs, jobs=jobs),
        prefix,
    )
    with ProgressBar() as bar:
        shared: dict[str, Any] = {
            "device": device,
            "max_memory": max_memory,
            "trial": trial,
            "on_rung": lambda number, name, share: bar.update(share, 1.0, f"rung {number}: {name}"),
        }
        if against:
            if images or image_size or precision:
                raise EvidenceError("a capture brings its images, their size and precisions; leave out those options")
            network, file = _expected(spec, weights, prefix)
            report = parity_against(
                against, backends, spec=network, weights=file, prefix=prefix, seed=seed, level=level, **shared
            )
        else:
            report = parity(
                spec or "",
                backends,
                level=level or "standard",
                image_size=image_size,
                images=images,
                weights=weights,
                prefix=prefix,
                seed=seed or 0,
                precisions=_names(precision),
                **shared,
            )
    report = msgspec.structs.replace(report, command=escaped(shlex.join(["resnet-xf", *sys.argv[1:]])))
    if as_json:
        typer.echo(report.to_json())
    else:
        print_report(report)
    if html:
        write_html(report, html)
    if junit:
        write_junit(report, junit)
    raise typer.Exit(0 if report.holds else 1 if report.failure else 3)


@app.command("capture-script")
def capture_script() -> None:
    """Print a file that records an MXNet network on Python 3.6.

    It needs NumPy and MXNet 1.3 or later, and nothing of this package. There, run `python capture.py net-symbol.json
    net-0000.params --out evidence.npz`; here, `resnet-xf parity tuned.pth --against evidence.npz`.
    """
    typer.echo(Path(script.__file__).read_text(encoding="utf-8"), nl=False)


@app.command("capture")
def capture_(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help=NETWORK)],
    out: Annotated[Path, option("Folder to write; it must be new or empty.")],
    backend: options.BackendName = None,
    level: LevelName = None,
    image_size: options.ImageSize = None,
    images: Images = None,
    weights: Weights = None,
    prefix: options.Prefix = None,
    seed: Seed = None,
    device: options.Device = "cpu",
    precision: Precisions = "",
    max_memory: MaxMemory = None,
    accuracy: Accuracy = False,
    dataset: DataSet = None,
    recipe: options.RecipeName = None,
    epochs: Epochs = None,
    seeds: Seeds = None,
    runs: Runs = None,
    data_dir: options.DataDir = None,
    jobs: Jobs = None,
    as_json: options.AsJson = False,
) -> None:
    """Record one backend's results for `parity --against`.

    The comparison can then run on another machine or in another environment.
    """
    settings = not_none(dataset=dataset, recipe=recipe, seeds=seeds, out=runs, jobs=jobs)
    with ProgressBar() as bar:
        manifest = capture(
            spec,
            out,
            backend,
            level=level or "standard",
            image_size=image_size,
            images=images,
            weights=weights,
            prefix=prefix,
            seed=seed or 0,
            device=device,
            precisions=_names(precision),
            trial=_trial(spec, accuracy or level == "full", epochs, data_dir, settings, prefix),
            max_memory=max_memory,
            tell=lambda text, share: bar.update(share, 1.0, text),
        )
    size = sum(path.stat().st_size for path in out.iterdir())
    if as_json:
        network = {"capture": str(out), "bytes": size, "network": manifest.spec.name, "level": manifest.level}
        print_json(network | {"backend": manifest.backend, "version": manifest.backend_version})
        return
    echo(
        f"{manifest.spec.name} on {manifest.backend} {manifest.backend_version}, level {manifest.level}: "
        f"{size / 2**20:,.0f} MiB in {out}"
    )
    for lack in manifest.cannot.values() if manifest.level != "quick" else ():
        echo(f"{lack}; the rungs that need it are left out")
    echo(f"compare it on any machine: resnet-xf parity --against {shlex.quote(str(out))}")


def _expected(spec: str | None, weights: Path | None, prefix: str | None) -> tuple[Plan | None, Path | None]:
    """Return the network and the weights that a capture must have; None for what may be anything.

    A checkpoint's network counts only if it is known for sure, and not guessed from names and shapes.
    """
    if spec is None or not is_checkpoint(spec):
        return plan(spec) if spec else None, weights
    if weights is not None:
        raise WeightsError(f"{spec}: is a checkpoint; leave out --weights, or name a spec in its place")
    file = read_checkpoint(spec, prefix)
    return identify(file).plan if file.spec or file.symbol else None, Path(spec)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _trial(
    network: str | Manifest,
    wanted: bool,
    epochs: int | None,
    data_dir: Path | None,
    settings: dict[str, Any],
    prefix: str | None = None,
) -> Trial | None:
    """Return the training runs that compare accuracies; None if they are not ``wanted`` and no option sets them."""
    if not (wanted or settings or epochs):
        return None
    if not network:  # evidence of an original, which parity_against refuses to compare by accuracies
        return Trial(data_dir=data_dir, **settings)
    if isinstance(network, str):
        spec = (identify(read_checkpoint(network, prefix)).plan if is_checkpoint(network) else plan(network)).spec
    else:
        spec = network.spec
        settings = ({"dataset": network.trial.dataset} if network.trial else {}) | settings
    trial = Trial(data_dir=data_dir, **settings)
    if trial.out is None:
        trial = replace(trial, out=Path("runs") / f"parity-{spec.name}-{trial.dataset.partition(':')[0]}")
    return replace(trial, recipe=msgspec.structs.replace(trial.resolved(), epochs=epochs)) if epochs else trial


def print_report(report: Report) -> None:
    """Print the rungs as a table, and the verdict."""
    versions = ", ".join(f"{name} {version}" for name, version in report.backends.items())
    echo(f"{report.network}: {versions}; {report.images}, {by_sign(report.input_shape)}; weights {report.weights}")
    rows = []
    for rung in report.rungs:
        numbers = ["" if number is None else f"{number:.3g}" for number in (rung.value, rung.bound)]
        what = f"{rung.where}: {rung.detail}" if rung.where else rung.detail
        rows.append((str(rung.number), rung.name, rung.status, *numbers, f"{rung.seconds:.2f}", what))
    print_table(("rung>", "compares", "result", "found>", "bound>", "seconds>", "what"), rows)
    echo(report.verdict())
