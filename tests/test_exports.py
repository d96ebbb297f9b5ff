"""Exports: networks that run without this package."""

import json
import subprocess
import sys

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from resnet_xf import ResNetSpec, Stage, convert, draw_weights, get_spec, plan, save_weights, write_checkpoint
from resnet_xf.architecture.measures import relative_error
from resnet_xf.architecture.spec import Stem
from resnet_xf.backend.registry import get_backend
from resnet_xf.data import sample_images
from resnet_xf.errors import BackendError, SpecError, WeightsError
from resnet_xf.formats.description import Description, Preprocessing
from resnet_xf.formats.exports import export, export_suffix, timm_config

STAGES = (Stage(depth=1, channels=8), Stage(depth=1, channels=12, stride=2))
SMALL = ResNetSpec(
    name="small", num_classes=5, image_size=(24, 20), stem=Stem(kind="conv3", width=8), stages=STAGES, norm_eps=1e-4
)
SPLIT = ResNetSpec(
    name="split", num_classes=5, image_size=(32, 32), stem=Stem(width=8), block="bottleneck", radix=2,
    stages=(Stage(depth=1, channels=16, mid_channels=8, groups=2),), stride_on="avg_pool", shortcut="avg_conv",
)  # fmt: skip
PREPROCESSING = Preprocessing(
    image_size=(32, 40), crop="centre", mean=(127.5, 127.5, 51.0), std=(255.0,), scale=255, channel_order="RGB"
)


def weights_of(spec) -> dict:
    return draw_weights(spec, scheme="probe")


def expected_of(spec, images):
    backend = get_backend("torch")
    network = backend.build(plan(spec).root, "float64")
    backend.load(network, {name: array.astype(np.float64) for name, array in weights_of(spec).items()})
    return backend.forward(network, images)


