"""Evidence of an original MXNet network: recorded by the script alone, and compared without MXNet."""

import ast
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from helpers.graphs import (
    ENDINGS,
    GRAPHS,
    SHAPE,
    arcface,
    head,
    in_half,
    preactivation,
    shared_norm,
    stem,
    sym,
    tensors_of,
    write,
)
from helpers.runs import TINY
from helpers.sabotage import Saboteur, only
from resnet_xf import convert, draw_weights, get_backend, parity_against, plan, write_checkpoint
from resnet_xf.errors import EvidenceError
from resnet_xf.formats.converters import LAST, LEFT_OUT
from resnet_xf.formats.gluon_symbol import CASTS, FLOATS
from resnet_xf.ladder.capture import against, script
from resnet_xf.ladder.capture.recorded import MEMBERS, read_evidence

WEIGHTS = draw_weights(TINY, 3, "probe")
BLOCK = ("--block", f"{__name__}:build_tiny", "--shape", "1,16,16")


def build_tiny() -> Any:
    """What a user's own module would have: a function that returns an initialised block."""
    mxnet = get_backend("mxnet")
    network = mxnet.build(plan(TINY).root, "float32")
    mxnet.load(network, WEIGHTS)
    return network


def recorded(folder: Path, *arguments: object) -> Path:
    out = folder / "evidence.npz"
    assert script.main([*map(str, arguments), "--out", str(out)]) == 0
    return out


def exported(
    folder: Path, symbol: Any, *options: object, shape: tuple[int, ...] = SHAPE, keep_softmax: bool = False
) -> tuple[Path, Path]:
    """Evidence of a graph with drawn weights, and the converted checkpoint, with nothing of MXNet beside it."""
    path = write(folder, symbol, tensors_of(symbol, shape), symbol.tojson(remove_amp_cast=False))
    evidence = recorded(folder, folder / "net-symbol.json", path, "--batch", 2, *options)
    (folder / "torch").mkdir()
    convert(path, folder / "torch" / "tuned.safetensors", verify=False, keep_softmax=keep_softmax)
    return evidence, folder / "torch" / "tuned.safetensors"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return recorded(tmp_path_factory.mktemp("tiny"), *BLOCK)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_that_is_read_is_compared(tmp_path, name: str) -> None:
    last = name == "preprocessing by constants"
    shape, option = ((2, 16, 16, 3), "16,16,3") if last else (SHAPE, "3,16,16")
    evidence, tuned = exported(tmp_path, GRAPHS[name](), "--shape", option, shape=shape)
    report = parity_against([evidence], weights=tuned, level="quick")
    assert [rung.status for rung in report.rungs] == ["pass"] * 5, report.verdict()


@pytest.mark.parametrize("draw", [preactivation, arcface])
def test_layers_and_gradients_are_compared(tmp_path, draw: Callable[[], Any]) -> None:
    evidence, tuned = exported(tmp_path, draw(), "--shape", "3,16,16")
    report = parity_against([evidence], weights=tuned)
    assert [rung.status for rung in report.rungs] == ["pass"] * 7 + ["skip"], report.verdict()
    assert len(report.layers) >= len(plan(report.spec).root.named_children())
    assert "the other's inputs were not recorded" in report.rungs[5].detail
    assert report.verdict().endswith("8 skipped: evidence.npz holds one training step)")
    assert "are the same network in inference (7 rungs hold" in report.verdict()
    assert ("softmax at its end is left out" in report.weights) == (draw is preactivation)


@pytest.mark.parametrize("name", ["casts", "shared statistics", *ENDINGS])
def test_what_float64_and_plans_do_not_have_is_left_out(tmp_path, name: str) -> None:
    if name in ENDINGS:
        symbol = ENDINGS[name](GRAPHS["a projection after one layer"]())
    else:
        symbol = in_half(casts=True) if name == "casts" else head(shared_norm(stem(), "norm"))
    evidence, tuned = exported(tmp_path, symbol, "--shape", "3,16,16")
    report = parity_against([evidence], weights=tuned)
    assert [rung.status for rung in report.rungs] == ["pass"] * 7 + ["skip"], report.verdict()


