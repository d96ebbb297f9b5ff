"""Rung 8 on networks whose training is chaotic, and when its bounds can prove nothing."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from helpers.runs import TINY
from resnet_xf import draw_weights, get_backend, get_spec, parity, plan
from resnet_xf.architecture.nodes import Scale
from resnet_xf.ladder.climb import assert_parity
from resnet_xf.ladder.inputs import subject_of
from resnet_xf.ladder.report.html import to_html
from resnet_xf.ladder.report.junit import to_junit
from resnet_xf.ladder.rungs import lockstep
from resnet_xf.ladder.short_run import in_units, lockstep_run
from resnet_xf.ladder.sides.live import Live

SMALL = {"image_size": (16, 16)}


def test_a_deep_network_with_xavier_s_weights_is_the_same() -> None:
    """In a row of steps, its rounding errors grow to the size of the momentum."""
    name = "cifar_resnet56_v2"
    subject, *_ = subject_of(name, (32, 32), None, draw_weights(name, 1, "xavier"), 0, None)
    finding = lockstep.judge(subject, [Live(subject, get_backend(backend)) for backend in ("torch", "mxnet")])
    assert finding.status == "pass", finding


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smallest defect that no bound can show."""
    monkeypatch.setitem(lockstep.SMALLEST, "momentum", 1e-30)


def test_a_bound_that_would_hide_a_defect_proves_nothing(undecided: None, monkeypatch: pytest.MonkeyPatch) -> None:
    report = parity(TINY, **SMALL)
    assert [rung.status for rung in report.rungs] == ["pass"] * 7 + ["inconclusive"]
    assert not report.holds
    assert report.failure is None
    assert report.verdict() == (
        "tiny: torch and mxnet: inference and gradients hold; training at these weights is too chaotic to compare; "
        "in every layer, the bound would hide another momentum; onnx cannot train"
    )
    monkeypatch.setattr("resnet_xf.ladder.climb.parity", lambda *given: report)  # to climb again would give it again
    with pytest.raises(AssertionError, match="too chaotic to compare"):
        assert_parity(TINY)
    suite = ET.fromstring(to_junit(report))
    assert suite.attrib["errors"] == "1"
    assert suite.find(".//error[@type='inconclusive']") is not None
    page = to_html(report)
    assert "Parity is undecided" in page
    assert "? inconclusive" in page


def test_the_command_ends_with_3(undecided: None, command, tmp_path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.to_toml())
    code, out, _ = command("parity", str(path), "--image-size", "16")
    assert code == 3
    assert "too chaotic to compare" in out


def test_a_drawn_momentum_is_the_same_wherever_it_is_drawn() -> None:
    weights = {"conv.weight": np.full((2, 1, 1, 2), -0.5), "conv.bias": np.zeros(2)}
    drawn = lockstep.drawn_momentum(weights, [lockstep.VELOCITY + name for name in weights])
    assert {name: array.shape for name, array in drawn.items()} == {
        f"{lockstep.VELOCITY}{name}": array.shape for name, array in weights.items()
    }
    values = np.concatenate([array.ravel() for array in drawn.values()])
    assert np.abs(values).max() <= 0.5
    assert len(set(values)) == len(values)


def test_a_network_that_normalises_images_itself_is_shown_pixels() -> None:
    spec = get_spec("arcface_r18")
    scale = plan(spec).input_scale
    assert scale == Scale((127.5,), (0.0078125,))
    images = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 2, 2)
    shown = in_units(images, scale)
    assert (shown.min(), shown.max()) == (-0.5, 255.5)
    np.testing.assert_allclose((shown - 127.5) * 0.0078125, images, atol=1e-7)
    assert plan("resnet18").input_scale is None
    step = next(iter(lockstep_run(plan(spec), 0)))
    assert step.images.mean() > 50