ALONE = """
import sys
import numpy as np
sys.modules |= dict.fromkeys(("resnet_xf", "resnet_xf_torch", "resnet_xf_onnx"))  # they cannot be imported
for path, shown, out in zip(*[iter(sys.argv[1:])] * 3):
    images = np.load(shown)
    if path.endswith(".pt2"):
        import torch
        output = torch.export.load(path).module()(torch.from_numpy(images)).detach().numpy()
    else:
        import onnxruntime
        output = onnxruntime.InferenceSession(path).run(None, {"images": images})[0]
    np.save(out, output)
"""


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_files_run_without_this_package(tmp_path, suffix: str) -> None:
    arguments: list[str] = []
    shown = {}
    for spec in (SMALL, SPLIT):
        path = tmp_path / f"{spec.name}{suffix}"
        (check,) = export(spec, weights_of(spec), path)
        assert check.error < 1e-5
        assert check.precision == "float32"
        shown[spec] = np.concatenate([sample_images(3, spec.image_size)] * 3)[:5]
        np.save(tmp_path / f"{spec.name}-images.npy", shown[spec])
        arguments += [str(path), str(tmp_path / f"{spec.name}-images.npy"), str(tmp_path / f"{spec.name}-output.npy")]
    done = subprocess.run([sys.executable, "-P", "-c", ALONE, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for spec in (SMALL, SPLIT):
        assert relative_error(np.load(tmp_path / f"{spec.name}-output.npy"), expected_of(spec, shown[spec])) < 1e-5
        beside = json.loads((tmp_path / f"{spec.name}{suffix}.json").read_text())
        assert beside["spec"]["name"] == spec.name
    assert sorted(found.name for found in tmp_path.iterdir() if found.name.startswith(".")) == []


@pytest.mark.parametrize("name, precision", [("a.pt2", "float16"), ("a.pt2", "bfloat16"), ("a.onnx", "float16")])
def test_the_error_of_a_low_precision_is_told(tmp_path, name: str, precision: str) -> None:
    (check,) = export(SMALL, weights_of(SMALL), tmp_path / name, precision=precision)
    assert check.precision == precision
    assert (
        {"float16": 1e-4, "bfloat16": 1e-3}[precision] / 5
        < check.error
        < {"float16": 1e-2, "bfloat16": 5e-2}[precision]
    )


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_graph_takes_images_of_other_sizes(tmp_path, suffix: str) -> None:
    export(SMALL, weights_of(SMALL), tmp_path / f"net{suffix}")
    shown = sample_images(3, (48, 33))
    run = get_backend({".pt2": "torch", ".onnx": "onnx"}[suffix]).run_export
    assert relative_error(run(tmp_path / f"net{suffix}", shown), expected_of(SMALL, shown)) < 1e-5


def test_a_graph_takes_the_size_of_the_preprocessing(tmp_path) -> None:
    description = Description(preprocessing=PREPROCESSING, classes=tuple("abcde"))
    spec = msgspec.structs.replace(SMALL, image_size=(32, 40), head="embedding")  # no mean before it
    export(spec, weights_of(spec), tmp_path / "net.onnx", description=description)
    import onnx

    model = onnx.load(tmp_path / "net.onnx")
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in shape] == ["batch", 3, 32, 40]
    beside = Description.read(tmp_path / "net.onnx.json")
    assert (beside.preprocessing, beside.classes) == (PREPROCESSING, tuple("abcde"))


def test_a_folder_for_timm(tmp_path) -> None:
    import timm

    spec = msgspec.structs.replace(plan("resnet18").spec, num_classes=5, in_channels=3)
    description = Description(preprocessing=PREPROCESSING, classes=tuple("abcde"))
    (check,) = export(spec, weights_of(spec), tmp_path / "out", description=description)
    assert check.error < 1e-5
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    text = (tmp_path / "out" / "config.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2) + "\n"  # as timm's own are written
    network = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    settings = timm.data.resolve_model_data_config(network)
    assert list(settings["input_size"]) == [3, 32, 40]
    assert settings["mean"] == pytest.approx((0.5, 0.5, 0.2))
    assert settings["std"] == pytest.approx((1.0, 1.0, 1.0))
    assert settings["crop_pct"] == 0.875
    assert network.pretrained_cfg["label_names"] == list("abcde")
    with torch.no_grad():
        output = network(torch.from_numpy(sample_images(3, (32, 40)))).numpy()
    assert relative_error(output, expected_of(spec, sample_images(3, (32, 40)))) < 1e-5
    with pytest.raises(WeightsError, match="out: is there already; choose a new folder"):
        export(spec, weights_of(spec), tmp_path / "out")


@pytest.mark.parametrize("side", [32, 64, 224, 299])
@pytest.mark.parametrize("crop", ["centre", "resize"])
def test_timm_makes_the_same_pixels_of_an_image(side: int, crop: str) -> None:
    import timm

    preprocessing = Preprocessing(image_size=(side, side), crop=crop, mean=(0.4, 0.5, 0.6), std=(0.2,))
    settings = timm_config(plan("resnet18"), Description(preprocessing=preprocessing))["pretrained_cfg"]
    keys = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    transform = timm.data.create_transform(**{key: settings[key] for key in keys})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (301, 207, 3), np.uint8))
    np.testing.assert_allclose(transform(image).numpy(), preprocessing.transform(3).one(image)[0], atol=1e-6)


