"""What every backend must do; each backend's own test module runs these on it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_xf import ResNetSpec, draw_weights, features, plan, trace
from resnet_xf.architecture.nodes import walk
from resnet_xf.architecture.plan import plan_block, plan_features
from resnet_xf.architecture.trace import observed_rows
from resnet_xf.architecture.weights import all_weight_shapes
from resnet_xf.backend.contract import Backend
from resnet_xf.backend.observe import capture_layers, trace_network
from resnet_xf.errors import BackendError, WeightsError


def images(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


class Contract:
    """Subclasses set ``backend``."""

    backend: Backend

    def maps(self, backbone: object, shown: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """What a backbone gives when called natively."""
        raise NotImplementedError

    def test_trace_by_running_is_the_trace_by_arithmetic(self, odd_spec: ResNetSpec) -> None:
        planned = plan(odd_spec)
        observed = trace_network(self.backend, self.backend.build(planned.root), images(2, 3, 67, 61))
        kinds = {name: node.kind for name, node in walk(planned.root)}
        assert observed.error is None
        assert observed_rows(observed, kinds) == trace(planned, (2, 3, 67, 61))

    def test_a_run_that_breaks_tells_of_the_layers_before(self) -> None:
        block = plan_block("resnet18", in_channels=3, channels=6, stride=2)
        observed = trace_network(self.backend, self.backend.build(block), images(1, 4, 8, 8))
        assert observed.error
        assert "conv1" not in observed.layers

    @pytest.mark.parametrize("channels, stride, output", [(3, 1, (4, 3, 6, 6)), (6, 2, (4, 6, 3, 3))])
    def test_one_residual_block_alone(self, channels: int, stride: int, output: tuple[int, ...]) -> None:
        block = plan_block("d2l_resnet18", in_channels=3, channels=channels, stride=stride)
        network = self.backend.build(block)
        self.backend.load(network, draw_weights(block))
        assert self.backend.forward(network, images(4, 3, 6, 6)).shape == output

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_weights_go_in_and_come_out_to_the_bit(self, odd_spec: ResNetSpec, dtype: str) -> None:
        network = self.backend.build(plan(odd_spec).root, dtype)
        weights = draw_weights(odd_spec, scheme="probe", dtype=dtype)
        self.backend.load(network, weights)
        dumped = self.backend.dump(network)
        assert list(dumped) == list(all_weight_shapes(odd_spec))
        assert all(dumped[name].dtype == dtype for name in dumped)
        assert all(dumped[name].tobytes() == weights[name].tobytes() for name in weights)

    def test_any_numpy_array_goes_in(self, odd_spec: ResNetSpec) -> None:
        network = self.backend.build(plan(odd_spec).root)
        weights = draw_weights(odd_spec, scheme="probe")
        odd = {
            k: np.flip(np.flip(v).copy()).astype(">f4") if v.ndim == 1 else np.flip(v.copy())
            for k, v in weights.items()
        }
        self.backend.load(network, odd)
        dumped = self.backend.dump(network)
        assert all(np.array_equal(dumped[name], odd[name]) for name in odd)
        self.backend.forward(network, images(2, 3, 67, 61)[:, ::-1].astype(">f4"))

    def test_a_dump_is_a_copy(self, odd_spec: ResNetSpec) -> None:
        network = self.backend.build(plan(odd_spec).root)
        self.backend.dump(network)["fc.weight"][:] = 7
        assert not np.any(self.backend.dump(network)["fc.weight"] == 7)

    def test_weights_that_do_not_fit_are_refused(self, odd_spec: ResNetSpec) -> None:
        network = self.backend.build(plan(odd_spec).root)
        weights = draw_weights(odd_spec)
        before = self.backend.dump(network)
        for change, says in (
            ({k: v for k, v in weights.items() if k != "fc.bias"}, "missing: fc.bias"),
            (weights | {"extra": weights["fc.bias"]}, "left over: extra"),
            (weights | {"fc.weight": weights["fc.weight"].T}, "wrong shape: fc.weight"),
            (draw_weights(odd_spec, dtype="float64"), "not exact in float32"),
        ):
            with pytest.raises(WeightsError, match=says):
                self.backend.load(network, change)
        after = self.backend.dump(network)
        assert all(np.array_equal(before[name], after[name]) for name in before)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_forward_computes_in_the_networks_dtype(self, odd_spec: ResNetSpec, dtype: str) -> None:
        network = self.backend.build(plan(odd_spec).root, dtype)
        output = self.backend.forward(network, images(2, 3, 67, 61))
        assert output.shape == (2, 7)
        assert output.dtype == dtype

    def test_forward_moves_no_statistics(self, odd_spec: ResNetSpec) -> None:
        network = self.backend.build(plan(odd_spec).root)
        before = self.backend.dump(network)
        self.backend.forward(network, images(2, 3, 67, 61))
        after = self.backend.dump(network)
        assert all(np.array_equal(before[name], after[name]) for name in before)

    def test_a_backbone_gives_each_stages_map(self, odd_spec: ResNetSpec) -> None:
        weights = draw_weights(odd_spec, scheme="probe")
        backbone = features(odd_spec, self.backend.name, weights=weights)
        shown = images(2, 3, 67, 61)
        maps = self.maps(backbone, shown)
        whole = self.backend.build(plan(odd_spec).root)
        self.backend.load(whole, weights)
        wanted = capture_layers(self.backend, whole, shown, ["layer1", "layer2", "layer3"])
        assert [m.shape for m in maps] == [(2, 13, 17, 16), (2, 21, 9, 8), (2, 33, 5, 4)]
        assert all(np.array_equal(got, theirs.output) for got, theirs in zip(maps, wanted.values(), strict=True))
        assert not any(name.startswith("fc") for name in self.backend.dump(backbone))
        observed = trace_network(self.backend, backbone, shown)
        assert observed.layers[""].output_shape == trace(plan_features(odd_spec), shown.shape)[0].output_shape

    def test_a_tapped_map_is_not_what_the_next_layer_made_of_it(self, odd_spec: ResNetSpec) -> None:
        before, after = self.maps(features(odd_spec, self.backend.name, out=["bn1", "act1"]), images(1, 3, 67, 61))
        assert before.min() < 0
        assert np.array_equal(after, np.maximum(before, 0))

    def test_captured_layers_are_what_the_forward_pass_computes(self, odd_spec: ResNetSpec) -> None:
        network = self.backend.build(plan(odd_spec).root)
        self.backend.load(network, draw_weights(odd_spec, scheme="probe"))
        shown = images(2, 3, 67, 61)
        captured = capture_layers(self.backend, network, shown, ["bn1", "layer2", "fc", ""])
        assert set(captured) == {"bn1", "layer2", "fc", ""}
        outputs = {name: passed.output for name, passed in captured.items()}
        assert np.array_equal(outputs["fc"], self.backend.forward(network, shown))
        assert np.array_equal(outputs["fc"], outputs[""])
        assert outputs["layer2"].shape == (2, 21, 9, 8)
        assert outputs["bn1"].min() < 0  # taken before the ReLU that may work in place

    def test_captured_inputs_are_what_the_layers_before_gave(self, odd_spec: ResNetSpec) -> None:
        network, shown = self.probe(odd_spec), images(2, 3, 67, 61)
        names = ["conv1", "bn1", "act1", "layer2.0.bn2", "layer2.0.downsample", "layer2.0.add", "layer2.0.act2"]
        passed = capture_layers(self.backend, network, shown, names)
        assert np.array_equal(passed["conv1"].inputs[0], shown)
        assert np.array_equal(passed["bn1"].inputs[0], passed["conv1"].output)
        assert np.array_equal(passed["act1"].inputs[0], passed["bn1"].output)  # as it was before it worked in place
        body, shortcut = passed["layer2.0.add"].inputs
        assert np.array_equal(body, passed["layer2.0.bn2"].output)
        assert np.array_equal(shortcut, passed["layer2.0.downsample"].output)
        assert np.array_equal(passed["layer2.0.add"].output, body + shortcut)
        assert np.array_equal(passed["layer2.0.act2"].inputs[0], body + shortcut)

    def test_a_layer_applied_to_what_it_was_given_gives_what_it_gave(self, odd_spec: ResNetSpec) -> None:
        network = self.probe(odd_spec)
        passed = capture_layers(self.backend, network, images(2, 3, 67, 61), ["bn1", "layer2.0.add", "layer2.0", "fc"])
        for name, layer in passed.items():
            assert np.array_equal(self.backend.apply(network, name, layer.inputs), layer.output)
        given = passed["layer2.0.add"].inputs
        doubled = self.backend.apply(network, "layer2.0.add", [2 * x for x in given])
        assert np.array_equal(doubled, 2 * passed["layer2.0.add"].output)
        assert np.array_equal(
            given[0],
            capture_layers(self.backend, network, images(2, 3, 67, 61), ["layer2.0.add"])["layer2.0.add"].inputs[0],
        )

    @pytest.mark.parametrize("name", ["conv1", "bn1", "act1", "layer2.0", "layer2.0.add", "fc"])
    def test_gradients_are_what_differences_say(self, odd_spec: ResNetSpec, name: str) -> None:
        """In float64 and in training mode: Σ output · cotangent moves as its gradients say."""
        network = self.probe(odd_spec, "float64")
        given = capture_layers(self.backend, network, images(2, 3, 67, 61), [name])[name]
        draw = np.random.default_rng(1)
        cotangent = draw.standard_normal(given.output.shape)
        gradients = self.backend.differentiate(network, name, given.inputs, cotangent)
        own = [f"input{n}" for n in range(len(given.inputs))]
        inside = [n for n in all_weight_shapes(odd_spec) if n.startswith(f"{name}.") and "running_" not in n]
        assert list(gradients) == [*own, *(n.removeprefix(f"{name}.") for n in inside)]
        if name in ("bn1", "layer2.0"):  # whose output in training mode no other method gives
            assert all(np.isfinite(gradient).all() for gradient in gradients.values())
            assert np.abs(gradients["input0"].sum()) < 1e-9 or name != "bn1"  # a norm takes any shift off again
            return
        for key, x in zip(own, given.inputs, strict=True):
            step = 1e-6 * draw.standard_normal(x.shape)
            moved = [y + step if f"input{n}" == key else y for n, y in enumerate(given.inputs)]
            after, before = (self.backend.apply(network, name, shown) for shown in (moved, given.inputs))
            difference = ((after - before) * cotangent).sum()
            assert difference == pytest.approx((gradients[key] * step).sum(), rel=1e-6)

    def test_a_network_moves_to_a_device_and_computes_there(self, odd_spec: ResNetSpec) -> None:
        network = self.probe(odd_spec)
        before = self.backend.forward(network, images(2, 3, 67, 61))
        moved = self.backend.move(network, "cpu")
        assert np.array_equal(self.backend.forward(moved, images(2, 3, 67, 61)), before)
        with pytest.raises(BackendError, match="no device is called"):
            self.backend.move(network, "abacus")
        with pytest.raises(BackendError, match="there is no cuda:99"):
            self.backend.move(network, "cuda:99")

    def probe(self, spec: ResNetSpec, dtype: str = "float32") -> object:
        """A network in which every number matters."""
        network = self.backend.build(plan(spec).root, dtype)
        self.backend.load(network, draw_weights(spec, scheme="probe", dtype=dtype))
        return network
