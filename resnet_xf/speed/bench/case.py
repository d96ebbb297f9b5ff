"""A case of the benchmark: which network is measured, which library wrote its code, where and how it runs."""

from __future__ import annotations

from typing import Any, Literal, get_args

from resnet_xf.architecture.spec import Spec
from resnet_xf.backend.fast import PRESETS
from resnet_xf.errors import BenchError
from resnet_xf.support.documents import Document

OURS = "resnet_xf"
"""The library of the networks that this project builds."""

PEERS = {"torchvision": "torch", "timm": "torch", "gluon": "mxnet"}
"""Other libraries, whose own networks can be measured too, and the backend of each; ``gluon`` is Gluon's model zoo."""

Mode = Literal["infer", "train"]
MODES: tuple[Mode, ...] = get_args(Mode)


class Case(Document, frozen=True, kw_only=True):
    """What one measurement of the benchmark runs.

    Attributes:
        spec: the network.
        library: who wrote its code: this project (``OURS``), or a library in ``PEERS``.
        backend: the framework that runs it.
        mode: ``infer``; or ``train``: forward, backward and a step of SGD with momentum and weight decay.
        preset: one of :data:`resnet_xf.backend.fast.PRESETS`.
        precision: one of :data:`resnet_xf.backend.fast.PRECISIONS`.
        batch: how many images are computed at a time.
        image_size: height and width.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        threads: how many CPU threads the process may use (``OMP_NUM_THREADS``).
        seed: the seed of the weights.
    """

    title = "a case"
    error = BenchError

    spec: Spec
    library: str = OURS
    backend: str
    mode: Mode = "infer"
    preset: str = "best"
    precision: str = "float32"
    batch: int = 16
    image_size: tuple[int, int]
    device: str = "cpu"
    threads: int
    seed: int = 0

    @property
    def group(self) -> tuple[object, ...]:
        """The fields that must be equal for two cases to be compared with each other."""
        return self.spec, self.seed, self.mode, self.image_size, self.device, self.threads

    @property
    def network(self) -> tuple[object, ...]:
        """The fields that must be equal for one process to compute the reference outputs of two cases."""
        return self.spec, self.seed, self.image_size, self.device

    @property
    def group_title(self) -> str:
        """The group in words: ``resnet18, infer, 224×224, cpu, 4 threads``."""
        (height, width), unit = self.image_size, "thread" if self.threads == 1 else "threads"
        return f"{self.spec.name}, {self.mode}, {height}×{width}, {self.device}, {self.threads} {unit}"

    @property
    def way(self) -> str:
        """Backend (or the other library), preset and precision as text: ``torch best float32``."""
        return f"{self.backend if self.library == OURS else self.library} {self.preset} {self.precision}"

    def __str__(self) -> str:
        """Return what distinguishes the case from others of its group: ``torch best float32, batch 16``."""
        return f"{self.way}, batch {self.batch}"


def cases(
    spec: Spec,
    *,
    backends: tuple[str, ...],
    peers: tuple[str, ...] = (),
    modes: tuple[Mode, ...] = ("infer",),
    presets: tuple[str, ...] = ("eager", "best"),
    precisions: tuple[str, ...] = ("float32",),
    image_size: tuple[int, int] | None = None,
    **fields: Any,
) -> list[Case]:
    """Return a case for each combination of the arguments. Peers come first, so that the others are compared with them.

    ``peers`` are other libraries, keys of ``PEERS``. float32 and tf32 are combined with every preset. If one of them is
    in ``precisions``, lower precisions are combined with the fastest preset alone. If ``image_size`` is None, it is the
    spec's. ``fields`` are the same in all cases: ``threads``, ``batch``, ``device`` and ``seed`` of :class:`Case`.
    """
    full = {"float32", "tf32"}.intersection(precisions) or precisions
    fastest = max(presets, key=list(PRESETS).index)
    sources = [(peer, PEERS[peer]) for peer in peers] + [(OURS, backend) for backend in backends]
    return [
        Case(
            spec=spec,
            library=library,
            backend=backend,
            mode=mode,
            preset=preset,
            precision=precision,
            image_size=image_size or spec.image_size,
            **fields,
        )
        for mode in modes
        for library, backend in sources
        for precision in precisions
        for preset in presets
        if precision in full or preset == fastest
    ]
