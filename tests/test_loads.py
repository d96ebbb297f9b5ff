"""What ``convert`` says of where a file loads, held against the libraries themselves."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.undrawn import undrawn
from resnet_xf import draw_weights, get_spec, plan
from resnet_xf.formats.convert import write_checkpoint
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.identify import identify
from resnet_xf.formats.loads import ALONE, loads_into

CALL = re.compile(r"(torchvision|timm)'s (\w+)\((.*?)\)")


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("resnet18", {}),
        ("resnet18_v1", {"num_classes": 7}),
        ("resnet18_v1b", {"num_classes": 7, "in_channels": 1}),
        ("resnet26d", {}),
        ("resnet34", {"num_classes": 0}),
        ("resnet10t", {"in_channels": 4}),
        ("resnet50_os8", {"num_classes": 3}),
        ("seresnet50", {}),
    ],
)
def test_every_network_that_is_named_loads_the_file_strictly(name: str, sizes: dict[str, int], tmp_path: Path) -> None:
    import timm
    import torchvision

    planned = plan(msgspec.structs.replace(get_spec(name), **sizes))
    weights = undrawn(planned)
    for suffix, read in (("pth", partial(torch.load, weights_only=True)), ("safetensors", load_file)):
        path = tmp_path / f"net.{suffix}"
        write_checkpoint(path, weights, planned)
        state = read(path)
        calls = CALL.findall(loads_into(planned, suffix))
        assert [library for library, *_ in calls] == (
            ["torchvision", "timm"] if name.startswith("resnet18") and "in_channels" not in sizes else ["timm"]
        )
        for library, model, arguments in calls:
            options = {word: int(value) for word, _, value in (one.partition("=") for one in arguments.split(", "))}
            create = timm.create_model if library == "timm" else torchvision.models.get_model
            with torch.device("meta"):  # names and shapes alone
                network = create(model, **options)
            network.load_state_dict(state, strict=True, assign=True)


@pytest.mark.parametrize("name", ["resnet50_v1", "resnet18_v2", "d2l_resnet18", "symbol_resnet18", "arcface_r18"])
def test_a_network_of_no_other_library_is_loaded_by_resnet_xf_alone(name: str) -> None:
    assert loads_into(plan(name), "pth") == ALONE


def test_another_eps_is_another_network() -> None:
    assert loads_into(plan(msgspec.structs.replace(get_spec("resnet18"), norm_eps=1e-3)), "pth") == ALONE


def test_torchvision_s_network_refuses_what_is_not_said_to_load(tmp_path: Path) -> None:
    import torchvision

    write_checkpoint(tmp_path / "a.pth", undrawn("resnet50_v1"), plan("resnet50_v1"))
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    with torch.device("meta"):
        network = torchvision.models.resnet50()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        network.load_state_dict(state, assign=True)


@pytest.mark.parametrize(
    "name, says", [("resnet18", "resnet18_v1"), ("resnet50_v1", "resnet50_v1"), ("resnet18_v2", "resnet18_v2")]
)
def test_the_zoo_s_networks_load_what_is_said(name: str, says: str) -> None:
    """That they do is tested where the formats are."""
    planned = plan(msgspec.structs.replace(get_spec(name), num_classes=7))
    assert loads_into(planned, "params") == f"Gluon's {says}(classes=7) loads it"


@pytest.mark.parametrize("name", ["se_resnet18_v1", "resnet50_v1d", "cifar_resnet20_v1"])
def test_gluoncv_s_networks_are_named(name: str) -> None:
    """That their files have GluonCV's own names and shapes is tested where the families are."""
    classes = get_spec(name).num_classes
    assert loads_into(plan(name), "params") == f"GluonCV's {name}(classes={classes}) loads it"


def test_a_gate_is_written_as_gluoncv_s_dense_layers_and_read_again(tmp_path: Path) -> None:
    weights = draw_weights("se_resnet18_v1", scheme="probe")
    write_checkpoint(tmp_path / "a.params", weights, plan("se_resnet18_v1"))
    (tmp_path / "a.params.json").unlink()
    file = read_checkpoint(tmp_path / "a.params")
    assert file.tensors["features.4.0.se.0.weight"].shape == (4, 64)
    read = identify(file).weights
    assert set(read) == set(weights)
    assert all(np.array_equal(read[name], array) for name, array in weights.items())
