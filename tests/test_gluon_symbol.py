"""Exported graphs: what a file controls is checked before MXNet runs it, and a crash of MXNet is an error."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_xf.errors import WeightsError
from resnet_xf.formats import exported
from resnet_xf.formats.exported import running_exported
from resnet_xf.formats.gluon_symbol import graph_elsewhere, read_symbol


def node(op: str, name: str, *inputs: int, **attributes: str) -> dict[str, Any]:
    return {"op": op, "name": name, "attrs": attributes, "inputs": [[number, 0, 0] for number in inputs]}


def graph() -> dict[str, Any]:
    """A convolution, a batch norm and a dense layer."""
    nodes = [
        node("null", "data"),
        node("null", "conv_weight", __shape__="(2, 1, 3, 3)"),
        node("Convolution", "conv", 0, 1, kernel="(3, 3)", num_filter="2", pad="(1, 1)", num_group="1", no_bias="True"),
        *(node("null", f"bn_{word}") for word in ("gamma", "beta", "running_mean", "running_var")),
        node("BatchNorm", "bn", 2, 3, 4, 5, 6, eps="1e-05", momentum="0.9", fix_gamma="False"),
        node("null", "fc_weight"),
        node("FullyConnected", "fc", 7, 8, num_hidden="3", no_bias="True"),
    ]
    return {"nodes": nodes, "arg_nodes": [0, 1, 3, 4, 5, 6, 8], "heads": [[9, 0, 0]], "attrs": {}}


def write(path: Path, symbol: dict[str, Any]) -> Path:
    path.write_text(json.dumps(symbol))
    return path


def change(key: str, value: object, number: int = 2) -> Any:
    """A change of one attribute, or else of one field, of a node."""

    def apply(symbol: dict[str, Any]) -> None:
        one = symbol["nodes"][number]
        (one if key in one else one["attrs"])[key] = value

    return apply


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda symbol: symbol.update(heads=[[9, 1, 0]]), r"the output is connected to \[9, 1, 0\]"),
        (lambda symbol: symbol.update(heads=[[10, 0, 0]]), r"the output is connected to \[10, 0, 0\]"),
        (lambda symbol: symbol.update(heads=[[-1, 0, 0]]), r"the output is connected to \[-1, 0, 0\]"),
        (lambda symbol: symbol.update(heads=[[]] * 2), "10 nodes and 2 outputs"),
        (lambda symbol: symbol.update(heads=[]), "10 nodes and 0 outputs"),
        (lambda symbol: symbol.update(nodes=[node("null", "x")] * 50_001), "50,001 nodes"),
        (lambda symbol: symbol.update(nodes={}), "not readable as a symbol of MXNet"),
        (change("inputs", [[2, 0, 0]]), r"'conv' is connected to \[2, 0, 0\]"),  # to itself
        (change("inputs", [[0, 7, 0]]), r"'conv' is connected to \[0, 7, 0\]"),
        (change("inputs", [[-1, 0, 0]]), r"'conv' is connected to \[-1, 0, 0\]"),
        (change("inputs", [[0, -1, 0]]), r"'conv' is connected to \[0, -1, 0\]"),
        (change("inputs", [[0, 0, -1]]), r"'conv' is connected to \[0, 0, -1\]"),
        (change("op", "_cvimread"), r"'conv' \(_cvimread\): no plan"),
        (change("op", "Concat"), r"'conv' \(Concat\): no plan"),
        (change("num_group", "0"), "num_group is '0'"),
        (change("num_group", "-1"), "num_group is '-1'"),
        (change("num_group", "1e3"), "not readable as a symbol"),
        (change("kernel", "(0, 3)"), r"kernel is '\(0, 3\)'"),
        (change("stride", "(0, 0)"), r"stride is '\(0, 0\)'"),
        (change("dilate", f"({10**9}, 1)"), "dilate is"),
        (change("pad", "(99999, 0)"), "pad is"),
        (change("num_hidden", str(2**31), 9), "num_hidden is"),
    ],
)
def test_a_graph_that_could_crash_mxnet_is_refused(tmp_path, damage, says: str) -> None:
    symbol = graph()
    damage(symbol)
    with pytest.raises(WeightsError, match=rf"x-symbol\.json: .*{says}"):
        read_symbol(write(tmp_path / "x-symbol.json", symbol))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 10**6, b'{"nodes":' + b'[{"a":' * 10**5, b"null"])
def test_what_is_no_graph_is_refused(tmp_path, content: bytes) -> None:
    path = tmp_path / "x-symbol.json"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"x-symbol\.json: not "):
        read_symbol(path)


def test_only_what_was_checked_reaches_mxnet(tmp_path) -> None:
    symbol = graph() | {"node_row_ptr": [10**9], "arg_nodes": [99]}
    symbol["nodes"][0]["subgraphs"] = [{}]
    kept = json.loads(read_symbol(write(tmp_path / "x-symbol.json", symbol)).for_mxnet(9))
    assert kept["arg_nodes"] == [0, 1, 3, 4, 5, 6, 8]
    assert kept["nodes"][2]["inputs"] == [[0, 0, 0], [1, 0, 0]]
    assert set(kept) == {"nodes", "arg_nodes", "heads"}
    assert {key for one in kept["nodes"] for key in one} == {"op", "name", "inputs", "attrs"}
    assert "__shape__" not in json.dumps(kept)


def test_mxnet_is_told_the_version_that_wrote_the_graph(tmp_path) -> None:
    for attrs, kept in (({"mxnet_version": ["int", 10901]}, {"mxnet_version": ["int", 10901]}), ({}, None)):
        path = write(tmp_path / "x-symbol.json", graph() | {"attrs": attrs})
        assert json.loads(read_symbol(path).for_mxnet(9)).get("attrs") == kept


def run(path: Path, symbol: bytes, images: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    shapes = {"conv_weight": (2, 1, 3, 3), "fc_weight": (3, 32)}
    tensors = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    tensors |= {f"bn_{word}": np.ones(2) for word in ("gamma", "beta", "running_mean", "running_var")}
    with running_exported(path, symbol, tensors, rng.normal(size=(images, 1, 4, 4)).astype(np.float32)) as output:
        return output()


def test_a_sound_graph_runs(tmp_path) -> None:
    path = write(tmp_path / "x-symbol.json", graph())
    assert run(path, read_symbol(path).for_mxnet(9)).shape == (1, 3)


def test_a_crash_of_mxnet_is_one_line(tmp_path) -> None:
    symbol = json.dumps(graph() | {"heads": [[9, 1, 0]]}).encode()
    with pytest.raises(
        WeightsError, match=r"x-symbol\.json: MXNet cannot run it: the process (was killed by|ended with exit code)"
    ):
        run(tmp_path / "x-symbol.json", symbol)


def test_an_error_of_mxnet_is_one_line(tmp_path) -> None:
    symbol = graph()
    symbol["nodes"][2]["attrs"]["num_filter"] = "5"
    path = write(tmp_path / "x-symbol.json", symbol)
    with pytest.raises(WeightsError, match=r"x-symbol\.json: MXNet cannot run it: ") as refused:
        run(path, read_symbol(path).for_mxnet(9))
    assert "/tmp" not in str(refused.value).removeprefix(str(path))


def test_a_network_that_takes_too_long_is_told_and_each_image_has_its_time(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(exported, "SECONDS", 0.01)
    path = write(tmp_path / "x-symbol.json", graph())
    symbol = read_symbol(path).for_mxnet(9)
    with pytest.raises(WeightsError, match=r"x-symbol\.json: MXNet cannot run it: the process takes too long$"):
        run(path, symbol)
    assert run(path, symbol, images=30_000).shape == (30_000, 3)


def test_a_graph_under_another_name_is_told(tmp_path) -> None:
    assert graph_elsewhere(tmp_path / "net-0000.params") == ""
    (tmp_path / "other-symbol.json").write_text("{}")
    said = "other-symbol.json lies beside the file; its graph is looked for as net-symbol.json"
    assert graph_elsewhere(tmp_path / "net-0000.params") == said
    (tmp_path / "net-symbol.json").write_text("{}")
    assert graph_elsewhere(tmp_path / "net-0000.params") == ""
