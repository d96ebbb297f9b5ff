"""Networks of the zoo with fewer channels and blocks: as good to compare, and quicker to build and to run."""

from contextlib import suppress

from msgspec.structs import replace

from resnet_xf import ResNetSpec, get_spec, plan
from resnet_xf.errors import SpecError


def narrowed(spec: ResNetSpec, divisor: int) -> ResNetSpec:
    """The network with a part of its channels, at least 1 where it had any."""

    def part(width: object) -> object:
        if isinstance(width, tuple):
            return tuple(map(part, width))
        return max(1, width // divisor) if isinstance(width, int) else width

    stem = replace(spec.stem, width=part(spec.stem.width), hidden=part(spec.stem.hidden))
    widths = [{"channels": part(stage.channels), "mid_channels": part(stage.mid_channels)} for stage in spec.stages]
    stages = tuple(replace(stage, **each) for stage, each in zip(spec.stages, widths, strict=True))
    return replace(spec, stem=stem, stages=stages)


def shortened(name: str) -> ResNetSpec:
    """A zoo network with two blocks in its first stages and one in its two largest: later blocks repeat the second.

    It has as few channels, down to an eighth and to 8, as its groups allow: test_zoo knows the true widths.
    """
    spec = get_spec(name)
    most = [2] * max(1, len(spec.stages) - 2) + [1, 1]
    stages = []
    for stage, depth in zip(spec.stages, most, strict=False):
        widths = stage.mid_channels[:depth] if isinstance(stage.mid_channels, tuple) else stage.mid_channels
        stages.append(replace(stage, depth=min(depth, stage.depth), mid_channels=widths))
    short = replace(spec, stages=tuple(stages), name="shortened")
    narrowest = min(stage.channels for stage in short.stages)
    for divisor in (8, 4, 2):
        if narrowest >= 8 * divisor:
            with suppress(SpecError):
                plan(narrowed(short, divisor))
                return narrowed(short, divisor)
    return short