@pytest.mark.parametrize("op", ["SoftmaxOutput", "LogisticRegressionOutput"])
def test_probabilities_that_a_file_keeps_are_no_difference(tmp_path, op: str) -> None:
    """A softmax is left out of both; a sigmoid stays in both."""
    symbol = getattr(sym, op)(GRAPHS["a projection after one layer"](), name="end")
    evidence, tuned = exported(tmp_path, symbol, "--shape", "3,16,16", keep_softmax=True)
    for spec in (None, str(tuned)):
        report = parity_against([evidence], spec=spec, weights=tuned)
        assert [rung.status for rung in report.rungs] == ["pass"] * 7 + ["skip"], report.verdict()


def test_what_was_not_recorded_is_named(tmp_path) -> None:
    """MXNet's group norm has one scale for each group, whose gradient is a sum over ours."""
    evidence, tuned = exported(tmp_path, GRAPHS["group norm"](), "--shape", "3,16,16")
    rungs = parity_against([evidence], weights=tuned).rungs
    assert [rung.status for rung in rungs] == ["pass"] * 7 + ["skip"]
    assert rungs[6].detail.endswith("; not recorded: gn0.weight, gn0.bias")
    evidence.write_bytes(evidence.read_bytes()[:-1])
    with pytest.raises(EvidenceError, match="capture again"):
        read_evidence(evidence)


@pytest.mark.parametrize(
    "planted, rung, where",
    [
        ({"node": only("layer1.0.bn1", eps=1e-4), "tells": False}, "forward float64", "layer1.0.bn1"),
        ({"node": only("layer1.0.bn1", momentum=0.2), "tells": False}, "gradients", "layer1.0.bn1"),
        (
            {"altered": {"layer2.0.act1": lambda framework, forward, x: forward(x) * (1 + 1e-9)}},
            "forward float64",
            "layer2.0.act1",
        ),
    ],
)
def test_a_defect_is_found_at_its_layer(tiny, tmp_path, planted, rung: str, where: str) -> None:
    write_checkpoint(tmp_path / "tuned.safetensors", WEIGHTS, TINY)
    report = parity_against([tiny], [Saboteur("torch", **planted)], weights=tmp_path / "tuned.safetensors")
    assert (report.failure.name, report.failure.where) == (rung, where)


@pytest.mark.parametrize(
    "changes, rung, where, says",
    [
        ({"norm_eps": 1e-3}, "shapes", "bn1", "eps 0.001 in the plan, 1e-05 in mxnet"),
        ({"norm_momentum": 0.01}, "shapes", "bn1", "momentum 0.01 in the plan, 0.1 in mxnet"),
        ({"preactivation": True}, "shapes", "", ""),
    ],
)
def test_a_file_of_another_network_differs(tiny, tmp_path, command, changes, rung: str, where: str, says: str) -> None:
    spec = msgspec.structs.replace(TINY, **changes)
    weights = WEIGHTS if where else draw_weights(spec)
    write_checkpoint(tmp_path / "tuned.pth", weights, spec)
    code, out, err = command("parity", tmp_path / "tuned.pth", "--against", tiny, "--json")
    report = json.loads(out)
    assert (code, err, report["holds"]) == (1, "", False)
    failure = next(one for one in report["rungs"] if one["status"] == "fail")
    assert failure["name"] == rung
    assert where in (failure["where"], "")
    assert says in failure["detail"]


def test_the_graph_tells_the_network_of_a_bare_file(tiny, tmp_path, command) -> None:
    write_checkpoint(tmp_path / "tuned.pth", WEIGHTS, TINY)
    (tmp_path / "tuned.pth.json").unlink()
    code, out, err = command("parity", tmp_path / "tuned.pth", "--against", tiny, "--level", "quick")
    assert (code, err) == (0, "")
    assert "mxnet 1.9.1 (recorded under Python " in out
    write_checkpoint(tmp_path / "other.pth", WEIGHTS | {"fc.bias": WEIGHTS["fc.bias"] * np.float32(1.25)}, TINY)
    code, out, _ = command("parity", tmp_path / "other.pth", "--against", tiny, "--html", tmp_path / "report.html")
    assert code == 1
    assert "differ on rung 2 (weights) at fc.bias: is not the original's, by about 0.25; 1 of 32 differ" in out
    assert "fc.bias" in (tmp_path / "report.html").read_text()


