"""Libraries of the extra ``report``, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from resnet_xf.errors import BackendError

MEND = "pip install 'resnet-xf[report]'"


def optional(module: str, purpose: str) -> Any:
    """A module that need not be installed.

    Args:
        module: its name.
        purpose: what it does here, up to its own name: ``accuracies are compared by SciPy``.

    Raises:
        BackendError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise BackendError(f"{purpose}, which is not installed", MEND) from None
