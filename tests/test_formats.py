"""Checkpoints in at one framework and out at the other."""

import hashlib
import json
import os
import pickle
import shlex
import struct
import subprocess
import sys

import msgspec
import numpy as np
import pytest
import torch

from resnet_xf import (
    ResNetSpec,
    Stage,
    Stem,
    build,
    convert,
    draw_weights,
    get_backend,
    get_spec,
    load,
    plan,
    read_checkpoint,
    save_weights,
    write_checkpoint,
)
from resnet_xf.architecture.measures import relative_error
from resnet_xf.architecture.nodes import Norm, walk
from resnet_xf.architecture.spec import ExplicitSpec
from resnet_xf.architecture.weights import all_weight_shapes
from resnet_xf.architecture.zoo import relatives
from resnet_xf.data import photographs, sample_images
from resnet_xf.errors import BackendError, DataError, WeightsError
from resnet_xf.formats.families import LAYOUTS
from resnet_xf.formats.gluon_params import read_params, write_params
from resnet_xf.formats.identify import identify
from resnet_xf.formats.inspect import inspect
from resnet_xf.formats.layouts import places
from resnet_xf.formats.matching import kernels
from resnet_xf_mxnet.numpy_compat import mx

SMALL = ResNetSpec(
    name="small", stem=Stem(width=8), stages=(Stage(depth=1, channels=8), Stage(depth=1, channels=8, stride=2)), num_classes=3
)  # fmt: skip


def array(values: np.ndarray):
    made = mx.nd.empty(values.shape, dtype=values.dtype)
    made[:] = values
    return made


def same(ours, theirs) -> bool:
    return list(ours) == list(theirs) and all(ours[k].tobytes() == theirs[k].tobytes() for k in ours)


def state_dict(network: torch.nn.Module) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}


def torchs_own(name: str) -> torch.nn.Module:
    """The network that a round trip begins with: torchvision's or timm's, or ours where they have none."""
    import timm
    import torchvision

    torch.manual_seed(0)
    if name in ("resnet18", "resnet50", "resnext50_32x4d"):
        network = torchvision.models.get_model(name, weights=None)
    elif name == "seresnet50":
        network = timm.create_model(name)
    else:
        network = get_backend("torch").build(plan(name).root)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.ndim == 1 and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize("name", ["resnet18", "resnet18_v2", "cifar_resnet20", "seresnet50"])
def test_round_trips_to_the_bit(name: str, tmp_path) -> None:
    network = torchs_own(name)
    wanted = state_dict(network)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors", get_spec(name), verify=False)
    # These say which network it is. It is run at the last of the conversions, with the same weights.
    for source, target in (("b.safetensors", "c.params"), ("c.params", "d.safetensors")):
        assert convert(tmp_path / source, tmp_path / target, verify=False).spec == get_spec(name)
    last = convert(tmp_path / "d.safetensors", tmp_path / "e.pth")
    assert last.spec.num_classes == get_spec(name).num_classes
    returned = torch.load(tmp_path / "e.pth", weights_only=True)
    assert list(returned) == list(network.state_dict())
    network.load_state_dict(returned, strict=True)
    assert same(state_dict(network), wanted)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "name, zoo", [("resnet18", "resnet18_v1"), ("resnet50_v1", "resnet50_v1"), ("resnet18_v2", "resnet18_v2")]
)
def test_what_we_write_loads_into_the_zoos_own_network_and_gives_its_outputs(name: str, zoo: str, tmp_path) -> None:
    weights = draw_weights(name, scheme="probe")
    write_checkpoint(tmp_path / "ours.params", weights, plan(name))
    network = mx.gluon.model_zoo.vision.get_model(zoo)
    network.load_parameters(str(tmp_path / "ours.params"))
    network.cast("float64")
    ours = build(name, "mxnet", weights=weights, dtype="float64")
    shown = photographs((64, 64)).astype("float64")
    assert relative_error(get_backend("mxnet").forward(ours, shown), network(array(shown)).asnumpy()) < 1e-13


def test_what_we_write_loads_into_our_gluon_network_where_the_zoo_has_none(tmp_path) -> None:
    weights = draw_weights("seresnet50", scheme="probe")
    write_checkpoint(tmp_path / "ours.params", weights, plan("seresnet50"))
    network = get_backend("mxnet").build(plan("seresnet50").root)
    network.load_parameters(str(tmp_path / "ours.params"))
    assert same(get_backend("mxnet").dump(network), weights)


