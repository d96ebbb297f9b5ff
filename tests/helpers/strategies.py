"""Hypothesis strategies: small specs from the whole field space."""

from hypothesis import strategies as st

from resnet_xf import ResNetSpec, SqueezeExcitation, Stage, Stem, trace
from resnet_xf.errors import ShapeError


@st.composite
def stems(draw: st.DrawFn) -> Stem:
    kind = draw(st.sampled_from(["conv7", "conv3", "deep"]))
    return Stem(
        kind=kind,
        width=draw(st.integers(1, 12)),
        hidden=draw(st.none() | st.tuples(st.integers(1, 8), st.integers(1, 8))) if kind == "deep" else None,
        stride=draw(st.integers(1, 2)),
        input_norm=draw(st.booleans()),
        norm=draw(st.booleans()),
        activation=draw(st.booleans()),
        pool=draw(st.booleans()),
    )


@st.composite
def specs(draw: st.DrawFn) -> ResNetSpec:
    """Any sound spec, small enough to build and run in a moment."""
    bottleneck, preactivation = draw(st.booleans()), draw(st.booleans())
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    stem = draw(stems())
    if not bottleneck and groups > 1:  # a basic block's first 3x3 is grouped too, and reads the stem
        stem = Stem(kind="conv3", width=groups * draw(st.integers(1, 4)))
    stages = []
    for _ in range(draw(st.integers(1, 3))):
        stages.append(
            Stage(
                depth=draw(st.integers(1, 2)),
                channels=draw(st.integers(1, 5)) * groups * (4 if bottleneck else 1),
                stride=draw(st.sampled_from([1, 2, 2, 3])),
                mid_channels=draw(st.none() | st.integers(1, 4).map(lambda n: n * groups)),
                groups=groups,
                dilation=draw(st.sampled_from([1, 1, 2])),
                first_dilation=draw(st.sampled_from([None, None, 1, 2])),
            )
        )
        if bottleneck and stages[-1].mid_channels is None and stages[-1].channels // 4 % groups:
            raise AssertionError("the strategy draws unsound specs")
    convolutions = ["stem", "3x3", "shortcut"] + (["1x1"] if bottleneck else [])
    return ResNetSpec(
        name="drawn",
        in_channels=draw(st.integers(1, 4)),
        num_classes=draw(st.integers(1, 7)),
        image_size=(draw(st.integers(8, 33)), draw(st.integers(8, 33))),
        stem=stem,
        stages=tuple(stages),
        block="bottleneck" if bottleneck else "basic",
        preactivation=preactivation,
        stride_on=draw(st.sampled_from(["1x1", "3x3"])) if bottleneck else "3x3",
        shortcut=draw(st.sampled_from(["conv", "avg_conv"])),
        shortcut_norm=draw(st.sampled_from([None, True, False])),
        shortcut_from=draw(st.sampled_from(["preactivation", "input"])) if preactivation else "preactivation",
        conv_bias=tuple(draw(st.lists(st.sampled_from(convolutions), unique=True))),
        se=draw(st.none() | st.builds(SqueezeExcitation, divisor=st.sampled_from([1, 4]), bias=st.booleans())),
        norm_eps=draw(st.sampled_from([1e-5, 1e-3, 2e-5])),
        norm_momentum=draw(st.sampled_from([0.1, 0.01, 1.0])),
        zero_init_last=draw(st.booleans()),
    )


def fits(spec: ResNetSpec) -> bool:
    """Whether its images are not pooled to less than a window of the next pool."""
    try:
        trace(spec, (1, spec.in_channels, *spec.image_size))
    except ShapeError:
        return False
    return True
