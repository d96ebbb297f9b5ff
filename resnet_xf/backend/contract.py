"""What a backend is: eleven members that every one has, and small groups of members that some have besides.

``docs/backends.md`` shows how to write one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from resnet_xf.architecture.nodes import Node
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.backend.dialect import Dialect
from resnet_xf.backend.fast import Bench
from resnet_xf.backend.learner import Learner, Task
from resnet_xf.backend.workers import Role
from resnet_xf.errors import BackendError

DTYPES = ("float32", "float64")

Look: TypeAlias = Callable[[str, tuple[Array, ...], Array], object]
"""Called with a layer's name, its inputs and its output."""


class Backend(Protocol):
    """The required members: enough for rungs 1 to 5 of the parity ladder.

    A network is whatever object the framework has for it. Everything else is NumPy arrays and plain data. A layer has
    the dotted name that its node has in the plan, as ``layer1.0.conv1``, and the whole network has the empty name.
    Weights have the layer's name and a last word: ``weight``, ``bias``, ``running_mean`` or ``running_var``.
    """

    name: str
    """By which users choose it, as ``torch``."""

    def version(self) -> str:
        """The framework's version."""
        ...

    def devices(self) -> list[str]:
        """The devices that it can use, ``cpu`` first, then as ``cuda:0``. A line ``not cuda:1: …`` says why not."""
        ...

    def build(self, node: Node, dtype: str = "float32") -> Any:
        """The network of a node, on the CPU, in ``float32`` or ``float64``.

        It must be able to run at once, since rung 1 runs it before any weights are loaded: fill the weights with any
        finite values.
        """
        ...

    def load(self, network: Any, weights: Mapping[str, Array]) -> None:
        """Copy weights into a network on the CPU, by name. They may have any byte order and memory layout.

        Raises:
            WeightsError: if a name or a shape does not fit, or the network's dtype cannot hold an array exactly; then
                nothing is loaded (:func:`resnet_xf.architecture.weights.check_weights` finds all of it).
        """
        ...

    def dump(self, network: Any) -> Weights:
        """Copies of a network's weights by name, in its dtype, in the order of the layers."""
        ...

    def forward(self, network: Any, images: Array) -> Array:
        """The output for images ``(N, C, H, W)`` in inference mode; of a backbone, the list of its feature maps.

        Images are cast to the network's dtype, and the output has it too. A network without weights may use float32.
        """
        ...

    def copy(self, network: Any, dtype: str | None = None) -> Any:
        """An independent copy of any network of the framework, on the CPU, in a dtype or in its own.

        Every parameter of the copy can be trained. The network itself is not changed.

        Raises:
            WeightsError: if weights of the network are not initialized.
            SpecError: if the framework cannot copy it.
        """
        ...

    def move(self, network: Any, device: str) -> Any:
        """The network on ``cpu``, ``cuda`` or ``cuda:1``.

        Raises:
            BackendError: if there is no such device; :func:`resnet_xf.backend.learner.device_number` says so.
        """
        ...

    def watch(self, network: Any, images: Array, look: Look, names: Collection[str] | None = None) -> None:
        """Run the network in inference mode, and call ``look(name, inputs, output)`` whenever a layer has finished.

        Inputs and output are NumPy arrays. Inputs are copied before the layer runs, since it may work in place. Of a
        list of outputs, the last is shown. A layer that runs twice is shown twice. What the framework raises passes
        through.

        Args:
            network: any network of the framework, also one that a user built.
            images: ``(N, C, H, W)``.
            look: called in the order in which the layers finish, so a block comes after what it holds.
            names: only these layers are shown and copied; if None all of them, and the whole network as ``""``.
        """
        ...

    def settings(self, network: Any) -> dict[str, dict[str, float]]:
        """By layer: ``eps`` and ``momentum`` of a batch norm, ``rate`` of a dropout.

        And those of convolutions and poolings, as :mod:`resnet_xf.architecture.windows` names them, if the backend can
        tell them. Other layers are left out.

        ``momentum`` is the weight of the new value in a running statistic, NaN where the layer keeps a plain mean.
        """
        ...


class LayersAlone(Protocol):
    """What rung 6 needs: one layer at a time, with inputs of its own."""

    def apply(self, network: Any, name: str, inputs: Sequence[Array]) -> Array:
        """The output of one named layer in inference mode."""
        ...


class GradientsAlone(Protocol):
    """What rung 7 needs besides :class:`Trains`: the gradients of one layer at a time."""

    def differentiate(self, network: Any, name: str, inputs: Sequence[Array], cotangent: Array) -> Weights:
        """The gradients of ``(output * cotangent).sum()`` for one named layer in training mode.

        The keys are ``input0``, ``input1`` … for the inputs, then the names of the layer's weights. Running statistics
        may change.
        """
        ...


