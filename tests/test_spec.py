import numpy as np
import pytest
from hypothesis import given
from safetensors.numpy import save_file

from helpers.strategies import specs
from resnet_xf import ResNetSpec, Stage, draw_weights, get_recipe, get_spec, list_models, plan, save_weights
from resnet_xf.architecture.nodes import Conv, Flatten, Linear, Norm, Sequential
from resnet_xf.architecture.plan import explicit_spec, resized
from resnet_xf.architecture.spec import ExplicitSpec
from resnet_xf.errors import RecipeError, SpecError

GOOD = {"name": "x", "stages": [{"depth": 1, "channels": 8}, {"depth": 2, "channels": 16, "stride": 2}]}

# What is wrong, and how the error must begin: with the path of the field.
MALFORMED = {
    "depth zero": ('stages=[{"depth":0,"channels":8}]', "$.stages[0].depth: "),
    "depth a word": ('stages=[{"depth":"two","channels":8}]', "$.stages[0].depth: "),
    "depth a truth": ('stages=[{"depth":true,"channels":8}]', "$.stages[0].depth: "),
    "depth endless": ('stages=[{"depth":1000000000,"channels":8}]', "$.stages[0].depth: "),
    "depth missing": ('stages=[{"channels":8}]', "$.stages[0]: object missing required field `depth`"),
    "channels negative": ('stages=[{"depth":1,"channels":-8}]', "$.stages[0].channels: "),
    "channels a fraction": ('stages=[{"depth":1,"channels":8.5}]', "$.stages[0].channels: "),
    "second stage's stride": ('stages=[{"depth":1,"channels":8},{"depth":1,"channels":8,"stride":0}]', "$.stages[1].stride: "),
    "unknown stage field": ('stages=[{"depth":1,"channels":8,"widht":3}]', "$.stages[0]: object contains unknown field `widht`"),
    "no stages": ("stages=[]", "$.stages: "),
    "stages a number": ("stages=4", "$.stages: "),
    "unknown field": ("colour=1", "$: object contains unknown field `colour`; expected one of name, in_channels"),
    "unknown block": ('block="fancy"', "$.block: invalid enum value 'fancy'; expected one of basic, bottleneck"),
    "unknown stem": ('stem={"kind":"conv9"}', "$.stem.kind: invalid enum value 'conv9'; expected one of conv3, conv7, deep"),
    "unknown bias": ('conv_bias=["stem","5x5"]', "$.conv_bias[1]: "),
    "bias twice": ('conv_bias=["stem","stem"]', "$.conv_bias: "),
    "bias on a 1x1 that is not there": ('conv_bias=["1x1"]', "$.conv_bias: "),
    "stride on a 1x1 that is not there": ('stride_on="1x1"', "$.stride_on: "),
    "hidden channels of a shallow stem": ('stem={"hidden":[4,4]}', "$.stem.hidden: "),
    "raw shortcut without pre-activation": ('shortcut_from="input"', "$.shortcut_from: "),
    "eps zero": ("norm_eps=0", "$.norm_eps: "),
    "momentum above one": ("norm_momentum=1.5", "$.norm_momentum: "),
    "gate too wide": ('se={"ratio":2}', "$.se.ratio: "),
    "groups that do not divide": ('stages=[{"depth":1,"channels":8,"groups":3}]', "$.stages[0].groups: 3 does not divide"),
    "a bottleneck with nothing inside": ('block="bottleneck"\nstages=[{"depth":1,"channels":6}]', "$.stages[0].channels: "),
    "image of no height": ("image_size=[0,8]", "$.image_size[0]: "),
    "image of three sides": ("image_size=[8,8,8]", "$.image_size: "),
    "fewer classes than none": ("num_classes=-1", "$.num_classes: "),
    "a name with a slash": ('name="a/b"', "$.name: "),
}  # fmt: skip


@pytest.mark.parametrize("change, begins", MALFORMED.values(), ids=MALFORMED)
def test_malformed_spec_is_refused_with_the_path_of_the_field(change: str, begins: str) -> None:
    import json

    fields = dict(GOOD)
    for line in change.splitlines():
        field, _, value = line.partition("=")
        fields[field] = json.loads(value)
    with pytest.raises(SpecError) as refused:
        plan(ResNetSpec.from_json(json.dumps(fields)))
    message = str(refused.value)
    assert message.startswith(begins)
    assert "\n" not in message