WITHOUT_MXNET = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mxnet", "torch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
import numpy as np
from resnet_xf import read_checkpoint
from resnet_xf.formats.identify import identify
found = identify(read_checkpoint(sys.argv[1]))
np.savez(sys.argv[2], **found.weights)
print(found.plan.spec.name)
"""


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("how", ["save_parameters", "export"])
@pytest.mark.filterwarnings("ignore")  # MXNet's own, on export
def test_what_mxnet_writes_is_read_without_it_to_the_bit(how: str, dtype: str, tmp_path) -> None:
    network = mx.gluon.model_zoo.vision.get_model("resnet18_v2", classes=7)
    network.initialize(mx.init.Xavier())
    network(mx.nd.zeros((1, 3, 32, 32)))
    if how == "save_parameters":
        network.cast(dtype)
        network.save_parameters(str(tmp_path / "net.params"))
    else:
        network.hybridize()
        network(mx.nd.zeros((1, 3, 32, 32)))
        for param in network.collect_params().values():
            param.cast(dtype)  # a block's own cast would forget the graph to export
        network.export(str(tmp_path / "net"))
    path = next(tmp_path.glob("*.params"))
    command = [sys.executable, "-c", WITHOUT_MXNET, str(path), str(tmp_path / "read.npz")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "resnet18_v2", done.stderr
    read = np.load(tmp_path / "read.npz")
    theirs = network._collect_params_with_prefix()
    expected = {
        p.ours: theirs[p.theirs] for p in places(plan(_with_classes("resnet18_v2", 7)), LAYOUTS[4]) if p.fixed is None
    }
    assert set(read.files) == set(expected)
    for name, param in expected.items():
        assert read[name].tobytes() == param.data().asnumpy().tobytes(), name


def _with_classes(name: str, classes: int) -> ResNetSpec:
    return msgspec.structs.replace(get_spec(name), num_classes=classes)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint8", "int32", "int64"])
def test_params_files_are_mxnets_byte_for_byte(dtype: str, tmp_path) -> None:
    arrays = {"a.weight": np.arange(6).reshape(2, 3).astype(dtype), "b": np.ones((1, 1, 2), dtype)}
    mx.nd.save(str(tmp_path / "theirs.params"), {name: array(values) for name, values in arrays.items()})
    write_params(tmp_path / "ours.params", arrays)
    assert (tmp_path / "ours.params").read_bytes() == (tmp_path / "theirs.params").read_bytes()
    assert same(read_params(tmp_path / "theirs.params"), arrays)


@pytest.mark.parametrize("version", ["V0", "V1", "V3"])
def test_older_and_newer_versions_of_an_array_are_read(version: str, tmp_path) -> None:
    """Records as MXNet 0.10, 0.11 and (under NumPy semantics) 1.5 and later write them; MXNet reads the first two."""
    begin = {
        "V0": struct.pack("<I2I", 2, 2, 3),
        "V1": struct.pack("<II2q", 0xF993FAC8, 2, 2, 3),
        "V3": struct.pack("<Iii2q", 0xF993FACA, 0, 2, 2, 3),
    }[version]
    values = np.arange(6, dtype="<f4")
    record = begin + struct.pack("<iii", 1, 0, 0) + values.tobytes()
    data = struct.pack("<QQQ", 0x112, 0, 1) + record + struct.pack("<QQ", 1, 1) + b"w"
    (tmp_path / "old.params").write_bytes(data)
    assert np.array_equal(read_params(tmp_path / "old.params")["w"], values.reshape(2, 3))
    if version != "V3":
        assert np.array_equal(mx.nd.load(str(tmp_path / "old.params"))["w"].asnumpy(), values.reshape(2, 3))


@pytest.mark.parametrize("stripped", [False, True])
@pytest.mark.parametrize("name", ["resnet50_v1", "resnet18_v2"])
def test_the_prefixed_names_of_old_zoo_files_are_read(name: str, stripped: bool, tmp_path) -> None:
    network = mx.gluon.model_zoo.vision.get_model(name)
    network.initialize(mx.init.Xavier())
    network(mx.nd.zeros((1, 3, 32, 32)))
    network.collect_params().save(str(tmp_path / "old.params"), strip_prefix=network.prefix if stripped else "")
    found = identify(read_checkpoint(tmp_path / "old.params"))
    assert found.plan.spec == get_spec(name)
    assert found.prefix == ("" if stripped else network.prefix)
    if (name, stripped) == ("resnet18_v2", False):  # the small one; stripped, it would only be run again
        done = convert(tmp_path / "old.params", tmp_path / "out.pth")
        assert [check.theirs for check in done.checks] == [f"gluon's own {name}"] * 2
    network.save_parameters(str(tmp_path / "new.params"))
    assert same(found.weights, identify(read_checkpoint(tmp_path / "new.params")).weights)


def test_a_fine_tuned_checkpoint_gives_the_same_logits_in_gluon(tmp_path) -> None:
    import torchvision

    torch.manual_seed(1)
    network = torchvision.models.resnet50(num_classes=10).eval()
    state = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "tuned.pth")
    refused(
        tmp_path / "tuned.pth", tmp_path, "could be resnet50, eps 1e-05, stride on the 3×3, no dilation, .*dilation"
    )
    done = convert(tmp_path / "tuned.pth", tmp_path / "tuned.params", get_spec("resnet50"))
    assert (done.spec.name, done.spec.num_classes, done.prefix) == ("resnet50", 10, "backbone.")
    assert not done.guessed
    assert [check.theirs for check in done.checks] == ["torchvision's own resnet50"] * 2
    assert all(check.error < 1e-13 for check in done.checks)
    gluon = get_backend("mxnet").build(plan(done.spec).root)
    gluon.load_parameters(str(tmp_path / "tuned.params"))
    with torch.inference_mode():
        wanted = network(torch.from_numpy(photographs((64, 64)))).numpy()
    assert relative_error(gluon(array(photographs((64, 64)))).asnumpy(), wanted) < 1e-5


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.backbone.", ""])
def test_wrappers_and_prefixes_are_taken_off(prefix: str, tmp_path) -> None:
    weights = draw_weights("d2l_resnet18", scheme="probe")
    tensors = {prefix + name: torch.tensor(values) for name, values in weights.items()}
    torch.save({"model": {"state_dict": tensors}, "optimizer": {}, "epoch": 1}, tmp_path / "a.pt")
    found = identify(read_checkpoint(tmp_path / "a.pt"))
    assert found.plan.spec == get_spec("d2l_resnet18")
    assert same(found.weights, weights)


def test_bfloat16_is_widened_exactly(tmp_path) -> None:
    from safetensors.torch import save_file

    tensors = {name: torch.tensor(values).bfloat16() for name, values in draw_weights("d2l_resnet18").items()}
    torch.save(tensors, tmp_path / "a.pth")
    save_file(tensors, tmp_path / "a.safetensors")
    for path in ("a.pth", "a.safetensors"):
        weights = identify(read_checkpoint(tmp_path / path)).weights
        assert all(np.array_equal(weights[name], tensor.float().numpy()) for name, tensor in tensors.items())


def exported(spec: ResNetSpec, folder, change=lambda text: text, size: int = 32):
    """A network of ours as ``export`` writes it, its symbol changed."""
    network = build(spec, "mxnet")
    get_backend("mxnet").load(network, draw_weights(spec, scheme="probe"))
    network.hybridize()
    network(array(photographs((size, size))))
    network.export(str(folder / "net"))
    symbol = folder / "net-symbol.json"
    symbol.write_text(change(symbol.read_text()))
    return folder / "net-0000.params"


@pytest.mark.filterwarnings("ignore")  # MXNet's own, on export
def test_eps_and_momentum_of_a_symbol_are_carried_in_the_spec(tmp_path) -> None:
    spec = msgspec.structs.replace(get_spec("resnet18"), num_classes=4, norm_eps=2e-3, norm_momentum=0.25)
    done = convert(exported(spec, tmp_path), tmp_path / "out.safetensors")
    assert (done.spec.norm_eps, done.spec.norm_momentum) == (2e-3, 0.25)
    assert done.checks[0].theirs.startswith("the exported network")
    assert read_checkpoint(tmp_path / "out.safetensors").spec == done.spec
    convert(tmp_path / "net-0000.params", tmp_path / "out.pth", verify=False)
    assert read_checkpoint(tmp_path / "out.pth").spec == done.spec  # from the JSON file beside it


@pytest.mark.filterwarnings("ignore")  # MXNet's own, on export
def test_a_norm_with_a_fixed_gamma_has_a_shift_alone(tmp_path) -> None:
    def fix_first(text: str) -> str:
        symbol = json.loads(text)
        norm = next(node for node in symbol["nodes"] if node["op"] == "BatchNorm")
        norm["attrs"]["fix_gamma"] = "True"
        return json.dumps(symbol)

    spec = _with_classes("resnet18", 4)
    done = convert(exported(spec, tmp_path, fix_first), tmp_path / "out.safetensors")
    assert all(check.error < 1e-13 for check in done.checks)  # against the exported network, which ignores that gamma
    assert isinstance(done.spec, ExplicitSpec)
    norms = {name: node for name, node in walk(plan(done.spec).root) if isinstance(node, Norm)}
    assert [name for name, node in norms.items() if not node.scale and node.shift] == ["bn1"]
    weights = read_checkpoint(tmp_path / "out.safetensors").tensors
    assert set(weights) == set(all_weight_shapes(spec)) - {"bn1.weight"}


@pytest.mark.filterwarnings("ignore")  # MXNet's own, on export
def test_norms_of_different_eps_are_carried(tmp_path) -> None:
    path = exported(_with_classes("resnet18", 4), tmp_path, lambda text: text.replace("1e-05", "0.001", 1))
    done = convert(path, tmp_path / "out.safetensors")
    assert all(check.error < 1e-13 for check in done.checks)
    norms = {name: node.eps for name, node in walk(plan(done.spec).root) if isinstance(node, Norm)}
    assert norms.pop("bn1") == 1e-3
    assert set(norms.values()) == {1e-5}


def test_what_else_would_fit_is_said(tmp_path) -> None:
    write_checkpoint(tmp_path / "a.pth", draw_weights("resnet50"), plan("resnet50"))
    (tmp_path / "a.pth.json").unlink()
    others = "resnet50_os16, resnet50_os8, networks with dilation in place of stride have the same names and shapes"
    refused(tmp_path / "a.pth", tmp_path, f"could be resnet50, .*{others}.*--spec resnet50.*--expect outputs.npy")
    with pytest.raises(WeightsError, match="could be resnet50"):
        load(tmp_path / "a.pth", "torch")
    done = convert(tmp_path / "a.pth", tmp_path / "c.pth", get_spec("resnet50_os8"), verify=False)
    assert any("not verified" in note for note in done.notes)
    assert identify(read_checkpoint(tmp_path / "c.pth")).plan.spec.name == "resnet50_os8"


def test_outputs_that_the_owner_still_has_settle_it(tmp_path, command) -> None:
    spec = msgspec.structs.replace(_with_classes("resnet50_os8", 6), norm_eps=1e-3)
    weights = draw_weights(spec, scheme="probe")
    write_checkpoint(tmp_path / "a.pth", weights, plan(spec))
    (tmp_path / "a.pth.json").unlink()
    images = sample_images(3, (32, 32))
    np.save(tmp_path / "images.npy", images)
    outputs = get_backend("torch").forward(build(spec, "torch", weights=weights), images)
    np.save(tmp_path / "outputs.npy", outputs)
    settles = ("--images", tmp_path / "images.npy", "--expect", tmp_path / "outputs.npy")
    code, out, _ = command("convert", tmp_path / "a.pth", tmp_path / "b.safetensors", *settles, "--no-verify")
    assert code == 0
    assert "by the expected outputs it is resnet50_os8, eps 0.001, stride on the 3×3, dilation, inputs normal" in out
    found = read_checkpoint(tmp_path / "b.safetensors").spec
    assert found is not None
    assert plan(found).root == plan(spec).root
    np.save(tmp_path / "outputs.npy", outputs[:, ::-1])
    code, _, err = command("convert", tmp_path / "a.pth", tmp_path / "c.safetensors", *settles)
    assert code == 2
    assert "no network with these names and shapes gives the expected outputs; the nearest, " in err
    np.save(tmp_path / "outputs.npy", outputs[:, :3])
    assert command("convert", tmp_path / "a.pth", tmp_path / "c.safetensors", *settles)[0] == 2
    assert command("convert", tmp_path / "a.pth", tmp_path / "c.safetensors", *settles[:2])[0] == 2
    np.savez(tmp_path / "outputs.npy.npz", outputs)
    (tmp_path / "outputs.npy.npz").rename(tmp_path / "outputs.npy")
    code, _, err = command("convert", tmp_path / "a.pth", tmp_path / "c.safetensors", *settles)
    assert (code, "outputs.npy: is an .npz archive; expected a .npy file" in err) == (2, True)
    assert not (tmp_path / "c.safetensors").exists()


def test_an_eps_is_not_assumed_where_much_depends_on_it(tmp_path) -> None:
    weights = draw_weights("resnet18_v1")
    rng = np.random.default_rng(0)
    for name in weights:
        if name.endswith("running_var"):
            weights[name] = rng.uniform(0.0005, 0.01, weights[name].shape).astype("f4")
    write_checkpoint(tmp_path / "a.params", weights, plan("resnet18_v1"))
    (tmp_path / "a.params.json").unlink()
    refused(
        tmp_path / "a.params", tmp_path, "networks with an eps of 2e-05 or 0.001, whose outputs are up to .* smaller"
    )
    done = convert(tmp_path / "a.params", tmp_path / "b.safetensors", get_spec("resnet18_v1"), verify=False)
    assert done.spec.norm_eps == 1e-5


@pytest.mark.filterwarnings("ignore")  # MXNet's own, on export
def test_the_graph_tells_what_names_and_shapes_do_not(tmp_path) -> None:
    """Names and shapes of a dilated network are those of the plain one."""
    path = exported(get_spec("resnet50_os8"), tmp_path, size=64)
    wrong = r"net-symbol\.json: is not resnet50: its layer3\.0\.conv2, Conv\(.*stride=2.*graph has node layer3_0_conv2_fwd, "
    with pytest.raises(WeightsError, match=wrong):
        convert(path, tmp_path / "b.pth", get_spec("resnet50"))
    assert not (tmp_path / "b.pth").exists()
    done = convert(path, tmp_path / "b.pth")
    assert (done.spec.name, done.guessed) == ("resnet50_os8", False)
    assert done.checks[0].error < 1e-13


@pytest.mark.parametrize("name", ["mine", "resnet50"])
def test_a_spec_is_held_against_the_network_that_it_equals_whatever_its_name(name: str, tmp_path) -> None:
    write_checkpoint(tmp_path / "a.pth", draw_weights("resnet18"), plan("resnet18"))
    spec = msgspec.structs.replace(get_spec("resnet18"), name=name)
    checks = convert(tmp_path / "a.pth", tmp_path / "b.params", spec).checks
    assert [check.theirs for check in checks] == ["torchvision's own resnet18"] * 2
    spec = msgspec.structs.replace(spec, norm_eps=1e-3)
    checks = convert(tmp_path / "a.pth", tmp_path / "b.params", spec).checks
    assert [check.theirs for check in checks] == ["ours on mxnet"]


@pytest.mark.filterwarnings("ignore")  # MXNet's own, on export
def test_a_symbol_beside_a_file_of_structural_names_is_heeded_too(tmp_path) -> None:
    network = mx.gluon.model_zoo.vision.get_model("resnet18_v2", classes=5)
    network.initialize(mx.init.Xavier())
    network.hybridize()
    network(mx.nd.zeros((1, 3, 32, 32)))
    network.export(str(tmp_path / "net"))
    (tmp_path / "net-0000.params").unlink()
    symbol = tmp_path / "net-symbol.json"
    symbol.write_text(symbol.read_text().replace("1e-05", "0.001"))
    network.save_parameters(str(tmp_path / "net.params"))
    done = convert(tmp_path / "net.params", tmp_path / "out.safetensors")
    assert done.spec.norm_eps == 1e-3
    assert [check.theirs for check in done.checks] == [f"the exported network {symbol}"]


@pytest.mark.filterwarnings("ignore")  # MXNet's own, on export
def test_a_symbol_of_another_network_is_refused(tmp_path) -> None:
    for name in ("resnet34_v1", "resnet18_v1"):
        network = mx.gluon.model_zoo.vision.get_model(name, prefix="net_")
        network.initialize()
        network.hybridize()
        network(mx.nd.zeros((1, 3, 32, 32)))
        network.export(str(tmp_path / name))
    (tmp_path / "resnet34_v1-symbol.json").replace(tmp_path / "resnet18_v1-symbol.json")
    other = "net_stage1_conv4_weight.* are not in the file; move the graph away if it is of another network"
    refused(tmp_path / "resnet18_v1-0000.params", tmp_path, other)
    (tmp_path / "resnet18_v1-symbol.json").write_text('{"nodes": []}')
    refused(tmp_path / "resnet18_v1-0000.params", tmp_path, "has 0 nodes and 0 outputs")
    (tmp_path / "resnet18_v1-symbol.json").write_text("{")
    refused(tmp_path / "resnet18_v1-0000.params", tmp_path, "not readable as a symbol")


@pytest.mark.filterwarnings("ignore")  # MXNet's own, on export
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_fine_tuned_network_with_a_new_head_is_read_once_exported(version: str, tmp_path) -> None:
    """The book's recipe: a new network takes the features of a trained one and has an output of its own."""
    trained = mx.gluon.model_zoo.vision.get_model(f"resnet18_{version}")
    tuned = mx.gluon.model_zoo.vision.get_model(f"resnet18_{version}", classes=4)
    trained.initialize(mx.init.Xavier())
    tuned.features = trained.features
    tuned.output.initialize(mx.init.Xavier())
    tuned.hybridize()
    wanted = tuned(array(photographs((64, 64))))
    tuned.export(str(tmp_path / "tuned"))
    done = convert(tmp_path / "tuned-0000.params", tmp_path / "tuned.pth")
    assert (done.spec.name, done.spec.num_classes) == (f"resnet18_{version}", 4)
    assert done.checks[0].theirs.startswith("the exported network")
    ours = build(done.spec, "torch", weights=identify(read_checkpoint(tmp_path / "tuned.pth")).weights)
    assert relative_error(get_backend("torch").forward(ours, photographs((64, 64))), wanted.asnumpy()) < 1e-5


