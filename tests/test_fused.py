"""Changes for tensor cores: the network stays the same, on the CPU too, where each new layer has a kernel as well."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.narrow import shortened
from resnet_xf.architecture.plan import plan
from resnet_xf.architecture.weights import draw_weights
from resnet_xf.backend.registry import get_backend
from resnet_xf.speed.optimize import native_of
from resnet_xf_torch.fused import (
    ConvReLU,
    SpaceToDepthConv2d,
    conv_relu,
    with_fused_convolutions,
    with_pooled_stem,
    with_wide_stem,
)
from resnet_xf_torch.reference import peer


def network(name: str) -> nn.Module:
    """A network of one block a stage, with folded norms and float64 weights, for inference."""
    planned = plan(shortened(name))
    native, _ = native_of(get_backend("torch"), planned, draw_weights(planned, 0, "probe"), "best")
    return native.double().eval().requires_grad_(False)


def off(outputs: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest difference, relative to the largest output."""
    return float((outputs - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize(
    ("name", "channels", "joined", "pooled", "wide"),
    [
        ("resnet18", 3, 12, True, False),  # two for each of six blocks
        ("resnet50", 3, 18, True, False),
        ("resnet50d", 3, 19, False, True),  # and the deep stem's second convolution
        ("resnet50_v2", 3, 12, True, False),  # a sum is followed by a norm
        ("seresnet50", 3, 12, True, False),  # a gate stands before the sum
        ("resnext50_32x4d", 3, 12, True, False),  # grouped convolutions stay
        ("d2l_resnet18", 1, 12, True, False),
        ("cifar_resnet20", 3, 8, False, False),
    ],
)
def test_a_network_stays_the_same(name: str, channels: int, joined: int, pooled: bool, wide: bool) -> None:
    x = torch.rand(2, channels, 64, 32, dtype=torch.float64)
    odd = torch.rand(1, channels, 33, 30, dtype=torch.float64)
    changed = network(name)
    before, before_odd = changed(x), changed(odd)
    stem = network(name)
    assert with_wide_stem(stem) is (pooled or wide)
    assert off(stem(x), before) < 1e-13
    assert off(stem(odd), before_odd) < 1e-13
    assert with_pooled_stem(changed) is pooled
    assert with_wide_stem(changed) is wide
    assert off(changed(x), before) < 1e-13
    assert with_fused_convolutions(changed)
    assert sum(isinstance(module, ConvReLU) for module in changed.modules()) == joined
    assert off(changed(x), before) < 1e-13
    assert off(changed(odd), before_odd) < 1e-13


def test_the_bias_of_a_shortcut_is_added_once() -> None:
    changed = network("resnet50")
    with_fused_convolutions(changed)
    convolutions = [module for module in changed.modules() if isinstance(module, nn.Conv2d)]
    assert sum(module.bias is None for module in convolutions) == 4  # one shortcut of each stage


def test_networks_of_other_libraries_stay_as_they_are() -> None:
    for library, name in (("torchvision", "resnet18"), ("timm", "resnet50d")):
        other = peer(library, name, 10, 3)
        text = repr(other)
        assert not with_pooled_stem(other)
        assert not with_wide_stem(other)
        assert not with_fused_convolutions(other)
        assert repr(other) == text


@settings(max_examples=60)
@given(
    channels=st.integers(1, 4),
    kernel=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    size=st.tuples(st.integers(9, 14), st.integers(9, 14)),
    bias=st.booleans(),
)
def test_a_convolution_of_blocks_is_the_convolution(channels, kernel, padding, size, bias) -> None:
    conv = nn.Conv2d(channels, 5, kernel, 2, padding, bias=bias).double()
    changed = SpaceToDepthConv2d(conv)
    x = torch.rand(2, channels, *size, dtype=torch.float64)
    torch.testing.assert_close(changed(x), conv(x), rtol=0, atol=1e-13)
    assert changed.state_dict().keys() == conv.state_dict().keys()


def test_its_gradients_are_those_of_the_convolution() -> None:
    conv = nn.Conv2d(3, 8, 7, 2, 3, bias=False).double()
    x = torch.rand(2, 3, 31, 32, dtype=torch.float64)
    (expected,) = torch.autograd.grad(conv(x).square().sum(), conv.weight)
    (gradient,) = torch.autograd.grad(SpaceToDepthConv2d(conv)(x).square().sum(), conv.weight)
    assert off(gradient, expected) < 1e-13


def test_what_the_compiler_believes_about_the_fused_kernel_is_so() -> None:
    x = torch.rand(2, 4, 9, 9).to(memory_format=torch.channels_last)
    weight = torch.rand(6, 4, 3, 3).to(memory_format=torch.channels_last)
    for shortcut in (None, torch.rand(2, 6, 5, 5).to(memory_format=torch.channels_last)):
        arguments = x, shortcut, weight, torch.rand(6), [2, 2], [1, 1]
        torch.library.opcheck(conv_relu, arguments, test_utils=("test_schema", "test_faketensor"))
