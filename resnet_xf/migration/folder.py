"""Migrating a checkpoint: weights, source, exported graphs, preprocessing and the report, in one new folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from resnet_xf.architecture.plan import Plan, plan
from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.weights import Array, Weights, cast_weights
from resnet_xf.backend.contract import Exports, WritesSource, require
from resnet_xf.backend.registry import get_backend, how_to_install, is_installed
from resnet_xf.codegen.writer import source as written_source
from resnet_xf.data import sample_images
from resnet_xf.data.images import image_files
from resnet_xf.errors import WeightsError, escaped
from resnet_xf.formats.convert import UNKNOWN, Conversion, convert, write_checkpoint
from resnet_xf.formats.description import Description, path_beside
from resnet_xf.formats.exported import running_exported
from resnet_xf.formats.exports import Check, compared, export
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.identify import Identity, identify
from resnet_xf.ladder.capture.against import parity_against
from resnet_xf.ladder.climb import backends_of, parity
from resnet_xf.ladder.report.html import write_html
from resnet_xf.ladder.report.report import Level, Report
from resnet_xf.support.files import new_folder
from resnet_xf.support.optional import optional
from resnet_xf.training.inference import Guess, Prepared, Usage, check_finite, most_likely, prepare

WEIGHTS, STATE, MODEL, PT2, ONNX = "weights.safetensors", "weights.pth", "model.py", "model.pt2", "model.onnx"
STEPS = 6

PREPROCESSING, REPORT, SUMMARY = "preprocessing.json", "report.html", "migration.json"

FILES = {
    WEIGHTS: "the weights, with the network and the preprocessing, for resnet-xf",
    STATE: "the weights as a state_dict of PyTorch",
    f"{STATE}.json": "the network, the preprocessing and the class names, where resnet-xf reads weights.pth",
    MODEL: "the network's source, which needs PyTorch alone",
    PT2: "network and weights for torch.export.load, which needs PyTorch alone",
    ONNX: "network and weights for ONNX Runtime",
    PREPROCESSING: "how images become tensors, and the class names, as far as they are known",
    REPORT: "the parity report",
    SUMMARY: "this summary for programs",
}
"""The files of the folder."""


class Compared(msgspec.Struct, frozen=True):
    """The likeliest classes of one image: of the original, empty if it could not run, and of the migrated network."""

    image: str
    before: tuple[Guess, ...]
    after: tuple[Guess, ...]


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration wrote and proved.

    Attributes:
        source: the file read.
        folder: the folder written.
        network: the name of the network.
        proof: with what the original was compared; None if with nothing.
        unproven: why it is not proven, and how it can be; empty if it is.
        checks: the comparisons of outputs: ours with the original, and each file with ours.
        ladder: the verdict of the parity report.
        ladder_holds: whether no rung of it failed.
        proven: whether the original was compared, and no rung failed or is inconclusive.
        files: by name in the folder, what each is.
        load: three lines of Python that load the network, run in the folder.
        usage: how the images were made into tensors; None without images.
        images: the likeliest classes before and after, for each image.
        notes: remarks of the conversion, and files that could not be written.
    """

    source: str
    folder: str
    network: str
    proof: str | None
    unproven: str
    checks: tuple[Check, ...]
    ladder: str
    ladder_holds: bool
    proven: bool
    files: dict[str, str]
    load: str
    usage: Usage | None = None
    images: tuple[Compared, ...] = ()
    notes: tuple[str, ...] = ()


