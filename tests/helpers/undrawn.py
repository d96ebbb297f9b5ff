"""Weights for tests that look at names and shapes alone: to draw them takes most of such a test's time."""

import numpy as np

from resnet_xf import ResNetSpec
from resnet_xf.architecture.nodes import Node, join, walk
from resnet_xf.architecture.plan import Plan, root_of
from resnet_xf.architecture.weights import Weights


def undrawn(network: Plan | ResNetSpec | str | Node) -> Weights:
    """What :func:`resnet_xf.draw_weights` gives, but for kernels and linear layers, which are 0."""
    return {
        join(layer, word): np.full(array.shape, array.start or 0, np.float32)
        for layer, node in walk(root_of(network))
        for word, array in node.arrays().items()
    }