def test_one_of_several_networks_in_a_file_is_compared(tiny, tmp_path, command) -> None:
    others = draw_weights(TINY, 4)
    both = {f"{prefix}.{n}": a for prefix, arrays in (("a", WEIGHTS), ("b", others)) for n, a in arrays.items()}
    save_file(both, tmp_path / "both.safetensors")
    for prefix, expected in (("a.", 0), ("b.", 1)):
        options = ("--prefix", prefix, "--against", tiny, "--level", "quick")
        code, _, err = command("parity", tmp_path / "both.safetensors", *options)
        assert (code, err) == (expected, "")


@pytest.mark.parametrize(
    ("noise", "shift", "status"), [(0.0, 5e-13, "fail"), (1e-4, 5e-13, "pass"), (1e-4, 1e-9, "fail")]
)
def test_the_original_s_own_rounding_errors_count_and_hide_no_defect(
    tiny, monkeypatch, noise: float, shift: float, status: str
) -> None:
    evidence = read_evidence(tiny)
    for dtype, change in (("float32", noise), ("float64", shift)):
        gradients = evidence.parts[f"gradients_{dtype}"]
        name = [*gradients][-1]
        gradients[name] = gradients[name] + change * np.abs(gradients[name]).max()
    monkeypatch.setattr(against, "read_evidence", lambda path: evidence)
    report = parity_against([tiny], spec=TINY, weights=WEIGHTS)
    assert report.rungs[6].status == status, report.verdict()


def test_evidence_is_compared_with_mxnet_too(tiny) -> None:
    report = parity_against([tiny], "mxnet,torch", spec=TINY, weights=WEIGHTS, level="quick")
    assert report.holds
    assert set(report.backends) == {"torch", "mxnet", f"mxnet of {tiny}"}


def test_what_cannot_be_compared_is_refused(tiny, tmp_path, command) -> None:
    write_checkpoint(tmp_path / "tuned.safetensors", WEIGHTS, TINY)
    for says, arguments in {
        "holds no weights; name a file of them: resnet-xf parity FILE": [],
        "leave out --accuracy and --level full": [tmp_path / "tuned.safetensors", "--level", "full"],
        "none.npz: there is no such file or folder": ["--against", tmp_path / "none.npz"],
        "is compared alone": [tmp_path / "tuned.safetensors", "--against", tiny],
        "leave out those options": [tmp_path / "tuned.safetensors", "--image-size", "32"],
        "does not hold the weights": ["resnet18", "--weights", tmp_path / "tuned.safetensors"],
    }.items():
        code, out, err = command("parity", *arguments, "--against", tiny)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert says in err