def migrate(
    source: str | Path,
    out: str | Path,
    spec: Plan | Spec | str | None = None,
    *,
    prefix: str | None = None,
    keep_softmax: bool = False,
    against: str | Path | None = None,
    images: str | Path | Sequence[str | Path] | None = None,
    level: Level = "quick",
    on_step: Callable[[int, int, str], object] = lambda done, total, what: None,
) -> Migration:
    """Write everything that a PyTorch service needs of a checkpoint into a new folder, and prove that nothing changed.

    The folder gets what :data:`FILES` lists. It is written under another name and renamed at the end.

    Args:
        source: a file that :func:`resnet_xf.convert` reads. Its graph, ``-symbol.json``, should lie beside it.
        out: the folder; it must be new or empty.
        spec: the network, where the file does not tell it: a plan, a spec, the name of one, or the path of its file.
        prefix: of the network's names, if the file has more than this network.
        keep_softmax: keep the softmax at the end of a graph.
        against: a file that ``resnet-xf capture-script`` recorded of the original, where MXNet is not installed here.
        images: a folder of images, or files: the likeliest classes are compared, before and after.
        level: of the parity report: ``quick``, ``standard`` or ``full``. With ``against`` it goes as far as the file.
        on_step: called before each step with the number of steps done, of all, and what comes next.

    Raises:
        WeightsError: if the source is damaged or does not fit, outputs differ, or the folder is not empty.
        EvidenceError: if ``against`` is of another network.
        BackendError, MissingExtraError: if PyTorch or Jinja is not installed.
    """
    optional("jinja2", "the report is made by Jinja")
    get_backend("torch")
    if against is None:
        backends_of(None)  # the report compares two
    source, out = Path(source), Path(out).absolute()
    paths = [] if images is None else image_files(images) if isinstance(images, str | Path) else [*map(Path, images)]
    with new_folder(out, WeightsError) as folder:
        on_step(0, STEPS, "reading the file, and comparing with the original")
        conversion = convert(source, folder / WEIGHTS, spec, prefix=prefix, keep_softmax=keep_softmax)
        original = identify(read_checkpoint(source, prefix), spec, keep_softmax=keep_softmax)
        if paths and not conversion.spec.num_classes:
            raise WeightsError(f"{source}: has no head, so images have no classes; leave --images out")
        shown = prepare(folder / WEIGHTS, paths) if paths else None
        checks, notes = [*conversion.checks], [note for note in conversion.notes if not note.startswith(UNKNOWN)]
        if len(notes) < len(conversion.notes):
            notes.append(
                f"the preprocessing or the class names are not known; write them into {path_beside(source).name} "
                "beside the file, as docs/migrating.md shows, and migrate again"
            )
        checks += _write_files(folder, original, conversion.description or Description(), notes, on_step)
        on_step(4, STEPS, "the parity report")
        report = _report(original, folder / WEIGHTS, against, level)
        proof, unproven = _proof(conversion, against, report)
        origin = f"from {source}" + (f", which gives what {proof} gives" if proof else f"; {unproven}")
        named = spec if spec is None or isinstance(spec, str) else plan(spec).spec.name
        words = {"--out": out, "--spec": named, "--prefix": prefix, "--against": against}
        words["--images"] = images if isinstance(images, str | Path) else None
        options = [str(word) for key, value in words.items() if value for word in (key, value)]
        options += ["--keep-softmax"] if keep_softmax else []
        command = shlex.join(["resnet-xf", "migrate", str(source), "--level", level, *options])
        texts = {"weights": escaped(origin), "command": escaped(command)}
        write_html(msgspec.structs.replace(report, **texts), folder / REPORT)
        on_step(5, STEPS, "your images")
        usage, likeliest = _compare_images(folder, original, paths, shown)
        result = Migration(
            source=str(source),
            folder=str(out),
            network=conversion.spec.name,
            proof=proof,
            unproven=unproven,
            checks=tuple(msgspec.structs.replace(check, ours=check.ours.replace(f"{folder}/", "")) for check in checks),
            ladder=report.verdict(),
            ladder_holds=report.failure is None,
            proven=not unproven,
            files={name: what for name, what in FILES.items() if (folder / name).exists() or name == SUMMARY},
            load=require(get_backend("torch"), WritesSource).dialect.load,
            usage=usage,
            images=likeliest,
            notes=tuple(notes),
        )
        summary = json.dumps(msgspec.to_builtins(result), indent=2, ensure_ascii=False) + "\n"
        (folder / SUMMARY).write_bytes(summary.encode("utf-8", "backslashreplace"))  # a file's name may be no UTF-8
    return result


