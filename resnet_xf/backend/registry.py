"""List the backends, choose one, build networks with it, and say how to install one that is missing."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from resnet_xf.architecture.nodes import Node
from resnet_xf.architecture.plan import Plan, plan_features, root_of
from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.weights import Array, all_weight_shapes, draw_weights, require_memory, without_counters
from resnet_xf.backend.contract import DTYPES, Backend, lacking
from resnet_xf.errors import BackendError, MissingExtraError, SpecError, one_line
from resnet_xf.support.environment import without_collection

GROUP = "resnet_xf.backends"
VARIABLE = "RESNET_XF_BACKEND"
ALIASES = {"pytorch": "torch", "gluon": "mxnet"}


@dataclass(frozen=True, slots=True)
class _BuiltIn:
    """A backend of this project: its entry point, the module of its framework, and the framework's title.

    ``variables`` are environment variables for speed, which the framework reads during its import. ``compilers`` is the
    environment variable that says how many processes the framework's compiler may use. ``besides`` names further
    modules that the backend needs. A backend that does not train is the default only if it is the only one.
    """

    target: str
    framework: str
    title: str
    variables: Mapping[str, str] = field(default_factory=dict)
    compilers: str = ""
    besides: tuple[str, ...] = ()
    trains: bool = True


BUILT_IN = {
    "torch": _BuiltIn(
        "resnet_xf_torch:BACKEND",
        "torch",
        "PyTorch",
        # Keep freed memory in the process: otherwise every step requests the same pages from the system again.
        dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"), str(2**30)),
        compilers="TORCHINDUCTOR_COMPILE_THREADS",
    ),
    "mxnet": _BuiltIn(
        "resnet_xf_mxnet:BACKEND",
        "mxnet",
        "Apache MXNet Gluon",
        {"MXNET_CUDNN_AUTOTUNE_DEFAULT": "2", "MXNET_ENABLE_CUDA_GRAPHS": "1", "MXNET_EXEC_ENABLE_ADDTO": "1"},
    ),
    "onnx": _BuiltIn("resnet_xf_onnx:BACKEND", "onnxruntime", "ONNX Runtime", besides=("onnx",), trains=False),
}


def list_backends() -> list[str]:
    """Return the names of all backends, installed or not: this project's, then those of other packages."""
    return [*BUILT_IN, *_third_party()]


def is_installed(name: str) -> bool:
    """Return whether a backend's framework is installed. Nothing is imported."""
    if name not in BUILT_IN:
        return True
    modules = [importlib.util.find_spec(module) for module in (BUILT_IN[name].framework, *BUILT_IN[name].besides)]
    return all(module and module.origin for module in modules)  # a plain folder of that name has no origin


def backends_to_compare() -> list[str]:
    """Return the names of this project's backends that are installed.

    If there are fewer than two, add those to install: the ones that every machine can have come first.
    """
    installed = [name for name in BUILT_IN if is_installed(name)]
    missing = [name for name in ("torch", "onnx") if name not in installed]
    return installed if len(installed) > 1 else [*installed, *missing][:2]


def get_backend(name: str | Backend | None = None) -> Backend:
    """Return the backend of a name. If None, ``RESNET_XF_BACKEND`` names it, or it is the default.

    The default is ``torch`` if that is installed, or else the only installed backend that trains, or else the only one.
    ``pytorch`` and ``gluon`` mean ``torch`` and ``mxnet``. An object with a backend's members is returned as it is.

    Raises:
        BackendError: if there is no such backend, or it is not installed, or its import fails (the cause is chained);
            or if an object is a class or lacks a member.
    """
    if name is not None and not isinstance(name, str):
        return check_members(name)
    origin = ""
    if name is None:
        if name := os.environ.get(VARIABLE):
            origin = f"{VARIABLE}: "
        else:
            name = _default()
    name = ALIASES.get(name.lower(), name.lower())
    if name not in list_backends():
        raise BackendError(f"{origin}no backend is called {name!r}; choose one of {', '.join(list_backends())}")
    return _load(name)


def check_members(backend: Backend) -> Backend:
    """Return a backend that has all required members. None of them is called.

    Raises:
        BackendError: if it is a class or lacks a member.
    """
    rule = "a backend is a name or an object with the members of resnet_xf.backend.contract.Backend"
    if isinstance(backend, type):
        raise BackendError(f"{rule}; {backend.__name__} is a class, so give an object of it")
    if missing := lacking(backend, Backend):
        raise BackendError(f"{rule}; {type(backend).__name__} has no {', '.join(missing)}")
    return backend


def check_backend(backend: Backend) -> Backend:
    """Return a backend that has all required members, and whose version and devices can be asked for.

    Raises:
        BackendError: if it is a class or lacks a member, or if one of these two fails.
    """
    check_members(backend)
    for member, kind in (("version", str), ("devices", list)):
        try:
            value = getattr(backend, member)()
        except Exception as error:
            raise BackendError(f"backend {backend.name!r}: {member}() fails: {one_line(error)}") from error
        if not isinstance(value, kind):
            raise BackendError(f"backend {backend.name!r}: {member}() returns {value!r}; expected a {kind.__name__}")
    return backend


def has_device(backend: Backend, device: str) -> bool:
    """Return whether a backend has a device of the kind of ``cpu`` or ``cuda:1``.

    Its list may also say why it has none: ``not cuda:0: this is MXNet's CPU build``.
    """
    return any(one.startswith(device.partition(":")[0]) for one in backend.devices())


