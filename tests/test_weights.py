import numpy as np
import pytest
import torch
from hypothesis import given

from helpers.strategies import fits, specs
from resnet_xf import ResNetSpec, Stage, Stem, draw_weights, get_spec, load_weights, plan, save_weights
from resnet_xf.architecture.measures import same_bits
from resnet_xf.architecture.plan import plan_block
from resnet_xf.architecture.spec import SPEC_KEY
from resnet_xf.architecture.trace import count_parameters, trace
from resnet_xf.architecture.weights import all_weight_shapes, digest, without_counters, write_arrays
from resnet_xf.backend.observe import capture_layers
from resnet_xf.errors import WeightsError

SMALL = ResNetSpec(name="small", stem=Stem(width=8), stages=(Stage(depth=1, channels=8),), num_classes=3)
GOLDEN = {"fc.weight": "56b5981e", "bn1.bias": "d1367874"}


def test_names_and_shapes_are_torchvisions() -> None:
    import torchvision

    wanted = {name: tuple(t.shape) for name, t in torchvision.models.resnet50().state_dict().items()}
    wanted = {name: shape for name, shape in wanted.items() if not name.endswith("num_batches_tracked")}
    assert all_weight_shapes("resnet50") == wanted


def test_weights_that_are_no_mapping_are_told_where_to_come_from() -> None:
    for wrong in ("mine.safetensors", (SMALL, draw_weights(SMALL))):
        with pytest.raises(
            WeightsError, match="weights: expected a mapping of names to arrays, got (str|tuple); `spec"
        ):
            without_counters(wrong)


def test_a_draw_depends_on_the_seed_and_the_name_alone() -> None:
    small, large = draw_weights("resnet18", seed=3), draw_weights("resnet34", seed=3)
    for name, array in small.items():
        if name in large and large[name].shape == array.shape:
            assert np.array_equal(array, large[name]), name
    other = draw_weights("resnet18", seed=4)
    assert not np.array_equal(small["conv1.weight"], other["conv1.weight"])
    assert not np.array_equal(small["layer1.0.conv1.weight"], small["layer1.0.conv2.weight"])


def test_he_draws_have_fan_out_variance() -> None:
    weights = draw_weights("resnet50")
    for name in ("conv1.weight", "layer3.0.conv2.weight", "layer4.0.downsample.0.weight"):
        array = weights[name]
        fan_out = array.shape[0] * array.shape[2] * array.shape[3]
        assert np.var(array) == pytest.approx(2 / fan_out, rel=0.05)
        assert abs(np.mean(array)) < 0.01
    assert abs(weights["fc.weight"]).max() <= 2048**-0.5


def test_xavier_draws_are_within_their_bound() -> None:
    weights = draw_weights("d2l_resnet18", scheme="xavier")
    for name in ("layer2.0.conv1.weight", "fc.weight"):
        array = weights[name]
        window = int(np.prod(array.shape[2:]))
        bound = (6 / ((array.shape[0] + array.shape[1]) * window)) ** 0.5
        assert 0.95 * bound < abs(array).max() <= bound
        assert np.var(array) == pytest.approx(bound**2 / 3, rel=0.05)


@pytest.mark.parametrize("scheme", ["he", "xavier"])
def test_norms_begin_as_identities_and_biases_at_zero(scheme) -> None:
    for name, array in draw_weights("d2l_resnet18", scheme=scheme).items():
        if array.ndim == 1:
            ones = name.endswith("running_var") or name.endswith(".weight")
            assert np.all(array == (1 if ones else 0)), name


def test_zero_init_last_zeroes_the_last_norm_of_each_block() -> None:
    import msgspec

    weights = draw_weights(msgspec.structs.replace(get_spec("resnet18"), zero_init_last=True))
    zeroed = {name for name, array in weights.items() if name.endswith(".weight") and not array.any()}
    assert zeroed == {f"layer{i}.{j}.bn2.weight" for i in range(1, 5) for j in range(2)}


def test_a_probe_leaves_nothing_at_zero_or_one() -> None:
    for name, array in draw_weights("d2l_resnet18", scheme="probe").items():
        plain = np.mean((array == 0) | (array == 1))  # among millions, float32 draws an exact 0 now and then
        assert plain == 0 if array.ndim == 1 else plain < 1e-5, name


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "d2l_resnet18"])
def test_hardly_any_channel_of_a_probe_is_silenced_by_its_relu(name: str) -> None:
    from resnet_xf import build, get_backend
    from resnet_xf.architecture.nodes import Activation, walk
    from resnet_xf.data import sample_images

    planned = plan(name)
    network = build(planned, "torch", weights=draw_weights(planned, scheme="probe"))
    relus = [layer for layer, node in walk(planned.root) if isinstance(node, Activation)]
    outputs = capture_layers(get_backend("torch"), network, sample_images(planned.spec.in_channels, (96, 96)), relus)
    silent = [float((passed.output == 0).all(axis=(0, 2, 3)).mean()) for passed in outputs.values()]
    assert np.mean(silent) < 0.02
    assert max(silent) < 0.1


