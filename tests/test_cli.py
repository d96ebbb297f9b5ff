import importlib
import json
import os
import re
import subprocess
import sys
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.runs import TINY
from helpers.sabotage import Saboteur, only
from resnet_xf import draw_weights, get_spec, list_models, save_weights
from resnet_xf.architecture.weights import SPEC_KEY, write_arrays
from resnet_xf.cli.application import COMMANDS


def test_list(command) -> None:
    code, out, _ = command("list")
    assert code == 0
    for name in list_models():
        assert re.search(rf"^{name} ", out, re.MULTILINE)
    assert re.search(r"11,689,512 +1\.814 +224×224 +torchvision", out)


def test_list_filters(command) -> None:
    rows = json.loads(command("list", "--filter", "cifar*", "--json")[1])
    assert {row["reference"] for row in rows} == {"gluoncv"}
    assert {"name", "parameters", "macs", "reference"} <= set(rows[0])
    assert len(rows) == 13
    assert command("list", "--filter", "zzz")[0] == 2


def test_list_as_json(command) -> None:
    code, out, _ = command("list", "--json")
    assert code == 0
    first = json.loads(out)[0]
    assert (first["name"], first["parameters"], first["macs"]) == ("resnet18", 11_689_512, 1_814_073_344)


def test_list_works_where_no_framework_is_installed(tmp_path) -> None:
    for name in ("torch", "mxnet", "torchvision", "timm"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from resnet_xf import cli; cli.main()"
    done = subprocess.run([sys.executable, "-c", code, "list"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resnet152" in done.stdout


def test_show(command) -> None:
    code, out, _ = command("show", "d2l_resnet18", "--top", "--image-size", "224")
    assert code == 0
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert lines[1] == ["conv1", "conv", "1×64×112×112", "3,200", "39,337,984"]
    assert lines[-1][0] == "total"
    assert lines[-1][3] == "11,178,378"
    assert len(lines) == 13


def test_show_as_toml_is_the_spec(command, tmp_path) -> None:
    code, out, _ = command("show", "resnet50_v1", "--toml")
    assert code == 0
    path = tmp_path / "mine.toml"
    path.write_text(out)
    assert get_spec(path) == get_spec("resnet50_v1")
    assert command("show", path)[0] == 0


@pytest.mark.parametrize("backend", ["none", "torch", "mxnet", "gluon"])
def test_trace_is_the_same_by_arithmetic_and_by_running(command, backend: str) -> None:
    wanted = command("trace", "d2l_resnet18", "--image-size", "224", "--batch", "2", "--backend", "none", "--json")[1]
    code, out, _ = command(
        "trace", "d2l_resnet18", "--image-size", "224", "--batch", "2", "--backend", backend, "--json"
    )
    assert code == 0
    assert json.loads(out) == json.loads(wanted)
    top = command("trace", "d2l_resnet18", "--backend", backend, "--top", "--json")[1]
    assert [row["name"] for row in json.loads(top)][-3:] == ["global_pool", "flatten", "fc"]


def test_parity_holds(command) -> None:
    code, out, _ = command("parity", "cifar_resnet20", "--level", "quick")
    assert code == 0
    assert "torch, mxnet and onnx are the same network in inference (5 rungs hold)" in out
    assert len(re.findall(r"^ +\d  .* pass ", out, re.MULTILINE)) == 5


def test_parity_as_json(command) -> None:
    code, out, _ = command("parity", "cifar_resnet20", "--image-size", "37x41", "--level", "quick", "--json")
    assert code == 0
    assert json.loads(out)["input_shape"] == [2, 3, 37, 41]


def test_parity_that_fails_exits_with_one(command, monkeypatch) -> None:
    from helpers.sabotage import Saboteur, only
    from resnet_xf.backend import registry as backend
    from resnet_xf.ladder import climb as ladder

    broken = Saboteur("mxnet", node=only("layer2.0.bn1", eps=1e-3))
    monkeypatch.setattr(ladder, "get_backend", lambda name: broken if name == "mxnet" else backend.get_backend(name))
    code, out, _ = command("parity", "d2l_resnet18")
    assert code == 1
    assert "differ on rung 1 (shapes) at layer2.0.bn1: eps 1e-05 in the plan, 0.001 in mxnet" in out
    assert re.search(r"^ +5  forward float32 +skip ", out, re.MULTILINE)


def test_parity_on_a_folder_and_saved_weights(command, tmp_path) -> None:
    from PIL import Image
    from sklearn.datasets import load_sample_images

    for number, image in enumerate(load_sample_images().images):
        Image.fromarray(image).save(tmp_path / f"{number}.jpg")
    save_weights(tmp_path / "w.safetensors", draw_weights(TINY, seed=9), TINY)
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())
    quick = ("--image-size", 32, "--level", "quick", "--json")
    options = ("--images", tmp_path, "--weights", tmp_path / "w.safetensors", *quick)
    code, out, _ = command("parity", tmp_path / "tiny.toml", *options)
    assert code == 0
    report = json.loads(out)
    assert report["input_shape"] == [2, 1, 32, 32]
    assert str(tmp_path) in report["images"]
    assert "w.safetensors" in report["weights"]
    code, out, _ = command("parity", tmp_path / "w.safetensors", *quick)
    assert code == 0
    assert json.loads(out)["spec"]["name"] == "tiny"
    code, _, err = command("parity", "resnet18", *options)
    assert code == 2
    assert "w.safetensors: does not hold the weights of resnet18: " in err


def test_accuracies_of_one_network_of_several_in_a_file(command, tmp_path) -> None:
    """All of it is read; then the data set is refused, before anything is trained."""
    path, arrays = tmp_path / "two.safetensors", {f"first.{name}": array for name, array in draw_weights(TINY).items()}
    write_arrays(path, arrays | {"second.weight": np.zeros(3, np.float32)}, {SPEC_KEY: TINY.to_json()})
    options = ("--accuracy", "--dataset", "nope", "--level", "quick")
    code, _, err = command("parity", path, "--prefix", "first", *options)
    assert (code, err.partition(";")[0]) == (2, "resnet-xf: no data set is called 'nope'")
    code, _, err = command("parity", path, *options)
    assert (code, "follow no known layout" in err) == (2, True)


@cache
def run_once(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def diagnosed_once(monkeypatch) -> None:
    """The process in which a backend is imported runs once for all tests."""
    runs = SimpleNamespace(run=lambda command, **options: run_once(*command))
    monkeypatch.setattr("resnet_xf.backend.doctor.subprocess", runs)


def test_doctor(command, diagnosed_once) -> None:
    code, out, _ = command("doctor")
    assert code == 0
    assert re.search(r"^torch \(PyTorch\): usable, version \d", out, re.MULTILINE)
    assert re.search(r"^mxnet \(Apache MXNet Gluon\): usable, version 1\.9\.1, devices cpu", out, re.MULTILINE)
    data = json.loads(command("doctor", "--json")[1])
    assert [one["usable"] for one in data["backends"]] == [True, True, True]


def test_doctor_tells_what_is_missing_and_how_to_mend_it(command, diagnosed_once, monkeypatch) -> None:
    from resnet_xf.backend import doctor

    monkeypatch.setattr(doctor, "is_installed", lambda name: name == "torch")
    code, out, _ = command("doctor")
    assert code == 0
    assert "mxnet (Apache MXNet Gluon): not installed\n  mend: pip install" in out
    monkeypatch.setattr(doctor, "is_installed", lambda name: False)
    assert "mxnet" in command("doctor")[1]
    assert command("doctor")[0] == 1


def test_version(command) -> None:
    code, out, _ = command("--version")
    assert code == 0
    assert re.fullmatch(r"resnet-xf \d+\.\d+\.\d+\n", out)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("show", "resnet19"), "no spec is called 'resnet19': did you mean"),
        (("show", "none.toml"), "none.toml: No such file"),
        (("trace", "resnet18", "--backend", "tensorflow"), "no backend is called 'tensorflow'; choose one of torch"),
        (("parity", "resnet18", "--backends", "torch"), "two or more different backends"),
        (("parity", "resnet18", "--images", "none"), "none: no such folder"),
        (("parity", "resnet18", "--weights", "none.safetensors"), "none.safetensors: No such file"),
    ],
)
def test_bad_use_is_one_line_and_exit_code_two(command, tmp_path, monkeypatch, arguments, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("resnet-xf: ")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("show",),
        ("show", "resnet18", "--image-size", "one,two"),
        ("parity", "resnet18", "--image-size", "0"),
        ("parity", "resnet18", "--image-size", "1x2x3"),
        ("parity", "resnet18", "--seed", "-1"),
    ],
)
def test_bad_arguments_exit_with_two_and_no_traceback(command, arguments) -> None:
    code, _, err = command(*arguments)
    assert code == 2
    assert "Traceback" not in err
    assert "Usage" in err
    assert "Error: " in err


