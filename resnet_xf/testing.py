"""Tests for backends, to be subclassed in a test module of pytest.

The required members and each capability have a class of their own::

    from resnet_xf.testing import BackendContract

    class TestNumpy(BackendContract):
        backend = BACKEND
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resnet_xf.architecture.nodes import Norm, walk
from resnet_xf.architecture.plan import plan, plan_block, plan_features
from resnet_xf.architecture.spec import ResNetSpec, Stage, Stem
from resnet_xf.architecture.trace import observed_rows, trace
from resnet_xf.architecture.weights import Array, all_weight_shapes, draw_weights
from resnet_xf.backend.fast import FastTask
from resnet_xf.backend.learner import Learner, Task
from resnet_xf.backend.observe import capture_layers, running_order, trace_network
from resnet_xf.backend.registry import features
from resnet_xf.data.pixels import Normalisation, Pixels
from resnet_xf.errors import BackendError, WeightsError

STAGES = (Stage(depth=1, channels=13), Stage(depth=3, channels=21, stride=2), Stage(depth=2, channels=33, stride=2))

SPEC = ResNetSpec(name="odd", num_classes=7, image_size=(67, 61), stem=Stem(kind="conv3", width=11), stages=STAGES)
"""A network that no zoo has: stages of 1, 3 and 2 blocks, odd channels, an oblong image."""


def images(*shape: int) -> Array:
    """Random float32 images, always the same."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)


IMAGES = images(2, 3, 67, 61)


class _Contract:
    """Subclasses set ``backend``."""

    backend: Any

    def probe(self, dtype: str = "float32") -> Any:
        """A network with weights under which each of them matters."""
        network = self.backend.build(plan(SPEC).root, dtype)
        self.backend.load(network, draw_weights(SPEC, scheme="probe", dtype=dtype))
        return network


