"""What is assumed of a network that only its arrays' names and shapes tell, and what else they could be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import exp

import numpy as np

from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.spec import ResNetSpec, Spec
from resnet_xf.architecture.weights import Array
from resnet_xf.formats.layouts import Layout

EPS = (1e-5, 2e-5, 1e-3)
"""The usual eps of batch norms: PyTorch's and Gluon's, that of MXNet's symbol API, that of MXNet's operator."""

MOST_GROWTH = 3.0
"""How much an eps of 1e-3 in place of 1e-5 may change the scale of the outputs; beyond, an eps is not assumed.

With variances near 1 the growth is 1.03 for ResNet-50; with those of 0.0005 to 0.01 it is 6 for ResNet-18.
"""

DILATED = 8
"""The output stride of a network with dilation in its last two stages."""

WHOLE = {
    r"(^|_)(fcn|psp|pspnet|deeplab\w*|danet)\d+_|^(head|auxlayer)\.block\.": DILATED,
    r"(^|_)(ssd|fasterrcnn|maskrcnn|simplepose\w*)\d+_|batchnormcudnnoff|^(rpn|top_features|deconv_layers)\.": 32,
}
"""By patterns of names in GluonCV's whole models, the output stride of their trunks."""


def assumption(spec: Spec) -> str:
    """Return in words what names and shapes do not tell: ``resnet50_v1, eps 1e-05, stride on the 1×1, …``."""
    if not isinstance(spec, ResNetSpec):
        return spec.name
    bottleneck = f"stride on the {spec.stride_on.replace('x', '×')}, " if spec.block == "bottleneck" else ""
    return (
        f"{spec.name}, eps {spec.norm_eps:g}, {bottleneck}{'dilation' if is_dilated(spec) else 'no dilation'}, "
        "inputs normalised outside"
    )


def is_dilated(spec: Spec) -> bool:
    """Whether a network has dilation, as far as its spec says so by stages."""
    return isinstance(spec, ResNetSpec) and any(stage.dilation > 1 for stage in spec.stages)


def could_be_dilated(planned: Plan, layout: Layout) -> bool:
    """Whether networks of this family exist with dilation, which changes no name and no shape."""
    spec = planned.spec
    if not isinstance(spec, ResNetSpec) or not any(stage.stride > 1 for stage in spec.stages[1:]):
        return False
    return layout.dilates == "all" or (layout.dilates == "bottlenecks" and spec.block == "bottleneck")


def output_stride(names: Iterable[str]) -> int | None:
    """Return the output stride of a whole model's trunk, by the names of its other layers; None if they do not tell.

    GluonCV's segmenters have dilation in their trunks, its detectors and pose networks have none.
    """
    for name in names:
        for pattern, stride in WHOLE.items():
            if re.search(pattern, name):
                return stride
    return None


def hinted(names: Sequence[str], prefix: str) -> list[str]:
    """Return those of several networks' names that a file's own prefix names: ``resnetv1d_`` is no v1c."""
    variant = re.search(r"resnetv1([bcdes])", prefix)
    return [name for name in names if variant and f"v1{variant[1]}" in name] or [*names]


def growth_by_eps(weights: Mapping[str, Array]) -> float:
    """Return how much the scale of the outputs depends on the eps: 1 means not at all.

    It is the product over all batch norms of the median over channels of √((variance + 1e-3) / (variance + 1e-5)).
    """
    small, _, large = EPS
    variances = [array.astype(np.float64) for name, array in weights.items() if name.endswith("running_var")]
    return exp(sum(0.5 * float(np.median(np.log((array + large) / (array + small)))) for array in variances))
