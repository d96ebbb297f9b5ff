"""The readers, each with sound files that are damaged, and what reads them. Only one imports a framework."""

from __future__ import annotations

import atexit
import gzip
import io
import json
import random
import shutil
import struct
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save

from resnet_xf import ResNetSpec, Stage, Stem
from resnet_xf.architecture.plan import plan
from resnet_xf.architecture.spec import SqueezeExcitation
from resnet_xf.architecture.trace import trace
from resnet_xf.architecture.weights import (
    DIGEST_KEY,
    RUN_KEY,
    SPEC_KEY,
    digest,
    draw_weights,
    load_weights,
    write_arrays,
)
from resnet_xf.data import Dataset, load_dataset
from resnet_xf.data.images import read_file
from resnet_xf.data.transform import Transform
from resnet_xf.formats.convert import write_checkpoint
from resnet_xf.formats.description import Description, Preprocessing, path_beside, read_beside
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.gluon_params import read_params, write_params
from resnet_xf.formats.gluon_symbol import read_symbol
from resnet_xf.formats.graph import read_graph
from resnet_xf.formats.identify import identify
from resnet_xf.formats.inspect import inspect
from resnet_xf.ladder.capture import script
from resnet_xf.ladder.capture.against import capture, parity_against
from resnet_xf.ladder.capture.captured import Captured
from resnet_xf.ladder.capture.evidence import manifest_digest
from resnet_xf.ladder.capture.original import Original, translate
from resnet_xf.ladder.capture.recorded import MEMBERS, read_evidence
from resnet_xf.speed.bench.case import Case
from resnet_xf.speed.bench.report import BenchReport, Result, Row, compare
from resnet_xf.speed.bench.statistics import speed
from resnet_xf.training.checkpoint import Header, load_checkpoint
from resnet_xf.training.recipe import RECIPES, get_recipe, learning_rates

from .engine import Files, Reader
from .mutations import as_json, damaged, damaged_json, damaged_toml

Prepared = tuple[Callable[[random.Random], Files], Callable[[Path], object]]

TINY = ResNetSpec(
    name="tiny",
    in_channels=1,
    num_classes=3,
    image_size=(8, 8),
    stem=Stem(kind="conv3", width=2, stride=1, pool=False),
    stages=(Stage(depth=1, channels=2), Stage(depth=1, channels=4, stride=2)),
)

RICH = ResNetSpec(
    name="rich",
    num_classes=5,
    image_size=(32, 24),
    stem=Stem(kind="deep", width=8, hidden=(4, 4), input_norm=True),
    stages=(
        Stage(depth=2, channels=8, mid_channels=4, groups=2),
        Stage(depth=3, channels=16, stride=2, dilation=2, first_dilation=1),
    ),
    block="bottleneck",
    preactivation=True,
    stride_on="1x1",
    shortcut="avg_conv",
    shortcut_norm=True,
    shortcut_from="input",
    conv_bias=("stem", "1x1"),
    se=SqueezeExcitation(ratio=0.25, divisor=4),
    norm_eps=1e-3,
    zero_init_last=True,
)