def rewritten(path: Path, out: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def facts(**changes: object) -> Callable[[dict[str, bytes]], object]:
    """Change what the file says."""

    def change(members: dict[str, bytes]) -> None:
        said = json.loads(members["facts.npy"][128:]) | changes
        members["facts.npy"] = npy(np.frombuffer(json.dumps(said).encode(), np.uint8))

    return change


HUGE = npy(np.zeros(1)).replace(b"(1,)", b"(1099511627776,)")

DAMAGES: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "an array is missing": (lambda members: members.pop("layers.npy"), "'layers' is missing or left over"),
    "an array is left over": (lambda members: members.update({"x.npy": npy(np.zeros(1))}), "'x' is missing"),
    "an array was changed": (lambda members: members.update({"images.npy": npy(np.zeros((4, 1, 16, 16), "f4"))}), "images is not what was recorded"),
    "an array of objects": (lambda members: members.update({"layers.npy": npy(np.array([{}], object))}), "layers: has dtype object"),
    "a huge array": (lambda members: members.update({"layers.npy": HUGE}), "do not fit its"),
    "no array": (lambda members: members.update({"layers.npy": b"x"}), "capture again"),
    "facts that are no text": (lambda members: members.update({"facts.npy": npy(np.full(9, 255, np.uint8))}), "capture again"),
    "NaN": (lambda members: members.update({"layers.npy": npy(np.full(3, np.nan))}), "layers: holds NaN"),
    "another format": (facts(format=2), "is of format 2, and this resnet-xf reads 1; capture again"),
    "no arrays": (facts(arrays={}), "weights: has the shape"),
    "a negative shape": (facts(layers={"x": [-1]}), "'x' has the shape (-1,)"),
    "another head": (facts(head="x"), "is of the output 'x', which the graph has not"),
    "losses of other names": (facts(losses={}), "losses in"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_evidence_is_refused_in_one_line(tiny, tmp_path, command, damage: str) -> None:
    change, says = DAMAGES[damage]
    path = rewritten(tiny, tmp_path / "e.npz", change)
    write_checkpoint(tmp_path / "tuned.safetensors", WEIGHTS, TINY)
    code, out, err = command("parity", tmp_path / "tuned.safetensors", "--against", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"resnet-xf: {path}: ")
    assert says in err


@pytest.mark.parametrize("content", [b"", b"x" * 99, b"PK\x03\x04" + b"\0" * 99], ids=["empty", "text", "a broken zip"])
def test_what_is_no_evidence_is_refused(tmp_path, content: bytes) -> None:
    (tmp_path / "e.npz").write_bytes(content)
    with pytest.raises(EvidenceError, match=r"e\.npz: not readable as evidence of `resnet-xf capture-script`"):
        read_evidence(tmp_path / "e.npz")


def test_the_script_is_of_python_3_6_and_knows_what_the_reader_knows(command) -> None:
    code, out, err = command("capture-script")
    assert (code, err) == (0, "")
    ast.parse(out, feature_version=(3, 6))
    imported = {node.names[0].name for node in ast.walk(ast.parse(out)) if isinstance(node, ast.Import)}
    assert imported - {"numpy"} <= {"argparse", "contextlib", "hashlib", "importlib", "io", "json", "os", "platform", "sys", "warnings"}  # fmt: skip
    assert "mxnet" not in imported  # it is imported when the script runs
    assert set(script.ENDINGS) == LAST | LEFT_OUT
    assert (set(script.CASTS), script.FLOATS) == ({*CASTS, "amp_multicast"}, FLOATS)


def test_a_sketch_shows_every_change_and_every_swap() -> None:
    values = np.random.default_rng(0).standard_normal(100_000)
    assert script.sketch(values).size == script.CHUNKS
    for place in (0, 1, 50_000, 99_999):
        changed, swapped = values.copy(), values.copy()
        changed[place] += 1e-6
        swapped[[place, place - 1]] = swapped[[place - 1, place]]
        for other, least in ((changed, 1e-8), (swapped, 1e-3)):
            assert np.abs(script.sketch(other) - script.sketch(values)).max() > least
    np.testing.assert_array_equal(script.sketch(values[:256]), values[:256])


def test_the_script_refuses_in_one_line(tmp_path, capfd) -> None:
    symbol = preactivation()
    path = write(tmp_path, symbol, tensors_of(symbol))
    graph, out = tmp_path / "net-symbol.json", tmp_path / "e.npz"
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "two-symbol.json").write_text(sym.Group([symbol, symbol]).tojson())
    np.save(tmp_path / "flat.npy", np.zeros((2, 3)))
    partly = {name: array for name, array in tensors_of(symbol).items() if "conv0" not in name}
    shutil.copy(path, tmp_path / "whole.params")
    less = write(tmp_path, symbol, partly)
    for says, arguments in {
        "give net-symbol.json and net-0000.params, or --block": [graph],
        "no.params: there is no such file": [graph, tmp_path / "no.params"],
        "bad.json: MXNet cannot read it as a graph": [tmp_path / "bad.json", less],
        "net-symbol.json: MXNet cannot read it as parameters": [graph, graph],
        "the network has 2 outputs; expected one": [tmp_path / "two-symbol.json", tmp_path / "whole.params"],
        "2 inputs of the graph have no array; expected one, the images; give the .params of this graph: data, conv0_weight": [
            graph,
            less,
        ],
        "images of shape (4, 16, 16) do not fit": [graph, tmp_path / "whole.params", "--shape", "4,16,16"],
        "holds float64 (2, 3); expected images": [graph, tmp_path / "whole.params", "--images", tmp_path / "flat.npy"],
        "--batch is 1": [graph, tmp_path / "whole.params", "--batch", 1],
        "--block no_such_module:f: ModuleNotFoundError": ["--block", "no_such_module:f"],
        f"--block {__name__}:recorded: TypeError": ["--block", f"{__name__}:recorded"],
    }.items():
        assert script.main([*map(str, arguments), "--out", str(out)]) == 2
        err = capfd.readouterr().err.splitlines()
        assert err[-1].startswith("capture.py: "), says
        assert says in err[-1]
    assert script.main([str(graph), str(tmp_path / "whole.params"), "--out", str(tmp_path)]) == 2
    assert not out.exists()
    assert set(MEMBERS) == {*np.load(recorded(tmp_path, *BLOCK)).files}