@pytest.mark.parametrize(
    "options, error, says",
    [
        ({"path": "out/"}, SpecError, "small: timm has no network that computes the same; write a .pt2, .onnx"),
        ({"path": "nowhere/net.onnx"}, WeightsError, r"nowhere/net.onnx: cannot be written: No such file or directory"),
        ({"path": "net.bin"}, WeightsError, r"net.bin: expected a suffix of .pt2, .onnx, or a folder for timm"),
        (
            {"path": "a.onnx", "precision": "int8"},
            BackendError,
            "no network is exported in 'int8'; choose one of float32",
        ),
        ({"path": "a.onnx", "precision": "bfloat16"}, BackendError, "no network in bfloat16 on a CPU; choose float16"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, monkeypatch, options, error, says) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        export(SMALL, weights_of(SMALL), **options)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_differs_is_not_kept(tmp_path, monkeypatch) -> None:
    from resnet_xf_onnx import BACKEND

    monkeypatch.setattr(BACKEND, "run_export", lambda path, images: np.zeros((len(images), 5)), raising=False)
    with pytest.raises(WeightsError, match=r"net.onnx in ONNX Runtime and ours on torch in float64 differ by 1.0e\+00"):
        export(SMALL, weights_of(SMALL), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "target, suffix",
    [("a.pt2", ".pt2"), ("a.onnx", ".onnx"), ("a", ""), ("a.v2/", ""), ("a.pth", None), ("a.safetensors", None)],
)
def test_the_suffix_says_what_is_written(target: str, suffix: str | None) -> None:
    assert export_suffix(target) == suffix


def test_convert_writes_exports(tmp_path, command) -> None:
    save_weights(tmp_path / "in.safetensors", weights_of(SMALL), SMALL)
    done = convert(tmp_path / "in.safetensors", tmp_path / "out.pt2")
    assert [check.precision for check in done.checks][-1] == "float32"
    code, out, _ = command("convert", tmp_path / "in.safetensors", tmp_path / "out.onnx")
    assert code == 0
    assert "out.onnx in ONNX Runtime and ours on torch in float64: largest difference" in out
    assert "out.onnx').run(None, {'images': images}) computes it, without resnet_xf" in out
    code, _, err = command("convert", tmp_path / "in.safetensors", f"{tmp_path}/folder/")
    assert code == 2
    assert "small: timm has no network that computes the same" in err


def test_a_checkpoint_in_float16_tells_its_error(tmp_path) -> None:
    write_checkpoint(tmp_path / "in.safetensors", weights_of(SMALL), SMALL)
    done = convert(tmp_path / "in.safetensors", tmp_path / "half.safetensors", precision="float16")
    check = done.checks[-1]
    assert (check.ours, check.theirs) == ("ours on torch with weights in float16", "ours on torch")
    assert 1e-5 < check.error < 1e-2
    again = convert(tmp_path / "half.safetensors", tmp_path / "again.pth")
    assert "dtype float16, as in the source" in again.notes
    unseen = convert(tmp_path / "in.safetensors", tmp_path / "c.safetensors", precision="float16", verify=False)
    assert unseen.checks == ()
    assert export(SMALL, weights_of(SMALL), tmp_path / "net.pt2", verify=False) == ()
    with pytest.raises(BackendError, match="a checkpoint is written in float32 or float16, not in bfloat16"):
        convert(tmp_path / "in.safetensors", tmp_path / "b.pth", precision="bfloat16")
    assert not [note for note in done.notes if "as in the source" in note]


@pytest.mark.parametrize("target", ["net.safetensors", "net.pth", "net.params", "net.onnx", "net.pt2", "net/"])
@pytest.mark.parametrize(
    "value, dtype, says", [(1e6, "float16", "1e.06, and float16 ends at 6.55e.04"), (1e300, "float32", "1e.300")]
)
def test_a_value_beyond_the_precision_is_refused(tmp_path, target: str, value: float, dtype: str, says: str) -> None:
    spec = msgspec.structs.replace(get_spec("resnet18"), name="large", num_classes=3) if target == "net/" else SMALL
    weights = draw_weights(spec, dtype="float64")
    weights["bn1.running_var"][0] = value
    write_checkpoint(tmp_path / "in.safetensors", weights, spec)
    with pytest.raises(WeightsError, match=rf"bn1.running_var has the value {says}.*choose a wider precision"):
        convert(tmp_path / "in.safetensors", f"{tmp_path}/{target}", precision=dtype, verify=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]
