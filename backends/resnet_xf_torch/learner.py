"""One training step of PyTorch: autocast, ``torch.optim.SGD``, and DistributedDataParallel under ``torchrun``."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from resnet_xf.architecture.weights import Array, Weights, plain
from resnet_xf.backend.learner import Outcome, Task, device_number
from resnet_xf.backend.workers import Role, free_port, threads_each
from resnet_xf.errors import BackendError, TrainingError, TrainingStopped, one_line
from resnet_xf.training.recipe import rounded
from resnet_xf_torch import builder
from resnet_xf_torch.arrays import copied, weights_of


class TorchLearner:
    """See :class:`resnet_xf.backend.learner.Learner`."""

    def __init__(self, task: Task) -> None:
        self.workers = int(os.environ.get("WORLD_SIZE", "1")) if task.together else 1
        self.rank = int(os.environ.get("RANK", "0")) if self.workers > 1 else 0
        place = find_device(task.device)
        if task.precision in ("float16", "tf32") and place.type == "cpu":
            raise BackendError(
                f"torch trains in {task.precision} on a GPU alone; on the CPU choose bfloat16, float32 or float64"
            )
        mixed = task.precision in ("bfloat16", "float16")
        self.device = str(place)
        self._place = place
        self._dtype = torch.float64 if task.precision == "float64" else torch.float32
        network = task.network if isinstance(task.network, nn.Module) else builder.build(task.network)
        self._layout = torch.contiguous_format if task.preset == "eager" else torch.channels_last
        self._network = network.to(place, self._dtype).to(memory_format=self._layout)
        self._norms = [m for m in self._network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in self._norms:  # MXNet holds 1 minus it, as float32
            norm.momentum = 1 - rounded(1 - (norm.momentum or 0))
        self._freeze = task.freeze_statistics
        self._params = dict(self._network.named_parameters())
        names = {
            True: [n for n in self._params if n in task.decaying],
            False: [n for n in self._params if n not in task.decaying],
        }
        self._optimizer = torch.optim.SGD(
            [
                {"params": [self._params[name] for name in group], "weight_decay": task.weight_decay if decays else 0.0}
                for decays, group in names.items()
                if group
            ],
            momentum=task.momentum,
            nesterov=task.nesterov,
            fused=True if task.preset == "best" else None,
        )
        if task.preset == "best" and task.momentum:
            # The fused step would begin with memory as it is found where float16's scale skips the first one.
            for param in self._params.values():
                self._optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param, requires_grad=False)
        low = getattr(torch, task.precision) if mixed else None
        self._autocast = torch.autocast(place.type, low, enabled=mixed)
        self._tf32 = task.precision == "tf32"
        self._copies: Any = torch.cuda.Stream(place) if place.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._scaler = torch.amp.GradScaler(place.type, enabled=task.precision == "float16")
        self._joined = self._join(task.timeout) if self.workers > 1 else None
        self._run: Any = self._joined or self._network
        steps = {
            "channels_last": task.preset != "eager",
            task.precision: task.precision != "float32",
            "fused SGD": task.preset == "best",
            # On CPUs compiled training was measured to be no faster.
            "compiled": task.preset == "best" and place.type == "cuda",
        }
        self.steps = tuple(name for name, done in steps.items() if done)
        if steps["compiled"]:
            self._run = torch.compile(self._run, dynamic=False, mode="max-autotune")

    def _join(self, timeout: float) -> DistributedDataParallel:
        """Meet the other workers where ``torchrun``'s variables say.

        Raises:
            TrainingError: if they do not come, or the variables are wrong.
        """
        try:
            if not distributed.is_initialized():
                engine = "nccl" if self._place.type == "cuda" else "gloo"
                distributed.init_process_group(engine, timeout=timedelta(seconds=timeout))
                atexit.register(distributed.destroy_process_group)
        except (RuntimeError, ValueError) as error:
            text = one_line(error)
            raise TrainingError(f"worker {self.rank} of {self.workers} cannot meet the others: {text}") from error
        return DistributedDataParallel(self._network, device_ids=[self._place] if self._place.type == "cuda" else None)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """PyTorch's errors in a line: memory that does not suffice, a worker that is lost or late, and others.

        On a GPU, float32 is float32: products do not round to TF32 unless that is asked for.
        """
        try:
            with products_in_tf32(self._tf32):
                yield
        except (RuntimeError, ValueError) as error:  # of which a norm of a single number is one
            text = one_line(error)
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
                raise MemoryError(f"{text}; choose a smaller batch_size") from error
            who = f"worker {self.rank} failed or lost the others" if self.workers > 1 else "torch failed"
            raise TrainingError(f"{who} on {self.device}: {text}") from error

    def put(self, images: Any) -> Any:
        """A tensor on the device, in its layout; on a GPU it is copied beside what is computed there."""
        if isinstance(images, torch.Tensor):
            return images
        return self._send(images).to(self._dtype, memory_format=self._layout)

    def _send(self, array: Array) -> torch.Tensor:
        """The array on the device, from memory that the GPU reads while it computes."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self._copies is None:
            return tensor
        with torch.cuda.stream(self._copies):
            moved = tensor.pin_memory().to(self._place, non_blocking=True)
        torch.cuda.current_stream().wait_stream(self._copies)
        moved.record_stream(torch.cuda.current_stream())
        return moved

    def step(self, images: Any, targets: Array, rate: float) -> Outcome:
        """One step of SGD."""
        self._network.train()
        if self._freeze:
            for norm in self._norms:
                norm.eval()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with self._at_work():
            wanted = self._send(targets).to(self._dtype)
            self._optimizer.zero_grad()
            with self._autocast:
                outputs = self._run(self.put(images))
            loss = -(nn.functional.log_softmax(outputs.to(self._dtype), dim=1) * wanted).sum()
            whole = loss * self.workers  # DistributedDataParallel takes the workers' mean
            self._scaler.scale(whole).backward()  # type: ignore[no-untyped-call]
            self._scaler.step(self._optimizer)
            self._scaler.update()
            found = self._fetch(loss.detach(), outputs.detach())
        return lambda: self._outcome(*found())

    def _fetch(self, *tensors: torch.Tensor) -> Callable[[], tuple[torch.Tensor, ...]]:
        """What the next step leaves alone; on a GPU copies, on their way to the host until asked for."""
        if self._copies is None:
            return lambda: tensors
        copies = tuple(
            torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
            for tensor in tensors
        )
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()

        def wait() -> tuple[torch.Tensor, ...]:
            done.synchronize()
            return copies

        return wait

    def _outcome(self, loss: torch.Tensor, outputs: torch.Tensor) -> tuple[float, Array]:
        with self._at_work():
            return loss.item(), outputs.to(self._dtype).numpy()

    def outputs(self, images: Array) -> Array:
        """The network's outputs in inference mode."""
        self._network.eval()
        with self._at_work(), torch.inference_mode(), self._autocast:
            outputs: Array = self._network(self.put(images)).to("cpu", self._dtype).numpy()
        return outputs

    def dump(self) -> tuple[Weights, Weights]:
        """Copies of weights and of v."""
        buffers = {name: self._optimizer.state[param].get("momentum_buffer") for name, param in self._params.items()}
        velocity = {name: buffer for name, buffer in buffers.items() if buffer is not None}
        return copied(weights_of(self._network)), copied(velocity)

    def load(self, weights: Mapping[str, Array], velocity: Mapping[str, Array]) -> None:
        """Put weights and v in."""
        own = weights_of(self._network)
        for name, array in weights.items():
            own[name].copy_(torch.tensor(plain(array)))
        for name, array in velocity.items():
            buffer = torch.empty_like(self._params[name], requires_grad=False)
            self._optimizer.state[self._params[name]]["momentum_buffer"] = buffer.copy_(torch.tensor(plain(array)))

    def loss_scaling(self) -> dict[str, int | float]:
        """The state of the ``GradScaler``."""
        return dict(self._scaler.state_dict())

    def load_loss_scaling(self, state: Mapping[str, int | float]) -> None:
        """Go on with a state of the ``GradScaler``."""
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(dict(state))

    def total(self, numbers: Array) -> Array:
        """The sum over all workers."""
        if self._joined is None:
            return numbers
        tensor = torch.tensor(numbers, dtype=torch.float64, device=self._place)
        with self._at_work():
            distributed.all_reduce(tensor)
        summed: Array = tensor.cpu().numpy()
        return summed

    def close(self, failure: BaseException | None = None) -> None:
        """Stay in the process group, for this process's next run, until the process ends; after a failure just end."""
        if self._joined is not None and failure is not None and not isinstance(failure, TrainingStopped):
            atexit.unregister(distributed.destroy_process_group)


@contextmanager
def products_in_tf32(wanted: bool) -> Iterator[None]:
    """Whether a GPU may round the factors of float32 convolutions and products to TF32's 11 bits."""
    kinds: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [kind.allow_tf32 for kind in kinds]
    for kind in kinds:
        kind.allow_tf32 = wanted
    try:
        yield
    finally:
        for kind, was in zip(kinds, before, strict=True):
            kind.allow_tf32 = was


def roles(workers: int) -> list[Role]:
    """The workers' variables, as ``torchrun --standalone`` sets them."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(workers)}
    threads = {"OMP_NUM_THREADS": threads_each(workers), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return [
        Role(f"worker {rank}", meeting | threads | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(workers)
    ]


def find_device(name: str) -> torch.device:
    """The device of that name; raises BackendError if there is none."""
    index = device_number(name, torch.cuda.device_count(), "torch")
    if index is None:
        return torch.device("cpu")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
