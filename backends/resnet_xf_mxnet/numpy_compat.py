"""Import MXNet 1.9.1 under a recent NumPy and Python.

Only during its import, MXNet needs about twenty names that NumPy has removed, and ``distutils.version``, which
Python 3.12 removed. This module adds them before the import and removes them after it. ``OMP_NUM_THREADS`` is set in
the same way: without it, MXNet's engine halves the OpenMP threads of the whole process, also PyTorch's.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import lazy_loader  # type: ignore[import-untyped]
import numpy as np

from resnet_xf.errors import BackendError
from resnet_xf.support.environment import processors
from resnet_xf_mxnet.cuda import prepare


def _removed(*_: object) -> None:
    raise NotImplementedError("NumPy no longer has this function")


NUMPY_NAMES: dict[str, Any] = {
    "bool": bool,
    "PZERO": 0.0,
    "NZERO": -0.0,
    "PINF": np.inf,
    "NINF": -np.inf,
    "Inf": np.inf,
    "NAN": np.nan,
    "NaN": np.nan,
    "product": np.prod,
    "alltrue": np.all,
    "sometrue": np.any,
    "in1d": np.isin,
    "round_": np.round,
    "trapz": getattr(np, "trapezoid", None) or vars(np).get("trapz"),
    "msort": np.sort,
} | dict.fromkeys(("mirr", "npv", "pmt", "ppmt", "pv", "rate"), _removed)
"""The names that MXNet reads from NumPy at import, with the values to use where NumPy has removed them."""


class _Version(tuple[int, ...]):
    """A version as a tuple of integers. MXNet needs no more of ``distutils.version``."""

    def __new__(cls, text: str) -> _Version:
        return super().__new__(cls, map(int, re.findall(r"\d+", text)))


def _distutils() -> dict[str, ModuleType]:
    """Return substitutes for the ``distutils`` modules that MXNet imports; none if Python still has ``distutils``."""
    if importlib.util.find_spec("distutils") is not None:
        return {}
    package, version = ModuleType("distutils"), ModuleType("distutils.version")
    for name in ("LooseVersion", "StrictVersion"):
        setattr(version, name, _Version)
    package.version = version  # type: ignore[attr-defined]
    return {"distutils": package, "distutils.version": version}


@contextmanager
def _absent(*names: str) -> Iterator[None]:
    """Let an import of these modules fail within the block, unless they were imported before."""
    new = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(new))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in new:
            del sys.modules[name]


@contextmanager
def removed_names() -> Iterator[None]:
    """Add to NumPy, ``sys.modules`` and the environment what an import of MXNet needs; remove it at the end."""
    missing = {name: value for name, value in NUMPY_NAMES.items() if name not in vars(np)}
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for name, value in missing.items():
            setattr(np, name, value)
            stack.callback(delattr, np, name)
        for name, module in _distutils().items():
            sys.modules[name] = module
            stack.callback(sys.modules.pop, name, None)
        if "OMP_NUM_THREADS" not in os.environ:
            os.environ["OMP_NUM_THREADS"] = str(processors())
            stack.callback(os.environ.pop, "OMP_NUM_THREADS", None)
        yield


def import_mxnet() -> Any:
    """Import and return the module ``mxnet``.

    Raises:
        BackendError: if a library that MXNet needs is missing, or ``DMLC_ROLE`` is not a role.
    """
    role = os.environ.get("DMLC_ROLE", "worker")
    if role not in ("worker", "server", "scheduler"):  # MXNet would wait forever
        raise BackendError(f"DMLC_ROLE is {role!r}; expected worker, server or scheduler")
    prepare()
    with removed_names():
        try:
            # Both are optional, seldom used, and take a second to import.
            with _absent("sklearn", "scipy.stats"):
                mxnet = importlib.import_module("mxnet")
            mxnet.contrib.quantization.stats = mxnet.test_utils.ss = lazy_loader.load("scipy.stats")
            return mxnet
        except OSError as error:
            if "libgomp.so.1" not in str(error):
                raise
            raise BackendError(
                f"MXNet needs the system library libgomp.so.1, which cannot be loaded ({error})",
                "apt-get install libgomp1 (Debian, Ubuntu) or dnf install libgomp (Fedora, RHEL)",
            ) from error


mx = import_mxnet()
