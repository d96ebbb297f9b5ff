"""Parity in a test suite: the fixture and the marker come with the installation of resnet_xf.

Run it with ``pytest examples/test_same_network.py -rP``: ``-rP`` prints the ladder of each test.
"""

import pytest

import resnet_xf


@pytest.mark.parity(level="quick", image_size=(64, 64))
def test_a_named_network_is_the_same(assert_parity) -> None:
    assert_parity("resnet18")


def test_my_network_is_the_same(assert_parity) -> None:
    stages = (resnet_xf.Stage(depth=1, channels=8), resnet_xf.Stage(depth=1, channels=16, stride=2))
    spec = resnet_xf.ResNetSpec(name="mine", num_classes=5, stages=stages)
    report = assert_parity(spec, level="quick", image_size=(32, 32))
    assert report.holds
