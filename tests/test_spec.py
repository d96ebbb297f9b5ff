import pytest
from hypothesis import given

from helpers.strategies import specs
from resnet_xf import ResNetSpec, Stage, get_spec, list_models, plan
from resnet_xf.errors import SpecError

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
    "no classes": ("num_classes=0", "$.num_classes: "),
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
