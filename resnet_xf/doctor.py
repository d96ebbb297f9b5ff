"""What each backend's state is on this machine, and how to mend what is wrong."""

from __future__ import annotations

import msgspec

from resnet_xf.backend import BUILT_IN, get_backend, how_to_install, is_installed, list_backends
from resnet_xf.errors import BackendError


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """One backend's state.

    Attributes:
        name: the backend's.
        framework: what it builds networks in.
        installed: whether the framework's package is found.
        usable: whether it imports.
        version: the framework's, if it imports.
        devices: what it can compute on.
        problem: why it is not usable.
        mend: the line to run, if one helps.
    """

    name: str
    framework: str
    installed: bool
    usable: bool = False
    version: str | None = None
    devices: tuple[str, ...] = ()
    problem: str | None = None
    mend: str | None = None


def diagnose() -> list[Diagnosis]:
    """Try every backend; each that is installed is imported."""
    return [_diagnose(name) for name in list_backends()]


def _diagnose(name: str) -> Diagnosis:
    framework = BUILT_IN[name].title if name in BUILT_IN else name
    if not is_installed(name):
        return Diagnosis(
            name=name,
            framework=framework,
            installed=False,
            problem="not installed",
            mend=how_to_install(name),
        )
    try:
        backend = get_backend(name)
        return Diagnosis(
            name=name,
            framework=framework,
            installed=True,
            usable=True,
            version=backend.version(),
            devices=tuple(backend.devices()),
        )
    except BackendError as error:
        return Diagnosis(name=name, framework=framework, installed=True, problem=str(error))