def test_draws_are_the_same_everywhere() -> None:
    """Saved results rest on a seed, and NumPy does not promise that its streams never change."""
    import hashlib

    weights = draw_weights(SMALL, seed=1, scheme="probe")
    digests = {n: hashlib.blake2b(weights[n].tobytes(), digest_size=4).hexdigest() for n in ("fc.weight", "bn1.bias")}
    assert digests == GOLDEN


@pytest.mark.parametrize(
    "options, says", [({"scheme": "kaiming"}, "choose one of he, xavier, probe"), ({"seed": -1}, "seed")]
)
def test_bad_draws_are_refused(options, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        draw_weights(SMALL, **options)


def test_float64_draws_hold_the_same_numbers() -> None:
    single, double = draw_weights(SMALL), draw_weights(SMALL, dtype="float64")
    assert all(double[name].dtype == np.float64 and np.array_equal(double[name], single[name]) for name in single)


@given(specs().filter(fits))
def test_trainable_arrays_are_the_traced_parameters(spec: ResNetSpec) -> None:
    shapes = {name.rpartition(".")[2] + name: shape for name, shape in all_weight_shapes(spec).items()}
    trained = {name: shape for name, shape in shapes.items() if not name.startswith("running_")}
    whole = trace(plan(spec), (1, spec.in_channels, *spec.image_size))[0]
    assert count_parameters(trained) == whole.parameters


def test_a_lone_block_has_weights_of_its_own() -> None:
    block = plan_block("d2l_resnet18", in_channels=3, channels=6, stride=2)
    assert all_weight_shapes(block)["downsample.0.weight"] == (6, 3, 1, 1)


def test_saved_weights_come_back_to_the_bit_with_their_spec(tmp_path) -> None:
    weights = draw_weights(SMALL, scheme="probe")
    save_weights(tmp_path / "w.safetensors", weights, SMALL)
    spec, loaded = load_weights(tmp_path / "w.safetensors")
    assert spec == SMALL
    assert list(loaded) == list(weights)
    assert all(loaded[name].tobytes() == weights[name].tobytes() for name in weights)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("form", [str, plan])
def test_a_spec_is_saved_by_its_name_and_from_a_plan(tmp_path, form) -> None:
    name = "cifar_resnet20"
    save_weights(tmp_path / "w.safetensors", draw_weights(name), form(name))
    assert load_weights(tmp_path / "w.safetensors")[0] == get_spec(name)


def _without(name: str):
    return lambda weights: {k: v for k, v in weights.items() if k != name}


@pytest.mark.parametrize(
    "change, says",
    [
        (_without("fc.bias"), r"missing: fc\.bias$"),
        (lambda w: w | {"fc.extra": w["fc.bias"]}, r"left over: fc\.extra$"),
        (lambda w: w | {"fc.weight": w["fc.weight"].T}, r"wrong shape: fc\.weight \(expected \(3, 8\), got \(8, 3\)\)"),
        (
            lambda w: {k: torch.from_numpy(v) for k, v in w.items()},
            r"conv1\.weight is a Tensor; expected a NumPy array, ",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_written(tmp_path, change, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        save_weights(tmp_path / "w.safetensors", change(draw_weights(SMALL)), SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    with pytest.raises(WeightsError, match="cannot be written"):
        save_weights(tmp_path / "none" / "w.safetensors", draw_weights(SMALL), SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_single_flipped_bit_anywhere_is_noticed(tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, draw_weights(SMALL, scheme="probe"), SMALL)
    whole = path.read_bytes()
    for at in [*range(0, 700, 7), *range(700, len(whole), len(whole) // 50)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(WeightsError, match=r"w\.safetensors: "):
            load_weights(path)


def test_unreadable_files_are_refused(tmp_path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "w.safetensors"
    with pytest.raises(WeightsError, match="No such file"):
        load_weights(path)
    save_weights(path, draw_weights(SMALL), SMALL)
    whole = path.read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"w\.safetensors: not readable as safetensors"):
            load_weights(path)
    save_file({"a": np.zeros(3, np.float32)}, path)
    with pytest.raises(WeightsError, match="holds no spec"):
        load_weights(path)
    other = {"a": np.zeros(3, np.float32)}
    write_arrays(path, other, {SPEC_KEY: SMALL.to_json()})
    with pytest.raises(WeightsError, match="missing: conv1.weight, .* left over: a"):
        load_weights(path)


def test_weights_are_saved_in_their_own_dtype(tmp_path) -> None:
    spec = get_spec("cifar_resnet20")
    weights = draw_weights(spec, dtype="float64")
    save_weights(tmp_path / "w.safetensors", weights, spec)
    _, loaded = load_weights(tmp_path / "w.safetensors")
    assert all(same_bits(loaded[name], array) for name, array in weights.items())


def test_a_digest_does_not_depend_on_the_order_of_texts() -> None:
    texts = {"a": "1", "b": "2"}
    assert digest({}, texts) == digest({}, dict(reversed(texts.items()))) != digest({}, {"a": "2", "b": "1"})