def test_what_pytorch_users_save_is_read(tmp_path) -> None:
    network = get_backend("torch").build(plan("d2l_resnext").root)
    wanted = state_dict(network)
    torch.save(network.state_dict(keep_vars=True), tmp_path / "kept.pth")
    assert same(identify(read_checkpoint(tmp_path / "kept.pth")).weights, wanted)
    averaged = {name: tensor * 0 for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": network.state_dict(), "state_dict_ema": averaged}, tmp_path / "two.pth")
    file = read_checkpoint(tmp_path / "two.pth")
    assert same(identify(file).weights, wanted)
    (note,) = file.notes
    assert "read what stands under 'state_dict'; 'state_dict_ema' left" in note
    subprocess.run([sys.executable, *shlex.split(note.partition(": python ")[2])], check=True)
    assert np.array_equal(read_checkpoint(tmp_path / "two-weights.pth").tensors["fc.bias"], averaged["fc.bias"])


def test_a_file_is_not_written_over_itself(tmp_path) -> None:
    """Its graph could not be imported with the names that are written."""
    state = get_backend("torch").build(plan("d2l_resnext").root).state_dict()
    torch.save(state, tmp_path / "net.pth")
    before = (tmp_path / "net.pth").read_bytes()
    (tmp_path / "link.pth").symlink_to("net.pth")
    for target in ("net.pth", "link.pth"):
        with pytest.raises(WeightsError, match="is the file to read"):
            convert(tmp_path / "net.pth", tmp_path / target, precision="float16")
    assert (tmp_path / "net.pth").read_bytes() == before


def test_state_dicts_under_any_keys_of_a_trainer_s_checkpoint_are_read(tmp_path) -> None:
    """As kuangliu's scripts for CIFAR (``net``) and DINO (``student`` and ``teacher``) save them."""
    state = get_backend("torch").build(plan("d2l_resnext").root).state_dict()
    other = {"optimizer": {"state": {0: {"step": torch.zeros(1)}}, "param_groups": []}, "epoch": 3}
    torch.save({"net": state, **other}, tmp_path / "net.pth")
    file = read_checkpoint(tmp_path / "net.pth")
    assert file.prefix == "net."
    assert file.notes == ("read what stands under 'net'; 'optimizer', 'epoch' left",)
    assert same(identify(file).weights, identify(read_checkpoint(tmp_path / "net.pth", "net.")).weights)
    torch.save({**state, "extra": {"scale": torch.zeros(1)}}, tmp_path / "extra.pth")
    refused(tmp_path / "extra.pth", tmp_path, "holds entries that are not named tensors: 'extra'")
    averaged = {name: tensor * 0 for name, tensor in state.items()}
    torch.save({"student": state, "teacher": {f"backbone.{k}": v for k, v in averaged.items()}}, tmp_path / "dino.pth")
    refused(tmp_path / "dino.pth", tmp_path, "--prefix student. or --prefix teacher.backbone.")
    teacher = read_checkpoint(tmp_path / "dino.pth", "teacher.backbone.")
    assert not any(array.any() for array in identify(teacher).weights.values())


def test_state_dicts_that_are_none_are_refused(tmp_path) -> None:
    import zipfile

    torch.save({0: torch.zeros(2)}, tmp_path / "number.pth")
    refused(tmp_path / "number.pth", tmp_path, "holds entries that are not named tensors: 0")
    torch.save({"a\nb": torch.zeros(2)}, tmp_path / "line.pth")
    refused(tmp_path / "line.pth", tmp_path, "unprintable name")
    torch.save({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "float8.pth")
    refused(tmp_path / "float8.pth", tmp_path, "a is of dtype torch.float8_e4m3fn, which NumPy has not")
    endless: dict[str, object] = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "endless.pth")
    refused(tmp_path / "endless.pth", tmp_path, "entries that are not named tensors")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as given, zipfile.ZipFile(tmp_path / "squeezed.pth", "w") as squeezed:
        for entry in given.infolist():
            squeezed.writestr(entry.filename, given.read(entry), zipfile.ZIP_DEFLATED)
    refused(tmp_path / "squeezed.pth", tmp_path, "is compressed.*unpack it")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """One sound file of each format."""
    folder = tmp_path_factory.mktemp("good")
    weights = draw_weights("d2l_resnext", scheme="probe")
    for name in ("a.pth", "a.params", "a.safetensors"):
        write_checkpoint(folder / name, weights, plan("d2l_resnext"))
    return folder


def refused(source, tmp_path, says: str, spec: ResNetSpec | None = None) -> str:
    """The one line with which a conversion is refused; nothing may be left behind."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(WeightsError, match=says) as error:
        convert(source, tmp_path / "out.params", spec, verify=False)
    assert sorted(tmp_path.iterdir()) == before
    assert str(source).removesuffix("-0000.params") in str(error.value)  # the file, or the symbol beside it
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["a.pth", "a.params", "a.safetensors"])
def test_a_file_cut_short_anywhere_is_refused(good, name: str, tmp_path) -> None:
    whole = (good / name).read_bytes()
    path = tmp_path / name
    for part in range(20):
        path.write_bytes(whole[: len(whole) * part // 20])
        refused(path, tmp_path, "cut short|cannot be read|not readable|none of the known")


def test_a_flipped_byte_in_a_header_is_refused(good, tmp_path) -> None:
    record = 24 + 4 + 4 + 4 + 4 * 8  # up to the device of the first array, which has four axes
    number = range(record + 4, record + 8)  # which of several devices it was on: no number is wrong
    headers = {"a.params": [at for at in range(record + 12) if at not in number], "a.safetensors": range(0, 400, 3)}
    for name, places_ in headers.items():
        whole = (good / name).read_bytes()
        path = tmp_path / name
        for at in places_:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
            refused(path, tmp_path, ".")


@pytest.mark.parametrize("name", ["a.pth", "a.params", "a.safetensors"])
def test_the_wrong_magic_is_refused(good, name: str, tmp_path) -> None:
    path = tmp_path / name
    path.write_bytes(b"GARBAGE!" * 100)
    refused(path, tmp_path, r"not a \.params file|not readable")


def test_a_pickle_bomb_does_not_go_off(tmp_path) -> None:
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    torch.save({"fc.weight": Bomb()}, tmp_path / "bomb.pth")
    refused(tmp_path / "bomb.pth", tmp_path, "weights_only=True: it holds more than tensors")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "bare.pth", tmp_path, "weights_only=True")
    assert not (tmp_path / "exploded").exists()


def test_a_whole_pickled_network_is_refused(tmp_path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pth")
    refused(tmp_path / "net.pth", tmp_path, "holds more than tensors")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", tmp_path, "holds a list, not a state_dict")


def test_a_shape_of_two_terabytes_is_refused_at_once(tmp_path) -> None:
    import tracemalloc

    head = struct.pack("<QQQ", 0x112, 0, 1) + struct.pack("<Iii2q", 0xF993FAC9, 0, 2, 2**20, 2**19)
    (tmp_path / "huge.params").write_bytes(head + struct.pack("<iii", 1, 0, 0) + bytes(64))
    tracemalloc.start()
    said = refused(tmp_path / "huge.params", tmp_path, "array 1 of 1 claims 2,199,023,255,552 bytes")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert "64 are left" in said


def test_a_renamed_a_transposed_and_a_missing_tensor_are_named(tmp_path) -> None:
    weights = draw_weights("d2l_resnext", scheme="probe")
    state = {name: torch.tensor(values) for name, values in weights.items()}
    path = tmp_path / "a.pth"
    renamed = {("layer1.0.convX.weight" if k == "layer1.0.conv1.weight" else k): v for k, v in state.items()}
    torch.save(renamed, path)
    refused(
        path,
        tmp_path,
        r"weights of d2l_resnext.*: missing layer1\.0\.conv1\.weight; left over layer1\.0\.convX\.weight$",
    )
    torch.save(state | {"fc.weight": state["fc.weight"].T}, path)
    torch.save({k.replace("fc.weight", "fcc.weight"): v for k, v in state.items()}, path)
    refused(path, tmp_path, r"d2l_resnext.*: missing fc\.weight; left over fcc\.weight$")
    torch.save(state | {"fc.weight": state["fc.weight"].T}, path)
    refused(path, tmp_path, r"fc\.weight has shape \(512, 10\), expected", spec=get_spec("d2l_resnext"))
    torch.save({k: v for k, v in state.items() if not k.startswith("layer3")}, path)
    refused(path, tmp_path, "missing layer3.0.conv1.weight; .*; and [0-9]+ more$")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(tmp_path, bad: float) -> None:
    weights = draw_weights("d2l_resnext")
    weights["layer2.0.bn1.weight"][3] = bad
    write_checkpoint(tmp_path / "a.params", weights, plan("d2l_resnext"))
    refused(tmp_path / "a.params", tmp_path, r"layer2\.0\.bn1\.gamma holds 1 values that are NaN or infinite")


def test_a_negative_variance_is_refused(tmp_path) -> None:
    weights = draw_weights("d2l_resnext")
    weights["bn1.running_var"][3] = -1
    write_checkpoint(tmp_path / "a.params", weights, plan("d2l_resnext"))
    refused(tmp_path / "a.params", tmp_path, r"bn1\.running_var holds negative values")


def test_a_spec_that_merely_bears_a_known_name_is_not_held_against_that_network(tmp_path) -> None:
    spec = msgspec.structs.replace(SMALL, name="resnet18")
    save_weights(tmp_path / "a.safetensors", draw_weights(spec), spec)
    done = convert(tmp_path / "a.safetensors", tmp_path / "b.params")
    assert [check.theirs for check in done.checks] == ["ours on mxnet"]


def test_sizes_that_no_network_has_are_told_by_tensor(tmp_path) -> None:
    weights = draw_weights("d2l_resnext")
    state = {k: torch.tensor(v) for k, v in weights.items()} | {"conv1.weight": torch.zeros(64, 0, 7, 7)}
    torch.save(state, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", tmp_path, r"conv1\.weight has shape \(64, 0, 7, 7\), expected")


def test_files_that_are_no_network_are_refused(tmp_path) -> None:
    write_params(tmp_path / "a.params", {"w": np.zeros((2, 3), np.float32)})
    refused(tmp_path / "a.params", tmp_path, r"the names \(w, …\) follow no known layout")
    (tmp_path / "a.bin").write_bytes(b"something else")
    refused(tmp_path / "a.bin", tmp_path, "none of the known formats")
    with open(tmp_path / "two.params", "wb") as file:
        np.savez(file, **{"conv1.weight": np.zeros(3)})
    refused(
        tmp_path / "two.params", tmp_path, "two.params: is an .npz archive, as NumPy and MXNet 2 write it; read it by"
    )
    for suffix in (".onnx", ".pt2"):
        (tmp_path / f"net{suffix}").write_bytes(b"PK\x03\x04")
        refused(
            tmp_path / f"net{suffix}", tmp_path, f"net{suffix}: is an exported network, which is not read; give the"
        )
    refused(tmp_path / "none.pth", tmp_path, "No such file")


@pytest.mark.parametrize("name", ["a.pth", "a.params"])
def test_weights_of_another_network_are_not_written(tmp_path, name: str) -> None:
    weights = draw_weights(msgspec.structs.replace(SMALL, num_classes=4))
    with pytest.raises(WeightsError, match=r"of the wrong shape: fc\.weight \(expected \(3, 8\), got \(4, 8\)\)"):
        write_checkpoint(tmp_path / name, weights, SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", ["images", "expected"])
def test_images_and_expected_outputs_are_given_together(good, tmp_path, given: str) -> None:
    with pytest.raises(DataError, match="images and expected outputs: give both or neither"):
        convert(good / "a.safetensors", tmp_path / "b.pth", **{given: np.zeros((2, 10), np.float32)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["bfloat16", "fp32"])
def test_a_network_is_loaded_in_no_other_dtype_than_it_is_built_in(good, dtype: str) -> None:
    with pytest.raises(BackendError, match=f"no network is built in '{dtype}'; choose float32 or float64"):
        load(good / "a.safetensors", "torch", dtype=dtype)


def test_targets_that_cannot_be_written_are_refused_before_anything_is_read(good, tmp_path) -> None:
    for target, says in (("out.bin", "expected one of .safetensors"), ("none/out.pth", "there is no folder")):
        with pytest.raises(WeightsError, match=says):
            convert(good / "a.pth", tmp_path / target)


def test_a_shift_that_mxnet_adds_becomes_a_part_of_the_network(tmp_path) -> None:
    network = mx.gluon.model_zoo.vision.get_model("resnet18_v2", classes=4)
    network.initialize(mx.init.Xavier())
    network(mx.nd.zeros((1, 3, 32, 32)))
    network.features[0].beta.set_data(array(np.array([0.5, -1, 2], "f4")))  # MXNet adds it, though it does not train it
    network.save_parameters(str(tmp_path / "a.params"))
    identity = identify(read_checkpoint(tmp_path / "a.params"))
    assert identity.plan.spec.name == "resnet18_v2_shift"
    ours = build(identity.plan.spec, "torch", weights=identity.weights)
    images = photographs((32, 32))
    expected = network(array(images)).asnumpy()
    assert relative_error(get_backend("torch").forward(ours, images), expected) < 1e-5


def test_inspect_tells_what_a_file_is(good, tmp_path) -> None:
    for name, format_ in (
        ("a.pth", "PyTorch state_dict"),
        ("a.params", "MXNet parameters"),
        ("a.safetensors", "safetensors"),
    ):
        found = inspect(good / name)
        assert (found.format, found.problem) == (format_, None)
        assert found.spec == get_spec("d2l_resnext")
        assert len(found.tensors) == len(draw_weights("d2l_resnext"))
    save_weights(tmp_path / "a.safetensors", draw_weights(SMALL), SMALL)
    assert inspect(tmp_path / "a.safetensors").spec == SMALL
    write_params(tmp_path / "part.params", {"fc.weight": np.zeros((10, 512), np.float32)})
    part = inspect(tmp_path / "part.params")
    assert part.problem is not None
    assert "missing" in part.problem


# Digests of the names of all arrays, structural and exported, that GluonCV's own code gives on MXNet 1.9.1.
GLUONCV_NAMES = {
    "cifar_resnet20_v1": ("cifarresnetv10_", "36d220955826d039", "e7a81f4ab87e6907"),
    "cifar_resnet20_v2": ("cifarresnetv20_", "6b8158bed070fa48", "0968b3cc0e267e13"),
    "cifar_wideresnet16_10": ("cifarwideresnet0_", "bf698ac8a91fe6a6", "f2af77e7bb0b53b0"),
    "resnet50_v1b": ("resnetv1b_", "6b0466d961693cad", "1713d57e0c058ad0"),
    "resnet50_v1d": ("resnetv1d_", "f175da9eb986b074", "547a831529720fd0"),
    "resnet50_v1s": ("resnetv1s_", "626df8ffa90a8731", "2c3d9a18c35204aa"),
}


@pytest.mark.parametrize("name", GLUONCV_NAMES)
def test_gluoncvs_networks_have_these_very_names(name: str) -> None:
    prefix, structural, exported_ = GLUONCV_NAMES[name]
    of_structural = next(one for one in LAYOUTS if one.is_own(name))
    of_exported = of_structural if of_structural.scopes else next(one for one in LAYOUTS if "exported" in one.title)
    for layout, counted, begin, digest in (
        (of_structural, False, "", structural),
        (of_exported, True, prefix, exported_),
    ):
        names = sorted(begin + place.theirs for place in places(plan(name), layout, counted=counted) or ())
        assert hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest() == digest


def test_every_layout_names_every_array_once() -> None:
    shallow = [name for name, spec in relatives().items() if kernels(spec) < 30]
    for layout in LAYOUTS:
        for name in ("resnet50_v1", "resnet50_v2", "cifar_resnet20_v1", "cifar_wideresnet16_10", *shallow):
            for counted in layout.ways if not layout.only or layout.may_be(name) else ():
                found = places(plan(name), layout, counted=counted)
                theirs = [place.theirs for place in found or ()]
                assert len(theirs) == len(set(theirs))


def test_convert_at_the_command_line(good, command, tmp_path) -> None:
    code, out, _ = command("convert", good / "a.pth", tmp_path / "out.params")
    assert code == 0
    assert "network: d2l_resnext, 10 classes (given)" in out
    assert "largest difference" in out
    assert (tmp_path / "out.params").exists()
    code, out, _ = command("convert", tmp_path / "out.params", tmp_path / "b.pth", "--spec", "d2l_resnext", "--json")
    assert code == 0
    assert json.loads(out)["guessed"] is False
    code, _, err = command("convert", good / "a.pth", tmp_path / "c.params", "--num-classes", 7)
    assert code == 2
    assert "fc.weight has shape (10, 512), expected (7, 512)" in err
    assert err.count("\n") == 1


def test_inspect_at_the_command_line(good, command, tmp_path) -> None:
    code, out, _ = command("inspect", good / "a.params", "--tensors")
    assert code == 0
    assert "network: d2l_resnext, 10 classes" in out
    assert "complete: yes" in out
    assert "layer1.0.bn1.gamma" in out
    write_params(tmp_path / "part.params", {"fc.weight": np.zeros((10, 512), np.float32)})
    code, out, _ = command("inspect", tmp_path / "part.params")
    assert code == 1
    assert "complete: no: " in out
    assert command("inspect", tmp_path / "none.pth")[0] == 2
