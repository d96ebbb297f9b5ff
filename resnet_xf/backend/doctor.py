"""What each backend's state is on this machine, and how to mend what is wrong.

Every backend is tried in a process of its own: one framework may bring along a library that another lacks, and an
import that crashes should be told, not shared.
"""

from __future__ import annotations

import subprocess
import sys

import msgspec

from resnet_xf.backend.registry import BUILT_IN, get_backend, how_to_install, is_installed, list_backends
from resnet_xf.errors import BackendError, one_line


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
    """Try every backend, each that is installed in a process of its own."""
    return [_apart(name) if is_installed(name) else _missing(name) for name in list_backends()]


def _title(name: str) -> str:
    return BUILT_IN[name].title if name in BUILT_IN else name


def _missing(name: str) -> Diagnosis:
    mend = how_to_install(name)
    return Diagnosis(name=name, framework=_title(name), installed=False, problem="not installed", mend=mend)


def _apart(name: str) -> Diagnosis:
    """The diagnosis that a fresh interpreter makes; if it dies, its last words."""
    code = f"from resnet_xf.backend.doctor import here; print(here({name!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    try:
        return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Diagnosis)
    except (IndexError, msgspec.MsgspecError):
        words = [line for line in done.stderr.splitlines() if line.strip()]
        problem = f"importing it ended the process with code {done.returncode}: {words[-1] if words else 'no message'}"
        return Diagnosis(name=name, framework=_title(name), installed=True, problem=problem)


def here(name: str) -> str:
    """The diagnosis in this very process, as JSON."""
    known = {"name": name, "framework": _title(name), "installed": True}
    try:
        backend = get_backend(name)
        found = Diagnosis(usable=True, version=backend.version(), devices=tuple(backend.devices()), **known)  # type: ignore[arg-type]
    except BackendError as error:
        found = Diagnosis(problem=error.problem, mend=error.mend, **known)  # type: ignore[arg-type]
    except Exception as error:  # a driver too old, say: whatever its framework raises
        found = Diagnosis(problem=one_line(error), **known)  # type: ignore[arg-type]
    return msgspec.json.encode(found).decode()
