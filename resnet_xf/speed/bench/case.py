"""What one measurement is of: a network, whose it is, where and how it runs."""

from __future__ import annotations

from typing import Literal

from resnet_xf.architecture.spec import ResNetSpec
from resnet_xf.backend.fast import PRESETS
from resnet_xf.errors import BenchError
from resnet_xf.support.documents import Document

OURS = "resnet_xf"
"""Whose networks those are that this project builds."""

PEERS = {"torchvision": "torch", "timm": "torch", "gluon": "mxnet"}
"""Other libraries, each with its backend, whose own networks run under the same harness; ``gluon`` is Gluon's zoo."""

MODES = ("infer", "train")


class Case(Document, frozen=True, kw_only=True):
    """One measurement.

    Attributes:
        spec: the network.
        library: whose implementation of it: this project's, or one of ``PEERS``.
        backend: the framework that runs it.
        mode: ``infer``; or ``train``: forward, backward and a step of SGD with momentum and decay.
        preset: one of :data:`resnet_xf.backend.fast.PRESETS`.
        precision: one of :data:`resnet_xf.backend.fast.PRECISIONS`.
        batch: images at a time.
        image_size: height and width.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        threads: of the CPU, as ``OMP_NUM_THREADS`` tells the process.
        seed: for the weights.
    """

    title = "a case"
    error = BenchError

    spec: ResNetSpec
    library: str = OURS
    backend: str
    mode: Literal["infer", "train"] = "infer"
    preset: str = "best"
    precision: str = "float32"
    batch: int = 16
    image_size: tuple[int, int]
    device: str = "cpu"
    threads: int
    seed: int = 0

    @property
    def group(self) -> tuple[object, ...]:
        """What cases have in common that are compared with each other."""
        return self.spec, self.seed, self.mode, self.image_size, self.device, self.threads

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it the same measurement in another report."""
        return (*self.group, self.library, self.backend, self.preset, self.precision, self.batch)

    @property
    def group_title(self) -> str:
        """The group in words."""
        (height, width), threads = self.image_size, "thread" if self.threads == 1 else "threads"
        return f"{self.spec.name}, {self.mode}, {height}×{width}, {self.device}, {self.threads} {threads}"

    @property
    def way(self) -> str:
        """Whose, how fast and how exact, in three words."""
        return f"{self.backend if self.library == OURS else self.library} {self.preset} {self.precision}"

    def __str__(self) -> str:
        """The case within its group, in words."""
        return f"{self.way}, batch {self.batch}"


def cases(
    spec: ResNetSpec,
    *,
    backends: tuple[str, ...],
    peers: tuple[str, ...] = (),
    modes: tuple[str, ...] = ("infer",),
    presets: tuple[str, ...] = ("eager", "best"),
    precisions: tuple[str, ...] = ("float32",),
    batch: int = 16,
    image_size: tuple[int, int] | None = None,
    device: str = "cpu",
    threads: int,
) -> list[Case]:
    """Every combination that is asked for, the peers first, which the others are then compared with.

    What is as wide as float32 is measured in every preset, and lower precision in the fastest that is asked for alone.
    """
    fastest = max(presets, key=list(PRESETS).index)
    sources = [(peer, PEERS[peer]) for peer in peers] + [(OURS, backend) for backend in backends]
    return [
        Case(
            spec=spec,
            library=library,
            backend=backend,
            mode=mode,  # type: ignore[arg-type]
            preset=preset,
            precision=precision,
            batch=batch,
            image_size=image_size or spec.image_size,
            device=device,
            threads=threads,
        )
        for mode in modes
        for library, backend in sources
        for precision in precisions
        for preset in presets
        if precision in ("float32", "tf32") or preset == fastest
    ]