def test_a_malformed_spec_file_names_file_and_field(command, tmp_path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('name = "x"\nstages = [{ depth = 0, channels = 8 }]\n')
    code, _, err = command("parity", path)
    assert code == 2
    assert "bad.toml: $.stages[0].depth: expected `int` >= 1" in err


def test_a_network_too_large_for_memory_is_one_line(command, tmp_path) -> None:
    path = tmp_path / "huge.toml"
    path.write_text('name = "x"\nstages = [{ depth = 1, channels = 1000000 }]\n')
    code, _, err = command("parity", path, "--image-size", "8")
    assert code == 2
    assert re.fullmatch(r"resnet-xf: not enough memory: the weights need [\d,]+ GiB, and this machine has \d+\n", err)
    assert command("trace", path, "--image-size", "8", "--backend", "torch")[0] == 2


def test_fields_that_contradict_each_other_are_told_with_their_file(command, tmp_path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('name = "x"\nstages = [{ depth = 1, channels = 8, groups = 3 }]\n')
    code, _, err = command("show", path)
    assert code == 2
    assert "bad.toml: $.stages[0].groups: 3 does not divide" in err


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "resnet_xf", "list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "resnet-xf: output: No space left on device\n"


def test_a_terminal_without_the_times_sign_is_no_error() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-m", "resnet_xf", "list"], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_summaries_fit_in_eighty_columns_and_open_the_docstrings(monkeypatch) -> None:
    environment = os.environ | {"COLUMNS": "80"}
    shown = subprocess.run([sys.executable, "-m", "resnet_xf", "-h"], capture_output=True, text=True, env=environment)
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for entry in COMMANDS:
        assert f"  {entry.name:14}  {entry.summary}" in lines
        module = importlib.import_module(f"resnet_xf.cli.{entry.module}")
        functions = {info.name or info.callback.__name__: info.callback for info in module.app.registered_commands}
        assert functions[entry.name].__doc__.splitlines()[0] == entry.summary


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_every_command_has_short_and_long_help(command, entry) -> None:
    code, out, _ = command(entry.name, "-h")
    assert code == 0
    assert entry.summary in out
    assert (code, out) == command(entry.name, "--help")[:2]


def test_the_shell_completes_commands_options_and_networks() -> None:
    def completions(words: str) -> list[str]:
        environment = os.environ | {"_RESNET_XF_COMPLETE": "complete_bash", "COMP_WORDS": words}
        environment["COMP_CWORD"] = str(len(words.split(" ")) - 1)
        program = "import sys; from resnet_xf.cli import main; sys.argv = ['resnet-xf']; main()"
        shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        assert shown.stderr == ""
        return shown.stdout.split()

    assert completions("resnet-xf p") == ["parity", "predict"]
    assert completions("resnet-xf bench --ima") == ["--image-size"]
    assert completions("resnet-xf show resnet50") == [name for name in list_models() if name.startswith("resnet50")]


def test_trace_says_whether_the_native_network_is_as_the_spec_says(command, monkeypatch) -> None:
    code, out, _ = command("trace", "d2l_resnet18", "--image-size", "64", "--backend", "mxnet")
    assert code == 0
    assert out.splitlines()[-1] == "d2l_resnet18 on mxnet 1.9.1: every layer is as the spec says"
    broken = Saboteur("torch", node=only("conv1", bias=True))
    monkeypatch.setattr(importlib.import_module("resnet_xf.cli.backends"), "get_backend", lambda name: broken)
    code, out, _ = command("trace", "cifar_resnet20")
    assert code == 1
    assert out.splitlines()[-1].endswith(": differs from the spec in conv1, the whole network")
    assert command("trace", "cifar_resnet20", "--top", "--json")[0] == 1


@pytest.mark.parametrize("name", ["show", "trace"])
def test_the_old_option_for_the_size_names_the_new_ones(command, name: str) -> None:
    code, _, err = command(name, "resnet18", "--input", "1,3,224,224")
    assert code == 2
    assert "was replaced by --image-size HxW and --batch N" in err
    assert "--input" not in command(name, "--help")[1]


@pytest.mark.parametrize(
    "arguments, unused",
    [
        ("--help", "rich pydantic numpy"),
        ("list", "pydantic numpy safetensors PIL sklearn"),
        ("show resnet18", "pydantic numpy"),
    ],
)
def test_no_command_imports_a_heavy_library_it_does_not_need(arguments: str, unused: str) -> None:
    program = "import sys; from resnet_xf.cli import main; import atexit; atexit.register(lambda: print(*sys.modules))"
    command = [sys.executable, "-c", f"{program}; main()", *arguments.split()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {*unused.split()} & {*shown.stdout.splitlines()[-1].split()}
