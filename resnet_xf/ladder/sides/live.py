"""A live side: a network under comparison that a backend runs in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from resnet_xf.architecture.weights import Array
from resnet_xf.backend.contract import Backend, Trains, cannot, require
from resnet_xf.backend.learner import Learner, Task
from resnet_xf.errors import BackendError
from resnet_xf.ladder.perturb import PIXEL_PERTURBATION, perturb_all
from resnet_xf.ladder.subject import Subject
from resnet_xf.support.environment import free_at_once, free_memory

T = TypeVar("T")
WeightSet = Literal["given", "probe"]
"""Which weights a network has: the ones to be compared, or probe weights, drawn so that every value has an effect."""

LARGE = 2**27
"""If the weights take more bytes, one network is in memory at a time, and is freed at once. Smaller ones are reused."""


class Live:
    """A side (network under comparison) that ``backend`` builds and runs here, on the inputs in ``subject``.

    It remembers its measurements, and calls ``save`` with the key and the value of each new one. It keeps its networks
    (one for each dtype and set of weights) for reuse, but large ones only one at a time.
    """

    def __init__(self, subject: Subject, backend: Backend, device: str = "cpu") -> None:
        self.subject, self.backend, self.device = subject, backend, device
        self.name, self.version = backend.name, backend.version()
        self.unbiased_variance = getattr(backend, "unbiased_variance", False)  # used by rungs that train
        self.tell: Callable[[float], object] = lambda share: None
        self.save: Callable[[str, object], object] = lambda key, value: None
        self._networks: dict[tuple[str, WeightSet | None], Any] = {}
        self._memory: dict[str, Any] = {}
        self._large: set[str] = set()
        if self._is_large:
            free_at_once()

    def cannot(self, capability: str) -> str | None:
        """Return why the backend lacks a capability (``numpy cannot train``), or None if it has it."""
        return cannot(self.backend, capability)

    def take(self, key: str, kind: Any, measure: Callable[[Any], T], *, large: bool) -> T:
        """Return the measurement of a key: the remembered one, or else ``measure(self)``. See :meth:`Side.take`."""
        if key not in self._memory:
            self._memory[key] = measure(self)
            self.save(key, self._memory[key])
            self._large |= {key} if large else set()
        found: T = self._memory[key]
        return found

    def take_each(self, keys: Sequence[str], kind: Any, measure: Callable[[Any], Iterable[T]]) -> Iterator[T]:
        """Yield the values of ``measure(self)``, one for each key; save and do not remember them."""
        values = iter(measure(self))
        for key in keys:
            yield self._saved(key, next(values))  # and hold no reference, so that it can be freed

    def _saved(self, key: str, value: T) -> T:
        self.save(key, value)
        return value

    def release(self) -> None:
        """Forget the networks and the large measurements."""
        self._networks.clear()
        for key in self._large:
            self._memory.pop(key, None)

    def build(self, dtype: str) -> Any:
        """Return a new network of a dtype, such as ``float32``, on the CPU, before weights are loaded into it."""
        return self.backend.build(self.subject.outline.root, dtype)  # type: ignore[arg-type]

    def load(self, network: Any, weights: WeightSet = "given") -> None:
        """Load the given weights, or the probe weights (every value has an effect), into a network."""
        arrays = self.subject.weights if weights == "given" else self.subject.probe
        assert arrays is not None
        self.backend.load(network, arrays)

    def built(self, dtype: str) -> Any:
        """Return a network as the backend builds it, and keep it until :meth:`network` loads weights into it."""
        if (dtype, None) not in self._networks:
            self.make_room()
            self._networks[dtype, None] = self.build(dtype)
        return self._networks[dtype, None]

    def fresh(self, dtype: str, weights: WeightSet = "given", network: Any = None) -> Any:
        """Load given or probe weights into ``network``, or a new one if that is None. Return it, on the device."""
        self._collect()
        network = self.build(dtype) if network is None else network
        self.load(network, weights)
        return network if self.device == "cpu" else self.backend.move(network, self.device)

    def network(self, dtype: str, weights: WeightSet = "given") -> Any:
        """Return a network of a dtype on the device, with given or probe weights. It is kept for the next call."""
        if (dtype, weights) not in self._networks:
            built = self._networks.pop((dtype, None), None)
            self.make_room()
            self._networks[dtype, weights] = self.fresh(dtype, weights, built)
        return self._networks[dtype, weights]

    @contextmanager
    def perturbed_weights(self, network: Any) -> Iterator[None]:
        """Perturb all weights of a network at random within the block; load the given ones again after it."""
        self.backend.load(network, dict(perturb_all(self.subject.weights, PIXEL_PERTURBATION)))
        try:
            yield
        finally:
            self.load(network)

    @contextmanager
    def learner(self, task: Task, weights: Mapping[str, Array]) -> Iterator[Learner]:
        """Yield a learner (which takes training steps) with these weights, and close it after the block.

        The block must delete its own reference to the learner, or the memory is not freed.
        """
        learner = require(self.backend, Trains).learner(task)
        try:
            learner.load(weights, {})
            yield learner
        finally:
            learner.close()
            del learner
            self._collect()

    def lacks(self, precision: str) -> str | None:
        """Return why the backend cannot compute in a precision on this device, or None if it can."""
        if self.cannot("train"):  # other precisions than float32 and float64 run in a learner
            return f"{self.name} has no {precision}"
        task = self.subject.lockstep_run.task(precision, self.device)
        try:
            require(self.backend, Trains).learner(task).close()
        except BackendError as error:
            return str(error)
        return None

    @property
    def _is_large(self) -> bool:
        return sum(array.nbytes for array in self.subject.weights.values()) > LARGE

    def make_room(self) -> None:
        """Forget this side's networks if they are large, before another network is built."""
        if self._is_large:
            self.release()
            self._collect()

    def _collect(self) -> None:
        """Free the memory of large networks that nothing uses. Python frees Gluon's late: they refer to themselves."""
        if self._is_large:
            free_memory()
