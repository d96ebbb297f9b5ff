"""Check which backends work on this machine, and say how to repair the others."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec

from resnet_xf.backend.registry import BUILT_IN, check_backend, get_backend, how_to_install, is_installed, list_backends
from resnet_xf.errors import BackendError, one_line


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """One backend's state.

    Attributes:
        name: name of the backend.
        framework: title of its framework.
        installed: whether the framework's package is installed.
        usable: whether it can be imported.
        version: version of the framework, if usable.
        devices: devices that it can compute on.
        problem: why it is not usable.
        mend: command that repairs it, if there is one.
    """

    name: str
    framework: str
    installed: bool = True
    usable: bool = False
    version: str | None = None
    devices: tuple[str, ...] = ()
    problem: str | None = None
    mend: str | None = None


def diagnose() -> list[Diagnosis]:
    """Return the state of every backend.

    Each is imported in a new process: it may load a library that another one lacks, and its import may crash.
    """
    return [_diagnose(name) for name in list_backends()]


def _diagnose(name: str) -> Diagnosis:
    """Return the state that a new interpreter reports; if it crashes, the last line of its stderr."""
    if not is_installed(name):
        return _state(name, installed=False, problem="not installed", mend=how_to_install(name))
    code = f"from resnet_xf.backend.doctor import here; print(here({name!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    try:
        return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Diagnosis)
    except (IndexError, msgspec.MsgspecError):
        last = done.stderr.strip().rpartition("\n")[2] or "no message"
        return _state(name, problem=f"importing it ended the process with code {done.returncode}: {last}")


def _state(name: str, **fields: Any) -> Diagnosis:
    return Diagnosis(name=name, framework=BUILT_IN[name].title if name in BUILT_IN else name, **fields)


def here(name: str) -> str:
    """Import a backend in this process, and return its state as JSON."""
    try:
        backend = check_backend(get_backend(name))
        state = _state(name, usable=True, version=backend.version(), devices=tuple(backend.devices()))
    except BackendError as error:
        state = _state(name, problem=error.problem, mend=error.mend)
    except Exception as error:  # from the framework, for example about an old driver
        state = _state(name, problem=one_line(error))
    return msgspec.json.encode(state).decode()
