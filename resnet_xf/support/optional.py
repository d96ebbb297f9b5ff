"""Libraries that the base install leaves out, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from resnet_xf.errors import MissingExtraError


def optional(module: str, purpose: str, mend: str = "pip install 'resnet-xf[report]'") -> Any:
    """Import a module and return it.

    Args:
        module: its name.
        purpose: what it does here, ending in its own name: ``accuracies are compared by SciPy``.
        mend: the command that installs it.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(f"{purpose}, which is not installed", mend) from None
