"""Running an exported network in a child process, because a graph can crash MXNet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL

import numpy as np
from safetensors.numpy import load_file, save_file

from resnet_xf.architecture.weights import Array
from resnet_xf.backend.contract import RunsExports, require
from resnet_xf.backend.registry import get_backend
from resnet_xf.errors import ResNetXFError, WeightsError
from resnet_xf.support.files import temporary_folder
from resnet_xf.support.parent import connect, report_failure
from resnet_xf.support.processes import Child, ProcessDied

SECONDS = 600.0
"""How long a network may run for each image; ResNet-152 needs 10."""

GRAPH, TENSORS, IMAGES, OUTPUT = "graph.json", "tensors.safetensors", "images.npy", "output.npy"


@contextmanager
def running_exported(
    symbol: Path, graph: bytes, tensors: Mapping[str, Array], images: Array
) -> Iterator[Callable[[], Array]]:
    """Run an exported network beside what the block does; the block gets a function that waits for its output.

    The output is float64; see :meth:`resnet_xf.backend.contract.RunsExports.run_exported`. The function raises
    WeightsError if MXNet cannot run the network, or crashes.

    Args:
        symbol: the file, for messages.
        graph: as :meth:`resnet_xf.formats.gluon_symbol.Symbol.for_mxnet` returns it.
        tensors: the weights, by the names in the graph.
        images: as the graph takes them: ``(N, C, H, W)``, or ``(N, H, W, C)``.
    """
    with temporary_folder() as folder:
        (folder / GRAPH).write_bytes(graph)
        save_file({key: np.ascontiguousarray(array) for key, array in tensors.items()}, folder / TENSORS)
        np.save(folder / IMAGES, images)
        command = [sys.executable, "-m", __name__, str(folder)]
        child = Child("mxnet", command, {}, stdout=DEVNULL, stderr=DEVNULL, folder=folder)

        def output() -> Array:
            try:
                child.receive(SECONDS * len(images))
            except (ProcessDied, TimeoutError) as end:
                if child.exit_code != 0:
                    how = child.failure or f"MXNet cannot run it: the process {str(end) or 'takes too long'}"
                    raise WeightsError(f"{symbol}: {how.removeprefix(f'{folder / GRAPH}: ')}") from None
            array: Array = np.load(folder / OUTPUT, allow_pickle=False)
            return array

        try:
            yield output
        finally:
            child.end()


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