class BackendContract(_Contract):
    """The required members: :class:`resnet_xf.backend.contract.Backend`."""

    def test_a_name_a_version_and_the_cpu(self) -> None:
        assert self.backend.name == self.backend.name.lower()
        assert self.backend.version()
        assert self.backend.devices()[0].split()[0] == "cpu"

    def test_trace_by_running_is_the_trace_by_arithmetic(self) -> None:
        planned = plan(SPEC)
        observed = trace_network(self.backend, self.backend.build(planned.root), IMAGES)
        kinds = {name: node.kind for name, node in walk(planned.root)}
        assert observed.error is None
        assert observed_rows(observed, kinds) == trace(planned, IMAGES.shape)

    def test_a_run_that_breaks_shows_the_layers_before(self) -> None:
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
    def test_weights_go_in_and_come_out_to_the_bit(self, dtype: str) -> None:
        network = self.probe(dtype)
        weights = draw_weights(SPEC, scheme="probe", dtype=dtype)
        dumped = self.backend.dump(network)
        assert list(dumped) == list(all_weight_shapes(SPEC))
        assert all(dumped[name].dtype == dtype for name in dumped)
        assert all(dumped[name].tobytes() == weights[name].tobytes() for name in weights)

    def test_any_numpy_array_goes_in(self) -> None:
        network = self.backend.build(plan(SPEC).root)
        odd = {
            name: np.flip(np.flip(array).copy()).astype(">f4") if array.ndim == 1 else np.flip(array.copy())
            for name, array in draw_weights(SPEC, scheme="probe").items()
        }
        self.backend.load(network, odd)
        dumped = self.backend.dump(network)
        assert all(np.array_equal(dumped[name], odd[name]) for name in odd)
        self.backend.forward(network, IMAGES[:, ::-1].astype(">f4"))

    def test_a_dump_is_a_copy(self) -> None:
        network = self.backend.build(plan(SPEC).root)
        self.backend.dump(network)["fc.weight"][:] = 7
        assert not np.any(self.backend.dump(network)["fc.weight"] == 7)

    def test_weights_that_do_not_fit_are_refused(self) -> None:
        network = self.backend.build(plan(SPEC).root)
        weights = draw_weights(SPEC)
        before = self.backend.dump(network)
        for change, message in (
            ({k: v for k, v in weights.items() if k != "fc.bias"}, "missing: fc.bias"),
            (weights | {"extra": weights["fc.bias"]}, "left over: extra"),
            (weights | {"fc.weight": weights["fc.weight"].T}, "wrong shape: fc.weight"),
            (draw_weights(SPEC, dtype="float64"), "not exact in float32"),
        ):
            with pytest.raises(WeightsError, match=message):
                self.backend.load(network, change)
        after = self.backend.dump(network)
        assert all(np.array_equal(before[name], after[name]) for name in before)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_forward_computes_in_the_networks_dtype(self, dtype: str) -> None:
        output = self.backend.forward(self.backend.build(plan(SPEC).root, dtype), IMAGES)
        assert output.shape == (2, 7)
        assert output.dtype == dtype

    def test_forward_moves_no_statistics(self) -> None:
        network = self.backend.build(plan(SPEC).root)
        before = self.backend.dump(network)
        self.backend.forward(network, IMAGES)
        after = self.backend.dump(network)
        assert all(np.array_equal(before[name], after[name]) for name in before)

    def test_captured_layers_are_what_the_forward_pass_computes(self) -> None:
        network = self.probe()
        captured = capture_layers(self.backend, network, IMAGES, ["bn1", "layer2", "fc", ""])
        assert set(captured) == {"bn1", "layer2", "fc", ""}
        outputs = {name: passed.output for name, passed in captured.items()}
        assert np.array_equal(outputs["fc"], self.backend.forward(network, IMAGES))
        assert np.array_equal(outputs["fc"], outputs[""])
        assert outputs["layer2"].shape == (2, 21, 9, 8)
        assert outputs["bn1"].min() < 0  # taken before the ReLU that may work in place

    def test_captured_inputs_are_the_outputs_of_the_layers_before(self) -> None:
        names = ["conv1", "bn1", "act1", "layer2.0.bn2", "layer2.0.downsample", "layer2.0.add", "layer2.0.act2"]
        passed = capture_layers(self.backend, self.probe(), IMAGES, names)
        assert np.array_equal(passed["conv1"].inputs[0], IMAGES)
        assert np.array_equal(passed["bn1"].inputs[0], passed["conv1"].output)
        assert np.array_equal(passed["act1"].inputs[0], passed["bn1"].output)  # as it was before it worked in place
        body, shortcut = passed["layer2.0.add"].inputs
        assert np.array_equal(body, passed["layer2.0.bn2"].output)
        assert np.array_equal(shortcut, passed["layer2.0.downsample"].output)
        assert np.array_equal(passed["layer2.0.add"].output, body + shortcut)
        assert np.array_equal(passed["layer2.0.act2"].inputs[0], body + shortcut)

    def test_layers_finish_before_the_block_that_holds_them(self) -> None:
        order = running_order(self.backend, self.probe(), IMAGES)
        assert order[:3] == ["conv1", "bn1", "act1"]
        assert order[-2:] == ["fc", ""]
        assert order.index("layer1.0.act2") + 1 == order.index("layer1.0")

    def test_the_settings_are_the_plans(self) -> None:
        planned = plan(SPEC)
        nodes = dict(walk(planned.root))
        settings = self.backend.settings(self.backend.build(planned.root))
        assert settings.keys() >= {name for name, node in nodes.items() if isinstance(node, Norm)}
        for name, of_layer in settings.items():
            assert of_layer == pytest.approx(nodes[name].settings())

    def test_a_copy_is_independent_and_of_any_dtype(self) -> None:
        network = self.probe()
        copied, double = self.backend.copy(network), self.backend.copy(network, "float64")
        self.backend.load(network, draw_weights(SPEC))
        weights = draw_weights(SPEC, scheme="probe")
        assert all(np.array_equal(array, weights[name]) for name, array in self.backend.dump(copied).items())
        assert self.backend.forward(copied, IMAGES).dtype == "float32"
        assert self.backend.forward(double, IMAGES).dtype == "float64"

    def test_a_network_moves_to_a_device_and_computes_there(self) -> None:
        network = self.probe()
        before = self.backend.forward(network, IMAGES)
        moved = self.backend.move(network, "cpu")
        assert np.array_equal(self.backend.forward(moved, IMAGES), before)
        with pytest.raises(BackendError, match="no device is called"):
            self.backend.move(network, "abacus")
        with pytest.raises(BackendError, match="there is no cuda:99"):
            self.backend.move(network, "cuda:99")


