"""Exported networks run in this process: to start a process with MXNet for each verification takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from resnet_xf.architecture.weights import Array
from resnet_xf.backend.registry import get_backend
from resnet_xf.errors import ResNetXFError, WeightsError
from resnet_xf.formats.exported import GRAPH


@contextmanager
def running_exported(
    symbol: Path, graph: bytes, tensors: Mapping[str, Array], images: Array
) -> Iterator[Callable[[], Array]]:
    """What :func:`resnet_xf.formats.exported.running_exported` does, without a process."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / GRAPH
        path.write_bytes(graph)

        def output() -> Array:
            try:
                return get_backend("mxnet").run_exported(path, tensors, images)
            except ResNetXFError as error:
                raise WeightsError(f"{symbol}: {str(error).removeprefix(f'{path}: ')}") from None

        yield output