def backend_of(network: object) -> Backend:
    """Return the backend of a native network's framework. Of this project's backends, no other one is imported.

    Raises:
        SpecError: if the network belongs to no backend.
        BackendError: if that backend cannot be used.
    """
    modules = {base.__module__.partition(".")[0] for base in type(network).__mro__}
    for name in list_backends():
        if name not in BUILT_IN:
            with suppress(BackendError):  # a broken backend must not hide the others
                if isinstance(network, getattr(get_backend(name), "network_type", ())):
                    return get_backend(name)
        elif BUILT_IN[name].trains and BUILT_IN[name].framework in modules:  # a session of ONNX Runtime has no layers
            return get_backend(name)
    others = "".join(f" or of the backend {name}" for name in list_backends() if name not in BUILT_IN)
    kinds = f"a torch.nn.Module or a mxnet.gluon.HybridBlock{others}"
    raise SpecError(f"a network is {kinds}, got {type(network).__name__}")


def build(
    network: Plan | Spec | str | Node,
    backend: str | Backend | None = None,
    *,
    weights: Mapping[str, Array] | None = None,
    seed: int = 0,
    dtype: str = "float32",
) -> Any:
    """Build a native network: a ``torch.nn.Module``, a ``mxnet.gluon.HybridBlock``, or what another backend has.

    Args:
        network: a plan, a spec, the name of a spec, or a single node, for example a residual block.
        backend: see :func:`get_backend`.
        weights: arrays by name. If None, they are drawn with ``seed`` (:func:`resnet_xf.draw_weights`): every backend
            starts with the same weights.
        seed: seed of random weights.
        dtype: ``float32`` or ``float64``.

    Raises:
        BackendError, SpecError, WeightsError: see :func:`get_backend`, :func:`resnet_xf.architecture.plan.plan` and
            :func:`resnet_xf.architecture.weights.check_weights`.
    """
    chosen = check_members(get_backend(backend))  # devices are not asked for: that would start CUDA
    check_dtype(dtype)
    node = root_of(network)
    require_memory(node)
    native = chosen.build(node, dtype)
    chosen.load(native, draw_weights(node, seed) if weights is None else without_counters(weights))
    return native


def check_dtype(dtype: str) -> None:
    """Raise BackendError unless networks are built in a dtype."""
    if dtype not in DTYPES:
        raise BackendError(f"no network is built in {dtype!r}; choose {' or '.join(DTYPES)}, and cast it natively")


def features(
    spec: Spec | str,
    backend: str | Backend | None = None,
    *,
    out: Sequence[str] | None = None,
    weights: Mapping[str, Array] | None = None,
    seed: int = 0,
    dtype: str = "float32",
) -> Any:
    """Build a native backbone: it returns a list of feature maps, one for each layer named in ``out``.

    Args:
        spec: a spec, the name of one, or the path of its file.
        backend: see :func:`get_backend`.
        out: names of layers and stages, as in :func:`resnet_xf.architecture.plan.plan_features`; every stage if None.
        weights: weights of the whole network. Layers after the last feature map are left out.
        seed: seed of random weights, as in :func:`build`.
        dtype: ``float32`` or ``float64``.
    """
    node = plan_features(spec, out)
    if weights is not None:
        omitted = set(all_weight_shapes(spec)) - set(all_weight_shapes(node))
        weights = {name: array for name, array in without_counters(weights).items() if name not in omitted}
    return build(node, backend, weights=weights, seed=seed, dtype=dtype)


def how_to_install(name: str) -> str:
    """Return the command that installs a backend's framework on this machine, or why there is none."""
    if name != "mxnet":
        return f"pip install 'resnet-xf[{name}]'"
    machine = platform.machine()
    if sys.platform not in ("linux", "darwin") or (sys.platform == "darwin" and machine != "x86_64"):
        return f"MXNet 1.9.1 has no wheel for {platform.system()} on {machine}; use Linux, or a container of it"
    if sys.version_info >= (3, 13):
        return "pip install --no-deps mxnet==1.9.1 && pip install 'resnet-xf[mxnet]'"
    return "pip install 'resnet-xf[mxnet]'"


def _default() -> str:
    if is_installed("torch"):
        return "torch"
    installed = [name for name in list_backends() if is_installed(name)]
    installed = [name for name in installed if name not in BUILT_IN or BUILT_IN[name].trains] or installed
    if len(installed) == 1:
        return installed[0]
    if installed:
        raise BackendError(f"several backends are installed; name one of {', '.join(installed)} or set {VARIABLE}")
    lines = " or ".join(how_to_install(name) for name in BUILT_IN)
    raise MissingExtraError(f"no backend is installed; run {lines}")


@functools.cache
def _third_party() -> dict[str, EntryPoint]:
    """Return the entry points of other packages' backends."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILT_IN}


@functools.cache
def _load(name: str) -> Backend:
    """Import a backend. Entry points are read only for those of other packages."""
    if name in BUILT_IN:
        built_in = BUILT_IN[name]
        if not is_installed(name):
            raise MissingExtraError(
                f"backend {name!r} builds in {built_in.title}, and the package {built_in.framework!r} is not installed",
                how_to_install(name),
            )
        point = EntryPoint(name, built_in.target, GROUP)
    else:
        point = _third_party()[name]
    try:
        with without_collection():
            loaded: Backend = point.load()
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(f"backend {name!r} is installed but does not import: {one_line(error)}") from error
    return loaded
