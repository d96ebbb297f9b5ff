"""Where a written checkpoint loads: the networks of other libraries that have its names, shapes and arithmetic."""

from __future__ import annotations

from collections.abc import Iterable

from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.spec import ResNetSpec, Spec
from resnet_xf.architecture.zoo import REFERENCE, ZOO
from resnet_xf.formats.families import GLUON, LAYOUTS
from resnet_xf.formats.identify import arithmetic
from resnet_xf.formats.layouts import Layout
from resnet_xf.formats.matching import sized

EPS = 1e-5
"""The eps of the batch norms in all networks of torchvision, timm, Gluon's zoo and GluonCV."""

ALONE = "only resnet_xf loads it, by resnet_xf.load(file), and the network that `resnet-xf source` writes of the file"


def loads_into(planned: Plan, format_: str) -> str:
    """Return in words which libraries' networks load a file that was written in a format.

    ``torchvision's resnet18(num_classes=10) and timm's resnet18(num_classes=10) load it``, for example. They compute
    what ours computes, and ``load_state_dict(strict=True)`` or ``load_parameters`` takes the file as it is.
    """
    calls = _torch_calls(planned) if format_ != "params" else _gluon_calls(planned)
    if not calls or not _has_common_eps(planned):
        return ALONE
    return f"{' and '.join(calls)} {'load' if len(calls) > 1 else 'loads'} it"


def _has_common_eps(planned: Plan) -> bool:
    return not isinstance(planned.spec, ResNetSpec) or planned.spec.norm_eps == EPS


def _torch_calls(planned: Plan) -> list[str]:
    """The calls of torchvision and timm that build the network."""
    spec = planned.spec
    name = torch_name(planned)
    if name is None:
        return []
    model, arguments = _timm_call(name, spec)
    options = ", ".join(f"{key}={value}" for key, value in ({"num_classes": spec.num_classes} | arguments).items())
    calls = []
    if REFERENCE[name] == "torchvision" and spec.in_channels == 3 and spec.num_classes:
        calls.append(f"torchvision's {name}({options})")
    return [*calls, f"timm's {model}({options})"]


def torch_name(planned: Plan) -> str | None:
    """Return the name of torchvision's or timm's network with the plan's arithmetic; None if there is none."""
    return equal_name(planned, [n for n, source in REFERENCE.items() if source in ("torchvision", "timm")])


def _timm_call(name: str, spec: Spec) -> tuple[str, dict[str, int]]:
    model, _, stride = name.partition("_os")
    channels = {} if spec.in_channels == 3 else {"in_chans": spec.in_channels}
    return model, ({"output_stride": int(stride)} if stride else {}) | channels


def timm_model(planned: Plan) -> tuple[str, dict[str, int]] | None:
    """Return timm's name of the network, and further arguments of ``create_model``; None if timm has none like it."""
    name = torch_name(planned) if _has_common_eps(planned) else None
    return None if name is None else _timm_call(name, planned.spec)


def _gluon_calls(planned: Plan) -> list[str]:
    """The call of Gluon's model zoo or GluonCV that builds the network."""
    layout, name = gluon_layout(planned)
    if name is None:
        name = equal_name(planned, [one for one in ZOO if layout.is_own(one)])
    # Gluon's own infer the channels, GluonCV's have 3.
    if name is None or planned.spec.in_channels != 3 or not planned.spec.num_classes:
        return []
    library = "Gluon's" if REFERENCE[name] == "gluon" else "GluonCV's"
    return [f"{library} {name}(classes={planned.spec.num_classes})"]


def gluon_layout(planned: Plan) -> tuple[Layout, str | None]:
    """The Gluon family with a network of the plan's arithmetic, and its name; else our own family and None."""
    families = {name: layout for layout in LAYOUTS if layout is not GLUON for name in ZOO if layout.is_own(name)}
    own = equal_name(planned, families)
    return (families[own], own) if own else (GLUON, None)


def equal_name(planned: Plan, names: Iterable[str]) -> str | None:
    """The first of these names in the zoo whose network has the plan's arithmetic, or None."""
    spec, root = planned.spec, arithmetic(planned.spec).root
    alike = (n for n in names if arithmetic(sized(ZOO[n], spec.num_classes, spec.in_channels)).root == root)
    return next(alike, None)
