"""What the config.json of Hugging Face's hub says of the file beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from resnet_xf import draw_weights, plan
from resnet_xf.errors import WeightsError
from resnet_xf.formats.families import LAYOUTS
from resnet_xf.formats.files import is_checkpoint
from resnet_xf.formats.layouts import places
from resnet_xf.formats.load import read_network

TRANSFORMERS = {"model_type": "resnet", "hidden_act": "relu", "downsample_in_bottleneck": False}


def write(folder: Path, family: str, name: str, config: Any, strip: str = "") -> Path:
    """Write a network as a library does that saves for the hub."""
    layout = next(layout for layout in LAYOUTS if family in layout.title)
    arrays = {
        place.theirs.removeprefix(strip): np.full(place.shape, 0.5, np.float32)
        for place in places(plan(name), layout) or []
    }
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    ("family", "name", "config", "expected"),
    [
        ("transformers", "resnet50", TRANSFORMERS, "resnet50"),
        ("transformers", "resnet50", TRANSFORMERS | {"downsample_in_bottleneck": True}, "gluoncv2_resnet50"),
        ("transformers", "resnet18", TRANSFORMERS | {"downsample_in_bottleneck": True}, "resnet18"),
        ("torchvision", "resnet50", {"architecture": "resnet50.a1_in1k"}, "resnet50"),
        ("torchvision", "resnet50", {"architecture": "resnet50", "model_args": {"output_stride": 8}}, "resnet50_os8"),
        ("torchvision", "resnet50", {"architecture": "resnet50", "model_args": {"output_stride": 16}}, "resnet50_os16"),
        ("torchvision", "resnet18", {"architecture": "tv_resnet18", "model_args": None}, "resnet18"),
        ("torchvision", "resnet18", ["of another program"], "resnet18"),
    ],
)
def test_the_config_settles_what_names_do_not_tell(
    family: str, name: str, config: Any, expected: str, tmp_path: Path
) -> None:
    found = read_network(write(tmp_path, family, name, config)).plan
    assert found.spec.name == expected
    assert found.root == plan(expected).root


@pytest.mark.parametrize(
    ("family", "name", "config", "message"),
    [
        ("transformers", "resnet18", TRANSFORMERS | {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("transformers", "resnet50", TRANSFORMERS | {"downsample_in_first_stage": True}, "downsample_in_first_stage"),
        ("transformers", "resnet50", {}, "could be resnet50.*gluoncv2_resnet50.*--spec"),
        ("torchvision", "resnet18", {"architecture": "resnetblur18"}, "the architecture is resnetblur18"),
        ("torchvision", "resnet18", {"architecture": "resnet18", "model_args": {"act_layer": "silu"}}, "act_layer is"),
    ],
)
def test_a_network_that_only_its_config_tells_from_another_is_refused(
    family: str, name: str, config: Any, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, family, name, config)
    with pytest.raises(WeightsError, match=message):
        read_network(path)
    if config:
        path = path.rename(tmp_path / "other.safetensors")  # a config belongs to the hub's own names of files alone
        assert read_network(path, spec=name).plan.spec.name == name


def test_transformers_s_resnet_model_has_no_head_and_no_prefix(tmp_path: Path) -> None:
    path = write(tmp_path, "transformers", "resnet18", TRANSFORMERS, strip="resnet.")
    assert read_network(path).plan.spec.name == "resnet18"


def test_a_folder_for_the_hub_stands_for_its_file(tmp_path: Path, command: Any) -> None:
    (folder := tmp_path / "model").mkdir()
    save_file(draw_weights("resnet18"), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    code, _, complaint = command("convert", folder, tmp_path / "out.params", "--no-verify")
    assert (code, complaint) == (0, "")
    assert read_network(tmp_path / "out.params").plan.spec.name == "resnet18"
    photograph = tmp_path / "one.png"
    Image.new("RGB", (40, 40)).save(photograph)
    assert command("predict", photograph, "--run", folder)[0] == 0
    assert is_checkpoint(str(folder))
    (folder / "config.json").unlink()
    assert not is_checkpoint(str(folder))
    for arguments in (("predict", photograph, "--run", folder), ("convert", folder, tmp_path / "out.params")):
        code, _, complaint = command(*arguments)
        assert code == 2
        assert "not the folder of a training run; name one of its files: model.safetensors" in complaint
