"""Networks of the zoo with fewer channels: as good to compare, and quicker to build and to run."""

from msgspec.structs import replace

from resnet_xf import ResNetSpec


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