class Trains(Protocol):
    """What rungs 7 to 10 and training need."""

    unbiased_variance: bool
    """Whether batch norms keep the unbiased variance (divided by m − 1) or the biased one (divided by m)."""

    def learner(self, task: Task) -> Learner:
        """What trains a network. The weights are loaded afterwards.

        Raises:
            BackendError: if it cannot do the task, as for a precision that the device lacks.
        """
        ...

    def roles(self, workers: int) -> list[Role]:
        """The processes that train together on this machine: that many workers, and those that serve them."""
        ...


class Optimizes(Protocol):
    """What ``optimize`` and ``bench`` need."""

    @property
    def bench(self) -> Bench:
        """How a network is made fast and measured."""
        ...


class BuildsPeers(Protocol):
    """What ``convert`` and ``bench`` need to compare with other libraries' networks."""

    def peer(self, library: str, model: str, num_classes: int, in_channels: int) -> Any:
        """Another library's own network, on the CPU, initialized as the library does.

        Args:
            library: ``torchvision``, ``timm`` or ``gluon``.
            model: the library's name of the network.
            num_classes: of its last layer.
            in_channels: of the images.

        Raises:
            BackendError: if the library is not installed or has no such network.
        """
        ...


class RunsExports(Protocol):
    """What ``convert`` needs to run an exported MXNet network, and a pair to read one."""

    def run_exported(self, symbol: Path, tensors: Mapping[str, Array], images: Array) -> Array:
        """The output of an exported network in float64.

        Args:
            symbol: the ``-symbol.json`` file.
            tensors: its weights, by the names in that file.
            images: ``(N, C, H, W)``.

        Raises:
            WeightsError: if it lacks a tensor, or has more than one input or output.
        """
        ...

    def graph_of(self, network: Any) -> tuple[str, Weights] | None:
        """The graph that a native network was imported from, as JSON, and its tensors; None if it has layers."""
        ...


class OwnsFiles(Protocol):
    """What ``convert`` needs to read and write the framework's own checkpoint files."""

    def read_file(self, path: Path) -> tuple[Weights, tuple[str, ...]]:
        """The arrays of a file by their names there, in their own dtype, and notes for the user.

        Raises:
            WeightsError: if the file is damaged, or holds anything but tensors in plain containers.
        """
        ...

    def write_file(self, path: Path, weights: Mapping[str, Array], norms: Collection[str]) -> None:
        """Write weights, atomically; ``norms`` names the batch norms, which may need more arrays in a file.

        Raises:
            WeightsError: if the file cannot be written.
        """
        ...


class WritesSource(Protocol):
    """What ``source`` needs to write a network as Python."""

    @property
    def dialect(self) -> Dialect:
        """How the framework's networks are written."""
        ...


class Exports(Protocol):
    """What ``convert`` needs to write a network that runs without this package, and to run what was written."""

    def export(self, network: Any, path: Path, images: Array, precision: str) -> None:
        """Write a network that takes float32 images and returns float32 outputs, for batches of any size.

        Args:
            network: in float32, on the CPU; it may be changed.
            path: the file.
            images: at least two, of the size that the file's network takes.
            precision: of the weights and the arithmetic: ``float32``, ``float16`` or ``bfloat16``.

        Raises:
            BackendError: if it has not this precision, or cannot export the network.
        """
        ...

    def run_export(self, path: Path, images: Array) -> Array:
        """The output of a written file for float32 images, by the framework's own means alone."""
        ...


class KnowsNetworks(Protocol):
    """What a pair of a user's own networks needs."""

    network_type: type
    """The class of the framework's networks."""


CAPABILITIES: dict[str, type] = {
    "run layers alone": LayersAlone,
    "differentiate layers alone": GradientsAlone,
    "train": Trains,
    "train step by step": Trains,
    "optimize": Optimizes,
    "build other libraries' networks": BuildsPeers,
    "run exported networks": RunsExports,
    "read and write its own files": OwnsFiles,
    "write source code": WritesSource,
    "export networks": Exports,
    "compare your own networks": KnowsNetworks,
}
"""What a backend may offer besides, and the members that it then has."""

Group = TypeVar("Group")


def lacking(backend: object, group: Any) -> list[str]:
    """The members of a group that an object has not."""
    members = {**vars(group), **group.__annotations__}
    return [member for member in members if not member.startswith("_") and not hasattr(backend, member)]


def cannot(backend: Backend, capability: str) -> str | None:
    """Why a backend lacks a capability, as ``numpy cannot train``; None if it has it."""
    return f"{backend.name} cannot {capability}" if lacking(backend, CAPABILITIES[capability]) else None


def require(backend: Backend, group: Callable[..., Group]) -> Group:
    """The backend as one that has a group of members, such as :class:`Trains`.

    Raises:
        BackendError: if it lacks one of them.
    """
    capability = next(name for name, members in CAPABILITIES.items() if members is group)
    if lack := cannot(backend, capability):
        raise BackendError(f"{lack}; choose another backend, such as torch")
    return backend  # type: ignore[return-value]
