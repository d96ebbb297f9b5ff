"""Imports MXNet 1.9.1 under the NumPy and Python of today, and takes back what that needed.

The last MXNet wants, while it is being imported and not later, about twenty names that NumPy has since
dropped, and the module ``distutils.version`` that Python dropped in 3.12. They are lent for the length of the
import. So is ``OMP_NUM_THREADS``: without it MXNet's engine, as it loads, halves the OpenMP threads of the
whole process, PyTorch's too.
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

import numpy as np

from resnet_xf.errors import BackendError
from resnet_xf.support.environment import processors
from resnet_xf_mxnet.cuda import prepare


def _gone(*_: object) -> None:
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
} | dict.fromkeys(("mirr", "npv", "pmt", "ppmt", "pv", "rate"), _gone)
"""What MXNet asks of NumPy at import, and what stands for it where NumPy has it no more."""


class _Version(tuple[int, ...]):
    """Versions compared number by number: enough of ``distutils.version`` for the two that MXNet compares."""

    def __new__(cls, text: str) -> _Version:
        return super().__new__(cls, map(int, re.findall(r"\d+", text)))


def _distutils() -> dict[str, ModuleType]:
    """Stand-ins for the modules that MXNet imports, where Python has them no more."""
    if importlib.util.find_spec("distutils") is not None:
        return {}
    package, version = ModuleType("distutils"), ModuleType("distutils.version")
    for name in ("LooseVersion", "StrictVersion"):
        setattr(version, name, _Version)
    package.version = version  # type: ignore[attr-defined]
    return {"distutils": package, "distutils.version": version}


@contextmanager
def lent() -> Iterator[None]:
    """Lend NumPy, ``sys.modules`` and the environment what an import of MXNet needs; take all of it back."""
    missing = {name: value for name, value in NUMPY_NAMES.items() if name not in vars(np)}
    threads = processors()
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
            os.environ["OMP_NUM_THREADS"] = str(threads)
            stack.callback(os.environ.pop, "OMP_NUM_THREADS", None)
        yield


def import_mxnet() -> Any:
    """The module ``mxnet``.

    Raises:
        BackendError: if a library that MXNet needs is missing; the message says how to get it. Or if ``DMLC_ROLE`` is
            none.
    """
    role = os.environ.get("DMLC_ROLE", "worker")
    if role not in ("worker", "server", "scheduler"):  # MXNet would wait for ever
        raise BackendError(f"DMLC_ROLE is {role!r}; expected worker, server or scheduler")
    prepare()
    with lent():
        try:
            return importlib.import_module("mxnet")
        except OSError as error:
            if "libgomp.so.1" not in str(error):
                raise
            raise BackendError(
                f"MXNet needs the system library libgomp.so.1, which cannot be loaded ({error})",
                "apt-get install libgomp1 (Debian, Ubuntu) or dnf install libgomp (Fedora, RHEL)",
            ) from error


mx = import_mxnet()
