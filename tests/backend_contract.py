"""What every backend must do; each backend's own test module runs these on it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_xf import ResNetSpec, WeightsError, draw_weights, features, plan, plan_block, plan_features, trace
from resnet_xf.backend import Backend
from resnet_xf.nodes import kind, walk
from resnet_xf.trace import observed_rows
from resnet_xf.weights import all_weight_shapes


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
        observed = self.backend.trace(self.backend.build(planned.root), images(2, 3, 67, 61))
        kinds = {name: kind(node) for name, node in walk(planned.root)}
        assert observed.error is None
        assert observed_rows(observed, kinds) == trace(planned, (2, 3, 67, 61))

    def test_a_run_that_breaks_tells_of_the_layers_before(self) -> None:
        block = plan_block("resnet18", in_channels=3, channels=6, stride=2)
        observed = self.backend.trace(self.backend.build(block), images(1, 4, 8, 8))
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
        wanted = self.backend.capture(whole, shown, ["layer1", "layer2", "layer3"])
        assert [m.shape for m in maps] == [(2, 13, 17, 16), (2, 21, 9, 8), (2, 33, 5, 4)]
        assert all(np.array_equal(got, theirs) for got, theirs in zip(maps, wanted.values(), strict=True))
        assert not any(name.startswith("fc") for name in self.backend.dump(backbone))
        observed = self.backend.trace(backbone, shown)
        assert observed.layers[""].output_shape == trace(plan_features(odd_spec), shown.shape)[0].output_shape

    def test_a_tapped_map_is_not_what_the_next_layer_made_of_it(self, odd_spec: ResNetSpec) -> None:
        before, after = self.maps(features(odd_spec, self.backend.name, out=["bn1", "act1"]), images(1, 3, 67, 61))
        assert before.min() < 0
        assert np.array_equal(after, np.maximum(before, 0))

    def test_captured_layers_are_what_the_forward_pass_computes(self, odd_spec: ResNetSpec) -> None:
        network = self.backend.build(plan(odd_spec).root)
        self.backend.load(network, draw_weights(odd_spec, scheme="probe"))
        shown = images(2, 3, 67, 61)
        captured = self.backend.capture(network, shown, ["bn1", "layer2", "fc", ""])
        assert set(captured) == {"bn1", "layer2", "fc", ""}
        assert np.array_equal(captured["fc"], self.backend.forward(network, shown))
        assert np.array_equal(captured["fc"], captured[""])
        assert captured["layer2"].shape == (2, 21, 9, 8)
        assert captured["bn1"].min() < 0  # taken before the ReLU that may work in place
