"""Running an exported network in a child process, because a graph can crash MXNet."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from resnet_xf.architecture.weights import Array
from resnet_xf.backend.contract import RunsExports, require
from resnet_xf.backend.registry import get_backend
from resnet_xf.errors import ResNetXFError, WeightsError
from resnet_xf.support.parent import connect, report_failure
from resnet_xf.support.processes import Child, ProcessDied

SECONDS = 600.0
"""How long a network may run; ResNet-152 needs 10."""

GRAPH, TENSORS, IMAGES, OUTPUT = "graph.json", "tensors.safetensors", "images.npy", "output.npy"


def run_exported(symbol: Path, graph: bytes, tensors: Mapping[str, Array], images: Array) -> Array:
    """The output of an exported network in float64; see :meth:`resnet_xf.backend.contract.RunsExports.run_exported`.

    Args:
        symbol: the file, for messages.
        graph: as :func:`resnet_xf.formats.gluon_symbol.checked_graph` returns it.
        tensors: the weights, by the names in the graph.
        images: ``(N, C, H, W)``.

    Raises:
        WeightsError: if MXNet cannot run it, or crashes.
    """
    with tempfile.TemporaryDirectory(prefix="resnet-xf-") as name:
        folder = Path(name)
        (folder / GRAPH).write_bytes(graph)
        save_file({key: np.ascontiguousarray(array) for key, array in tensors.items()}, folder / TENSORS)
        np.save(folder / IMAGES, images)
        with open(os.devnull, "wb") as nowhere:
            silent = nowhere.fileno()
            child = Child(
                "mxnet", [sys.executable, "-m", __name__, name], {}, stdout=silent, stderr=silent, folder=folder
            )
        try:
            child.receive(SECONDS)
        except (ProcessDied, TimeoutError) as end:
            if child.exit_code != 0:
                how = child.failure or f"MXNet cannot run it: the process {end or 'takes too long'}"
                raise WeightsError(f"{symbol}: {how.removeprefix(f'{folder / GRAPH}: ')}") from None
        finally:
            child.end()
        output: Array = np.load(folder / OUTPUT, allow_pickle=False)
    return output


def _run(folder: Path) -> None:
    """Run the network in a folder; this is the child."""
    connect()
    with suppress(OSError):  # on Linux: if memory runs out, end this process and no other
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        run = require(get_backend("mxnet"), RunsExports).run_exported
        np.save(folder / OUTPUT, run(folder / GRAPH, load_file(folder / TENSORS), np.load(folder / IMAGES)))
    except ResNetXFError as error:
        report_failure(str(error))
        sys.exit(2)


if __name__ == "__main__":
    _run(Path(sys.argv[1]))