def test_twenty_kinds_of_malformed_spec_are_tried() -> None:
    assert len(MALFORMED) >= 20
    plan(ResNetSpec.from_json(__import__("json").dumps(GOOD)))


@pytest.mark.parametrize("name", list_models())
def test_zoo_round_trips_through_toml_and_json(name: str) -> None:
    spec = get_spec(name)
    assert ResNetSpec.from_toml(spec.to_toml()) == spec
    assert ResNetSpec.from_json(spec.to_json()) == spec


@given(specs())
def test_every_spec_round_trips_exactly(spec: ResNetSpec) -> None:
    assert ResNetSpec.from_toml(spec.to_toml()) == spec
    assert ResNetSpec.from_json(spec.to_json()) == spec


def test_specs_are_frozen_and_hashable() -> None:
    spec = get_spec("resnet18")
    with pytest.raises(AttributeError):
        spec.name = "other"  # type: ignore[misc]
    assert hash(spec) == hash(get_spec("resnet18"))


def test_a_spec_made_in_python_is_checked_too() -> None:
    with pytest.raises(SpecError, match=r"^\$\.stages\[0\]\.depth: "):
        plan(ResNetSpec(name="x", stages=(Stage(depth=0, channels=8),)))
    with pytest.raises(SpecError, match=r"^\$\.stages: "):
        plan(ResNetSpec(name="x", stages="four"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("a.toml", b"name = [", r"a\.toml: \$: "),
        ("a.toml", b"\xff\xfe", r"a\.toml: not UTF-8"),
        ("a.json", b'{"name": "x"}', r"a\.json: \$: object missing required field `stages`"),
        ("a.json", b"[" * 100_000, r"a\.json: \$: "),
        ("a.yaml", b"", r"a\.yaml: a spec is a \.toml or \.json file"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SpecError, match=says):
        ResNetSpec.read(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(SpecError, match=r"none\.toml: No such file"):
        ResNetSpec.read(tmp_path / "none.toml")
    (tmp_path / "dir.toml").mkdir()
    with pytest.raises(SpecError, match="Is a directory"):
        ResNetSpec.read(tmp_path / "dir.toml")


def test_an_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(SpecError, match="did you mean resnet18"):
        get_spec("resnet-18")
    with pytest.raises(SpecError, match="`resnet-xf list` shows them all"):
        get_spec("zzzzzz")


@pytest.mark.parametrize("get, error", [(get_spec, SpecError), (get_recipe, RecipeError)])
def test_a_name_longer_than_any_file_s_is_unknown(get, error: type[Exception]) -> None:
    with pytest.raises(error, match="^no (spec|recipe) is called 'xxx"):
        get("x" * 5000)


def layered() -> ExplicitSpec:
    layers = (
        ("input_norm", Norm(3, 1e-5, 0.1)),
        ("conv1", Conv(3, 4, 3)),
        ("flatten", Flatten()),
        ("fc", Linear(16, 5)),
    )
    return explicit_spec("mine", Sequential(layers), (4, 4))


@pytest.mark.parametrize("suffix", [".toml", ".json", ".safetensors"])
def test_a_spec_is_read_from_every_file_that_has_one(suffix: str, tmp_path) -> None:
    for spec in (get_spec("cifar_resnet20"), layered()):
        path = tmp_path / f"{spec.name}{suffix}"
        if suffix == ".safetensors":
            save_weights(path, draw_weights(spec), spec)
        else:
            path.write_text(spec.to_toml() if suffix == ".toml" else spec.to_json())
        assert get_spec(path) == spec
        assert hash(get_spec(path)) == hash(spec)
        assert plan(str(path)).root == plan(spec).root


def test_weights_without_a_spec_are_none(tmp_path) -> None:
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(SpecError, match=r"a\.safetensors: holds no spec; `resnet-xf convert` writes a file that does"):
        get_spec(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(SpecError, match=r"b\.safetensors: not readable as safetensors"):
        get_spec(tmp_path / "b.safetensors")


def test_channels_and_classes_of_an_explicit_spec_change_where_its_layers_fit() -> None:
    changed = resized(layered(), in_channels=1, num_classes=7)
    assert plan(changed).root.children[0][1] == Norm(1, 1e-5, 0.1)
    assert (changed.in_channels, changed.num_classes) == (1, 7)
    assert layered().differences(changed) == ["in_channels", "num_classes", "layers"]