def _bytes_of(write: Callable[[Path], object], suffix: str) -> bytes:
    """What a function writes into a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        write(path)
        return path.read_bytes()


def _sometimes(path: Path, one_in: int) -> bool:
    """Whether to do what takes long; it depends on the file alone."""
    return zlib.crc32(path.read_bytes()) % one_in == 0


def _documents(documents: list[Any], read: Callable[[Path], object]) -> Prepared:
    """TOML and JSON of some documents."""
    toml = [document.to_toml() for document in documents]
    plain = [document.to_complete_json() for document in documents]

    def make(rng: random.Random) -> Files:
        if rng.random() < 0.4:
            return {"x.json": as_json(damaged_json(rng.choice(plain), rng), rng)}
        text = damaged_toml(rng.choice(toml), rng).encode("utf-8", "surrogatepass")
        return {"x.toml": damaged(text, [text], rng) if rng.random() < 0.1 else text}

    return make, lambda folder: [read(path) for path in folder.iterdir()]


def _spec() -> Prepared:
    def read(path: Path) -> None:
        planned = plan(str(path))
        trace(planned, (1, planned.spec.in_channels, *planned.spec.image_size))
        planned.spec.to_toml()

    return _documents([TINY, RICH], read)


def _recipe() -> Prepared:
    return _documents(list(RECIPES.values()), lambda path: learning_rates(get_recipe(path), 7))


def _params() -> Prepared:
    weights = draw_weights(TINY)

    def write_misshapen(path: Path) -> None:
        write_checkpoint(path, weights, TINY)
        write_params(path, {name: array[:1] for name, array in read_params(path).items()})

    whole = _bytes_of(lambda path: write_checkpoint(path, weights, TINY), ".params")
    small = _bytes_of(write_misshapen, ".params")
    return partial(_one_file, "x.params", [whole, small]), partial(_checkpoint, "x.params")


def _one_file(name: str, samples: list[bytes], rng: random.Random) -> Files:
    return {name: damaged(rng.choice(samples), samples, rng)}


def _checkpoint(name: str, folder: Path) -> None:
    identify(read_checkpoint(folder / name), TINY)


def _description() -> Prepared:
    """The description beside a checkpoint; some name no digest, so that they fit any contents."""
    view = Preprocessing(image_size=(9, 11), crop="centre", mean=(0.25,), std=(0.5,))
    known = Description(preprocessing=view, classes=("a", "b", "c"))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.params"
        write_checkpoint(path, draw_weights(TINY), TINY, known)
        weights, described = path.read_bytes(), path_beside(path).read_bytes()
    plain = [described.decode(), known.to_complete_json()]

    def make(rng: random.Random) -> Files:
        if rng.random() < 0.2:
            return {"x.params": weights, "x.params.json": damaged(described, [described], rng)}
        return {"x.params": weights, "x.params.json": as_json(damaged_json(rng.choice(plain), rng), rng)}

    def read(folder: Path) -> None:
        description = read_beside(folder / "x.params")
        if description is not None:
            description.check(TINY, folder / "x.params")
            if description.preprocessing is not None:
                description.preprocessing.text(TINY.in_channels)

    return make, read


def _graph() -> tuple[str, dict[str, np.ndarray]]:
    """An exported graph as text, and its arrays."""
    nodes: list[dict[str, Any]] = [{"op": "null", "name": "data", "inputs": []}]

    def add(op: str, name: str, inputs: list[int], **attributes: str) -> int:
        nodes.append({"op": op, "name": name, "attrs": attributes, "inputs": [[number, 0, 0] for number in inputs]})
        return len(nodes) - 1

    at = 0
    for number in range(3):
        weight = add("null", f"conv{number}_weight", [], __shape__="(2, 2, 3, 3)")
        at = add("Convolution", f"conv{number}", [at, weight], kernel="(3, 3)", num_filter="2", no_bias="True")
        arrays = [add("null", f"bn{number}_{word}", []) for word in ("gamma", "beta", "running_mean", "running_var")]
        at = add("BatchNorm", f"bn{number}", [at, *arrays], eps="1e-05", momentum="0.9", fix_gamma="False")
        at = add("Activation", f"act{number}", [at], act_type="relu")
    at = add("Pooling", "pool", [at], kernel="(1, 1)", global_pool="True", pool_type="avg")
    at = add("FullyConnected", "fc", [at, add("null", "fc_weight", [])], num_hidden="3", no_bias="True")
    symbol = {"nodes": nodes, "arg_nodes": [0, 1], "heads": [[at, 0, 0]], "attrs": {"mxnet_version": ["int", 10901]}}

    text = json.dumps(symbol)
    shapes = {"fc_weight": (3, 2)} | {f"conv{number}_weight": (2, 2, 3, 3) for number in range(3)}
    return text, {
        node["name"]: np.ones(shapes.get(node["name"], 2), "f4") for node in nodes[1:] if node["op"] == "null"
    }


def _symbol() -> Prepared:
    text, tensors = _graph()

    def read(folder: Path) -> None:
        symbol = read_symbol(folder / "x-symbol.json")
        symbol.for_mxnet(symbol.head)
        read_graph(symbol, tensors)

    return lambda rng: {"x-symbol.json": as_json(damaged_json(text, rng), rng)}, read


def _evidence() -> Prepared:
    """What ``capture-script`` records: the zip, or with digests to match, the graph, the facts or one array."""
    text, tensors = _graph()
    learns = {name: array for name, array in tensors.items() if "running" not in name}
    layers = {node["name"]: [2, 2, 8, 8] for node in json.loads(text)["nodes"] if node["op"] != "null"}
    arrays = {name: np.zeros((2, 3), dtype) for name, dtype in MEMBERS.items()}
    arrays["images"] = np.ones((2, 2, 8, 8), "f4")
    arrays["layers"] = np.ones(256 * len(layers))
    arrays["weights"] = np.concatenate([array.ravel() for array in tensors.values()]).astype("f8")
    for dtype in ("float32", "float64"):
        arrays[f"gradients_{dtype}"] = np.concatenate([array.ravel() for array in learns.values()]).astype("f8")
        arrays[f"statistics_{dtype}"] = np.ones(2 * (len(tensors) - len(learns)))
    facts = {
        "format": 1, "mxnet": "1.5.1", "python": "3.6.15", "numpy": "1.19.5", "head": "fc", "softmax": "",
        "layers": layers, "losses": {"float32": 1.0, "float64": 1.0},
        "arrays": {
            name: {"shape": array.shape, "sha256": script.digest(array), "zero": False, "learns": name in learns}
            for name, array in tensors.items()
        },
    }  # fmt: skip

    def packed(changed: dict[str, np.ndarray], said: Any, rng: random.Random, *, damage: bool) -> bytes:
        if isinstance(said, dict):
            said["sha256"] = {name: script.digest(array) for name, array in changed.items()}
        plain = as_json(damaged_json(json.dumps(said), rng), rng) if damage else json.dumps(said).encode()
        buffer = io.BytesIO()
        np.savez(buffer, **{**changed, "facts": np.frombuffer(plain, "u1")})
        return buffer.getvalue()

    def make(rng: random.Random) -> Files:
        changed = {**arrays, "graph": np.frombuffer(text.encode(), "u1")}
        kind = rng.randrange(4)
        if kind == 0:
            changed["graph"] = np.frombuffer(as_json(damaged_json(text, rng), rng), "u1")
        elif kind == 1:
            name = rng.choice(list(changed))
            odd = changed[name]
            changed[name] = rng.choice((odd[None], odd[:1], odd.astype("f8"), np.zeros(odd.shape, "O")))
        data = packed(changed, dict(facts), rng, damage=kind == 2)
        return {"x.npz": damaged(data, [data], rng) if kind == 3 else data}

    def read(folder: Path) -> None:
        evidence = read_evidence(folder / "x.npz")
        original = Original(evidence, translate(evidence), {})
        original.take("trace", object, None, large=False)
        original.take("step/float64", object, None, large=True)
        original.subject(original.translation.plan, 2**30)

    return make, read


def _safetensors() -> Prepared:
    weights = draw_weights(TINY)
    samples = [
        _bytes_of(lambda path: write_arrays(path, weights, {SPEC_KEY: TINY.to_json()}), ".safetensors"),
        _bytes_of(
            lambda path: write_arrays(path, {"a": np.zeros((2, 0, 3)), "b": np.ones(2, "i8")}, {}), ".safetensors"
        ),
    ]

    def make(rng: random.Random) -> Files:
        sample = rng.choice(samples)
        if rng.random() < 0.5:
            return {"x.safetensors": damaged(sample, samples, rng)}
        (size,) = struct.unpack("<Q", sample[:8])
        header = as_json(damaged_json(sample[8 : 8 + size].decode(), rng), rng)
        return {"x.safetensors": struct.pack("<Q", len(header)) + header + sample[8 + size :]}

    def read(folder: Path) -> None:
        _checkpoint("x.safetensors", folder)
        load_weights(folder / "x.safetensors")

    return make, read


def _state_dict() -> Prepared:
    import torch

    weights = {name: torch.tensor(array) for name, array in draw_weights(TINY).items()}
    wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}, "epoch": 3}
    samples = [
        _bytes_of(lambda path: torch.save(weights, path), ".pth"),
        _bytes_of(lambda path: torch.save(wrapped, path), ".pth"),
        _bytes_of(lambda path: torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=False), ".pth"),
    ]

    def make(rng: random.Random) -> Files:
        sample = rng.choice(samples)
        if rng.random() < 0.4 or not zipfile.is_zipfile(io.BytesIO(sample)):
            return {"x.pth": damaged(sample, samples, rng)}
        packed = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(sample)) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as new:
            names = old.namelist()
            chosen = (
                next(name for name in names if name.endswith("data.pkl")) if rng.random() < 0.7 else rng.choice(names)
            )
            for name in names:
                data = old.read(name)
                new.writestr(zipfile.ZipInfo(name), damaged(data, [data], rng) if name == chosen else data)
        return {"x.pth": packed.getvalue()}

    return make, partial(_checkpoint, "x.pth")


def _run_folder() -> Prepared:
    header = Header(
        recipe=RECIPES["digits"], backend="torch", dataset="digits", train_images=100, train_digest="x" * 32,
        classes=("a", "b", "c"), mean=(0.0,), std=(1.0,),
    )  # fmt: skip
    weights = draw_weights(TINY)
    arrays = weights | {f"momentum/{name}": array for name, array in list(weights.items())[:2]}
    spec, plain = TINY.to_json(), header.to_complete_json()
    place = "checkpoints/step-00000003.safetensors"

    def make(rng: random.Random) -> Files:
        texts = {SPEC_KEY: spec, RUN_KEY: plain}
        kind = rng.randrange(4)
        if kind < 2:
            key, data = ((SPEC_KEY, spec), (RUN_KEY, plain))[kind]
            texts[key] = as_json(damaged_json(data, rng), rng).decode("utf-8", "replace")
        changed = dict(arrays)
        if kind == 2:
            name = rng.choice(list(changed))
            odd = changed.pop(name)
            changed[rng.choice((name, name + "x", "momentum/"))] = rng.choice(
                (odd[None], odd[:1], odd.astype("f8"), odd * np.nan)
            )
        data = save(changed, {**texts, DIGEST_KEY: digest(changed, texts)})
        return {place: damaged(data, [data], rng) if kind == 3 else data}

    def read(folder: Path) -> None:
        if _sometimes(folder / place, 50):
            inspect(folder)
        checkpoint = load_checkpoint(folder)
        learning_rates(checkpoint.header.recipe, checkpoint.header.steps_per_epoch)
        assert checkpoint.header.step >= 0

    return make, read


def _capture() -> Prepared:
    sys.path.append(str(Path(__file__).parents[2] / "examples" / "numpy_backend"))
    from numpy_backend import NumpyBackend

    sound = Path(tempfile.mkdtemp(prefix="resnet-xf-fuzz-"))
    atexit.register(shutil.rmtree, sound, True)
    capture(TINY, sound / "x", NumpyBackend(), level="quick")  # type: ignore[arg-type]
    files = {path.name: path.read_bytes() for path in (sound / "x").iterdir()}
    manifest = files["manifest.json"].decode()

    def make(rng: random.Random) -> Files:
        name = rng.choice(list(files))
        if name != "manifest.json" and rng.random() < 0.5:
            return files | {name: damaged(files[name], [files[name]], rng)}
        changed = damaged_json(manifest, rng)
        with suppress(Exception):  # what no digest can be made of is refused as it is
            changed["digest"] = manifest_digest(changed)
        return files | {"manifest.json": as_json(changed, rng)}

    def read(folder: Path) -> None:
        captured = Captured(folder)
        captured.subject(2**30)
        captured.differs(Captured(sound / "x"))
        if _sometimes(folder / "manifest.json", 3):
            parity_against([sound / "x", folder], [])

    return make, read


def _idx() -> Prepared:
    rng = np.random.default_rng(0)
    files: Files = {}
    for part in ("train", "t10k"):
        pixels = rng.integers(0, 256, (10, 28, 28), np.uint8).tobytes()
        files[f"{part}-images-idx3-ubyte"] = struct.pack(">IIII", 0x803, 10, 28, 28) + pixels
        files[f"{part}-labels-idx1-ubyte"] = struct.pack(">II", 0x801, 10) + bytes(range(10))
    return partial(_packed, files), lambda folder: _look(load_dataset("mnist", folder))


def _packed(files: Files, rng: random.Random) -> Files:
    """Some files, of which one is damaged, and perhaps packed before or after that."""
    name = rng.choice(list(files))
    changed = {one: data for one, data in files.items() if one != name}
    match rng.randrange(3):
        case 0:
            return changed | {name: damaged(files[name], [files[name]], rng)}
        case 1:
            return changed | {f"{name}.gz": gzip.compress(damaged(files[name], [files[name]], rng), 1)}
    packed = gzip.compress(files[name], 1)
    return changed | {f"{name}.gz": damaged(packed, [packed], rng)}


def _look(dataset: Dataset) -> None:
    for split in (dataset.train, dataset.test):
        split.digest()
        if len(split):
            split.image(0, 3)


def _cifar() -> Prepared:
    files: Files = {"fine_label_names.txt": "\n".join(f"class{number}" for number in range(100)).encode()}
    records = bytes(2 + 3072) * 2
    files |= dict.fromkeys(("train.bin", "test.bin"), records)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    whole = buffer.getvalue()

    def make(rng: random.Random) -> Files:
        match rng.randrange(3):
            case 0:
                name = rng.choice(list(files))
                return files | {name: damaged(files[name], [files[name]], rng)}
            case 1:
                return {"cifar-100-binary.tar.gz": gzip.compress(damaged(whole, [whole], rng), 1)}
        packed = gzip.compress(whole, 1)
        return {"cifar-100-binary.tar.gz": damaged(packed, [packed], rng)}

    return make, lambda folder: _look(load_dataset("cifar100", folder))


def _recordio() -> Prepared:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    records, index, listed = b"", "", ""
    for number in range(6):
        header = struct.pack("<IfQQ", 0, number % 2, number, 0)
        if number % 2:
            header = struct.pack("<IfQQff", 1, 0, number, 0, number % 2, 7)[:-4]
        data = header + buffer.getvalue() + b"ab"[:number]
        index += f"{number}\t{len(records)}\n"
        listed += f"{number}\t{number % 2}\tfolder{number % 2}/{number}.png\n"
        parts = [(0, data)] if number else [(1, data), (2, b""), (3, b"end")]
        for kind, part in parts:
            records += struct.pack("<II", 0xCED7230A, kind << 29 | len(part)) + part + bytes(-len(part) % 4)
    files = {"x.rec": records, "x.idx": index.encode(), "x.lst": listed.encode(), "synset.txt": b"n00000001 a\nb\n"}

    def make(rng: random.Random) -> Files:
        name = rng.choice(("x.rec", "x.rec", "x.rec", *files))
        left = {one: data for one, data in files.items() if one == "x.rec" or rng.random() < 0.5}
        return left | {name: damaged(files[name], [*files.values()], rng)}

    return make, lambda folder: _look(load_dataset(f"recordio:{folder / 'x.rec'}"))


def _image_lists() -> Prepared:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 4)).save(buffer, "png")
    images = {f"val/{letter}.png": buffer.getvalue() for letter in "abc"}
    lists = {
        "val_map.txt": b"a.png n00000001\nb.png n00000002\nc.png n00000001\n",
        "val.lst": b"0\t1.000\ta.png\n1\t0.000\tb.png\n2\t1.000\tc.png\n",
        "LOC_val_solution.csv": b"ImageId,PredictionString\na,n00000001 1 2\nb,n00000002 1\nc,n00000001 7\n",
        "val/synset.txt": b"n00000002 fish\nn00000001 cat\n",
    }

    def make(rng: random.Random) -> Files:
        chosen = rng.sample([*lists], rng.choice((1, 2)))
        files = images | {name: lists[name] for name in chosen}
        name = rng.choice(chosen)
        return files | {name: damaged(lists[name], [*lists.values()], rng)}

    return make, lambda folder: _look(load_dataset(f"folder:{folder / 'val'}"))


def _images() -> Prepared:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 9, 3), np.uint8)
    samples = []
    for mode in ("RGB", "L", "P", "RGBA", "1", "I;16"):
        image = (
            Image.fromarray(pixels[..., 0].astype("<u2")) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
        )
        for kind in ("bmp", "gif", "jpeg", "png", "tiff", "webp"):
            buffer = io.BytesIO()
            try:
                image.save(buffer, kind, **({"compression": "tiff_lzw"} if kind == "tiff" and mode == "RGB" else {}))
            except (OSError, ValueError, KeyError):
                continue  # a format without this mode
            samples.append(buffer.getvalue())

    def read(folder: Path) -> None:
        for channels in (1, 3):
            for interpolation in ("bilinear", "antialias"):
                read_file(folder / "x.png", Transform((16, 12), channels, "centre", interpolation=interpolation).one)

    return partial(_one_file, "x.png", samples), read


def _bench() -> Prepared:
    rates = [100.0, 101.0, 99.5]
    result = Result(
        speed=speed(rates), rates=(dict(enumerate(rates)),), error=1e-7, agreement=1.0, share=0.5, build=1.0, first=0.1,
        warm_up=2.0, host_memory=10**9, device_memory=None, threads=2, busy_processors=1.9, version="2.0", steps=("a",),
    )  # fmt: skip
    rows = [
        Row(case=Case(spec=TINY, backend=backend, image_size=(8, 8), threads=2), result=result)
        for backend in ("torch", "mxnet")
    ]
    report = BenchReport(environment={"python": "3.11"}, ceilings={"float32": 1e11}, rows=tuple(rows))
    plain = report.to_complete_json()

    def read(folder: Path) -> None:
        changed = BenchReport.read(folder / "x.json")
        changed.to_csv()
        list(changed.conclusions())
        if _sometimes(folder / "x.json", 5):
            compare(report, changed)

    return lambda rng: {"x.json": as_json(damaged_json(plain, rng), rng)}, read


READERS = (
    Reader("spec", 10, _spec),
    Reader("recipe", 10, _recipe),
    Reader("params", 8, _params),
    Reader("description", 2, _description),
    Reader("symbol", 12, _symbol),
    Reader("safetensors", 10, _safetensors),
    Reader("run", 3, _run_folder),
    Reader("capture", 2, _capture),
    Reader("evidence", 2, _evidence),
    Reader("idx", 6, _idx),
    Reader("cifar", 9, _cifar),
    Reader("recordio", 10, _recordio),
    Reader("image_lists", 2, _image_lists),
    Reader("images", 10, _images),
    Reader("bench", 3, _bench),
    Reader("state_dict", 1, _state_dict),
)
"""Every reader."""