class BackboneContract(_Contract):
    """Backbones, whose output is a list of feature maps: :func:`resnet_xf.features`."""

    def maps(self, backbone: Any, images: Array) -> list[Array]:
        """The outputs of a backbone that is called as the framework's users call it."""
        raise NotImplementedError

    def test_a_backbone_gives_each_stages_map(self) -> None:
        weights = draw_weights(SPEC, scheme="probe")
        backbone = features(SPEC, self.backend, weights=weights)
        maps = self.maps(backbone, IMAGES)
        stages = capture_layers(self.backend, self.probe(), IMAGES, ["layer1", "layer2", "layer3"])
        assert [m.shape for m in maps] == [(2, 13, 17, 16), (2, 21, 9, 8), (2, 33, 5, 4)]
        assert all(np.array_equal(one, stage.output) for one, stage in zip(maps, stages.values(), strict=True))
        listed = self.backend.forward(backbone, IMAGES)
        assert isinstance(listed, list)
        assert all(np.array_equal(one, other) for one, other in zip(listed, maps, strict=True))
        assert not any(name.startswith("fc") for name in self.backend.dump(backbone))
        observed = trace_network(self.backend, backbone, IMAGES)
        assert observed.layers[""].output_shape == trace(plan_features(SPEC), IMAGES.shape)[0].output_shape

    def test_a_tapped_map_is_not_what_the_next_layer_made_of_it(self) -> None:
        before, after = self.maps(features(SPEC, self.backend, out=["bn1", "act1"]), images(1, 3, 67, 61))
        assert before.min() < 0
        assert np.array_equal(after, np.maximum(before, 0))


class LayersAloneContract(_Contract):
    """One layer at a time: :class:`resnet_xf.backend.contract.LayersAlone`."""

    def test_a_layer_applied_to_its_inputs_gives_its_output(self) -> None:
        network = self.probe()
        passed = capture_layers(self.backend, network, IMAGES, ["bn1", "layer2.0.add", "layer2.0", "fc"])
        for name, layer in passed.items():
            assert np.array_equal(self.backend.apply(network, name, layer.inputs), layer.output)
        inputs = passed["layer2.0.add"].inputs
        doubled = self.backend.apply(network, "layer2.0.add", [2 * x for x in inputs])
        assert np.array_equal(doubled, 2 * passed["layer2.0.add"].output)
        again = capture_layers(self.backend, network, IMAGES, ["layer2.0.add"])["layer2.0.add"]
        assert np.array_equal(inputs[0], again.inputs[0])


class GradientsAloneContract(_Contract):
    """Gradients of one layer at a time: :class:`resnet_xf.backend.contract.GradientsAlone`."""

    @pytest.mark.parametrize("name", ["conv1", "bn1", "act1", "layer2.0", "layer2.0.add", "fc"])
    def test_gradients_are_what_differences_say(self, name: str) -> None:
        """In float64 and in training mode: Σ output · cotangent changes as its gradients say."""
        network = self.probe("float64")
        layer = capture_layers(self.backend, network, IMAGES, [name])[name]
        draw = np.random.default_rng(1)
        cotangent = draw.standard_normal(layer.output.shape)
        gradients = self.backend.differentiate(network, name, layer.inputs, cotangent)
        keys = [f"input{n}" for n in range(len(layer.inputs))]
        inside = [n for n in all_weight_shapes(SPEC) if n.startswith(f"{name}.") and "running_" not in n]
        assert list(gradients) == [*keys, *(n.removeprefix(f"{name}.") for n in inside)]
        if name in ("bn1", "layer2.0"):  # whose output in training mode no other method gives
            assert all(np.isfinite(gradient).all() for gradient in gradients.values())
            assert np.abs(gradients["input0"].sum()) < 1e-9 or name != "bn1"  # a norm takes any shift off again
            return
        for key, x in zip(keys, layer.inputs, strict=True):
            step = 1e-6 * draw.standard_normal(x.shape)
            moved = [y + step if f"input{n}" == key else y for n, y in enumerate(layer.inputs)]
            after, before = (self.backend.apply(network, name, inputs) for inputs in (moved, layer.inputs))
            difference = ((after - before) * cotangent).sum()
            assert difference == pytest.approx((gradients[key] * step).sum(), rel=1e-6)


