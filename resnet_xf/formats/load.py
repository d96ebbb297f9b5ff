"""The native network of a checkpoint file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_xf.architecture.plan import Plan
from resnet_xf.architecture.spec import Spec
from resnet_xf.architecture.weights import cast_weights
from resnet_xf.backend.contract import Backend
from resnet_xf.backend.registry import build, check_dtype, features
from resnet_xf.formats.files import read_checkpoint
from resnet_xf.formats.identify import Identity, check_unambiguous, identify


def load(
    path: str | Path,
    backend: str | Backend | None = None,
    *,
    spec: Plan | Spec | str | None = None,
    prefix: str | None = None,
    out: Sequence[str] | None = None,
    dtype: str = "float32",
) -> Any:
    """Build the network of a checkpoint, with its weights.

    ``resnet_xf.load("net-0000.params", "torch")`` is a ``torch.nn.Module``.

    Args:
        path: a file that :func:`resnet_xf.convert` reads or writes, or the folder of a training run. The graph beside
            ``net-0000.params`` is ``net-symbol.json``.
        backend: as :func:`resnet_xf.get_backend` chooses it.
        spec: the network, where the file does not tell it: a plan, a spec, the name of one, or the path of its file.
        prefix: of the network's names, if the file has more than this network.
        out: names of layers and stages whose feature maps are the outputs, as for :func:`resnet_xf.features`; if None
            the network is built with its own output.
        dtype: ``float32`` or ``float64``.

    Raises:
        WeightsError: if the file cannot be read, or several networks have its names and shapes.
        SpecError: if ``out`` names no layer.
        BackendError: if no backend is installed.
    """
    identity = read_network(path, spec, prefix)
    check_dtype(dtype)
    weights = cast_weights(identity.weights, dtype)
    if out is not None:
        return features(identity.plan.spec, backend, out=out, weights=weights, dtype=dtype)
    return build(identity.plan, backend, weights=weights, dtype=dtype)


def read_network(path: str | Path, spec: Plan | Spec | str | None = None, prefix: str | None = None) -> Identity:
    """Read the network of a checkpoint and its weights; arguments and errors are those of :func:`load`."""
    file = read_checkpoint(path, prefix)
    identity = identify(file, spec)
    check_unambiguous(file, identity)
    return identity