def _write_files(
    folder: Path,
    original: Identity,
    description: Description,
    notes: list[str],
    on_step: Callable[[int, int, str], object],
) -> list[Check]:
    """Write all that does not depend on the proof, and return the comparisons with our network."""
    planned, weights = original.plan, original.weights
    write_checkpoint(folder / STATE, weights, planned, description)
    on_step(1, STEPS, MODEL)
    (folder / MODEL).write_text(written_source(planned, "torch"), encoding="utf-8")
    checks = [_run_source(folder / MODEL, planned, weights)]
    for step, (name, backend) in enumerate(((PT2, "torch"), (ONNX, "onnx")), 2):
        on_step(step, STEPS, name)
        if is_installed(backend):
            checks += export(planned, weights, folder / name, description=description)
        else:
            notes.append(f"no {name}: {backend} is not installed; run {how_to_install(backend)}")
    for name in (PT2, ONNX):
        path_beside(folder / name).unlink(missing_ok=True)  # resnet-xf does not read these: they need no description
    described = msgspec.structs.replace(description, spec=planned.spec)
    (folder / PREPROCESSING).write_text(described.to_json(), encoding="utf-8")
    return checks


def _run_source(path: Path, planned: Plan, weights: Weights) -> Check:
    """Run the file of source that was written, and compare its network with ours in float64."""
    scope: dict[str, Any] = {"__name__": path.stem}
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), scope)
    backend, network = get_backend("torch"), scope["ResNet"]()
    backend.load(network, cast_weights(weights, "float32"))
    images = sample_images(planned.spec.in_channels, planned.spec.image_size)[:2]
    outputs = [backend.forward(network, images)]
    return compared(f"{path} in PyTorch", outputs, "torch", planned, weights, images, "float32")


def _report(original: Identity, weights: Path, against: str | Path | None, level: Level) -> Report:
    """The parity report: of all installed backends, or of PyTorch with what was recorded of the original."""
    if against is not None:
        return parity_against([against], "torch", spec=original.plan, weights=weights)
    return parity(original.plan, level=level, weights=original.weights)


def _proof(conversion: Conversion, against: str | Path | None, report: Report) -> tuple[str | None, str]:
    """What the original was compared as, or None and why it was not."""
    result = "fails" if report.failure else "is inconclusive"
    trouble = "" if report.holds else f"a rung of the parity report {result}; {REPORT} tells which"
    if against is not None:
        recorded = f"the original recorded in {against}"
        return (None, f"{recorded}: {trouble}") if trouble else (recorded, "")
    if conversion.graph is None:
        consequence = f"it is assumed to be {conversion.assumed}" if conversion.assumed else "the original was not run"
        return None, (
            f"the file has no graph, so {consequence}; migrate the original as MXNet's `network.export` writes it, a "
            ".params with its -symbol.json beside it, or give what `resnet-xf capture-script` recorded of the original "
            "(--against)"
        )
    for check in conversion.checks:
        if conversion.graph in check.theirs:
            return check.theirs, trouble
    return None, (
        f"MXNet is not installed, so {conversion.graph} was read operator by operator, and not run; record the "
        "original where MXNet is (resnet-xf capture-script), and give that file with --against"
    )


def _compare_images(
    folder: Path, original: Identity, paths: Sequence[Path], shown: Prepared | None
) -> tuple[Usage | None, tuple[Compared, ...]]:
    """The likeliest classes of the original and of the exported network, for each image."""
    if shown is None:
        return None, ()
    after = [require(get_backend("torch"), Exports).run_export(folder / PT2, batch) for batch in shown.inputs]
    check_finite(folder / PT2, after)
    before: list[Array] = []
    exported = original.exported
    if exported is not None and not exported.layer and is_installed("mxnet"):
        pixels = np.concatenate(shown.inputs)
        pixels = pixels.transpose(0, 2, 3, 1) if exported.channels_last else pixels
        with running_exported(exported.path, exported.graph, exported.tensors, pixels) as outputs:
            before = [*outputs()[:, None]]
    classes, softmax = shown.usage.classes, not original.plan.gives_probabilities
    guesses = [
        [tuple(most_likely(output[0], classes, softmax=softmax)) for output in outputs] for outputs in (before, after)
    ]
    firsts = guesses[0] or [()] * len(paths)
    return shown.usage, tuple(map(Compared, map(str, paths), firsts, guesses[1]))