class TrainsContract(_Contract):
    """Training: :class:`resnet_xf.backend.contract.Trains`."""

    targets = np.eye(7)[[3, 5]].astype(np.float32) / 2

    def learner(self, *, freeze_statistics: bool = False) -> Learner:
        """A learner in float64, with the weights of :meth:`probe`."""
        learner: Learner = self.backend.learner(
            Task(
                network=plan(SPEC).root,
                momentum=0.5,
                nesterov=False,
                weight_decay=0.25,
                decaying=frozenset({"fc.weight"}),
                precision="float64",
                preset="eager",
                freeze_statistics=freeze_statistics,
                device="cpu",
                opens_with_norm=False,
            )
        )
        learner.load(draw_weights(SPEC, scheme="probe", dtype="float64"), {})
        return learner

    def test_a_step_goes_down_the_gradient_of_the_cross_entropy(self) -> None:
        learner = self.learner()
        before, _ = learner.dump()
        loss, outputs = learner.step(IMAGES, self.targets, 0.125)()
        log_softmax = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
        assert loss == pytest.approx(-(log_softmax * self.targets).sum())
        gradient = (np.exp(log_softmax) / 2 - self.targets).sum(0)
        after, velocity = learner.dump()
        np.testing.assert_allclose(velocity["fc.bias"], gradient, atol=1e-12)
        for name, v in velocity.items():
            np.testing.assert_allclose(after[name], before[name] - 0.125 * v, atol=1e-12)
        learner.load(before, velocity)
        learner.step(IMAGES, self.targets, 0.125)()
        _, twice = learner.dump()
        np.testing.assert_allclose(twice["fc.weight"], 1.5 * velocity["fc.weight"], rtol=1e-9, atol=1e-12)
        learner.close()

    def test_bytes_are_taken_as_their_tensor_is(self) -> None:
        """A batch is bytes that a look-up makes into an input tensor, on the device or by ``np.asarray``."""
        images = np.random.default_rng(0).integers(0, 256, (2, 67, 61, 3), np.uint8)
        normalisation = Normalisation(np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
        pixels = Pixels(images, normalisation, mirrored=np.array([True, False]))
        first, second = self.learner(), self.learner()
        steps = [first.step(pixels, self.targets, 0.125)(), second.step(np.asarray(pixels), self.targets, 0.125)()]
        assert steps[0][0] == steps[1][0]
        assert np.array_equal(first.outputs(pixels), second.outputs(np.asarray(pixels)))

    def test_norms_keep_the_variance_that_the_backend_says(self) -> None:
        network = self.probe("float64")
        x = capture_layers(self.backend, network, IMAGES, ["bn1"])["bn1"].inputs[0]
        before, momentum = self.backend.dump(network), self.backend.settings(network)["bn1"]["momentum"]
        learner = self.learner()
        learner.step(IMAGES, self.targets, 0.125)()
        after, _ = learner.dump()
        batch = {"mean": x.mean((0, 2, 3)), "var": x.var((0, 2, 3), ddof=int(self.backend.unbiased_variance))}
        for word, value in batch.items():
            expected = before[f"bn1.running_{word}"] * (1 - momentum) + value * momentum
            np.testing.assert_allclose(after[f"bn1.running_{word}"], expected, rtol=1e-6)

    def test_frozen_statistics_stay(self) -> None:
        learner = self.learner(freeze_statistics=True)
        before, _ = learner.dump()
        learner.step(IMAGES, self.targets, 0.125)()
        after, _ = learner.dump()
        assert np.array_equal(before["bn1.running_mean"], after["bn1.running_mean"])
        assert not np.array_equal(before["bn1.weight"], after["bn1.weight"])

    def test_a_dump_goes_on_where_it_was_taken(self) -> None:
        first, second = self.learner(), self.learner()
        first.step(IMAGES, self.targets, 0.125)()
        second.load(*first.dump())
        steps = [learner.step(IMAGES, self.targets, 0.125)()[0] for learner in (first, second)]
        assert steps[0] == steps[1]
        assert np.array_equal(first.outputs(IMAGES), second.outputs(IMAGES))
        assert np.array_equal(first.total(np.ones(2)), np.ones(2))


class OptimizesContract(_Contract):
    """Speed: :class:`resnet_xf.backend.contract.Optimizes`."""

    def test_a_fast_network_computes_the_same_in_batches_of_any_size(self) -> None:
        expected = self.backend.forward(self.probe("float64"), IMAGES)
        fast = self.backend.bench.fast(
            FastTask(self.probe(), "float32", "tuned", "cpu", (4, *IMAGES.shape[1:]), IMAGES)
        )
        assert fast.device == "cpu"
        for count in (1, 2):
            np.testing.assert_allclose(fast(IMAGES[:count]), expected[:count], rtol=1e-4, atol=1e-4)
        assert not isinstance(fast(fast.put(IMAGES)), np.ndarray)

    def test_what_a_measurement_asks(self) -> None:
        bench = self.backend.bench
        assert bench.threads() >= 1
        assert bench.peak_memory("cpu") is None
        assert bench.release("cpu") is None
        for multiply in bench.products(16, "float32", "cpu"):
            multiply()
        bench.wait("cpu")
