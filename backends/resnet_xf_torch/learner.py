"""Training with PyTorch: autocast, ``torch.optim.SGD``, DistributedDataParallel with ``torchrun``'s variables."""

from __future__ import annotations

import atexit
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.backend.fast import COMPILED
from resnet_xf.backend.learner import Outcome, Task, device_number
from resnet_xf.backend.workers import Role, free_port, threads_each
from resnet_xf.data.pixels import Pixels
from resnet_xf.errors import BackendError, TrainingError, TrainingStopped, one_line
from resnet_xf.training.recipe import rounded
from resnet_xf_torch import builder
from resnet_xf_torch.arrays import as_tensor, in_own_mode, numpy_copies, weights_of
from resnet_xf_torch.cudagraph import Recorded
from resnet_xf_torch.fused import with_wide_stem
from resnet_xf_torch.pixels import DevicePixels

GRAPH = "steps as one CUDA graph"
"""What is said of training steps that are recorded and replayed (:mod:`resnet_xf_torch.cudagraph`)."""

OPTIONS: dict[str, dict[str, Any]] = {"best": {}, "max": {"max_autotune": True, "coordinate_descent_tuning": True}}
"""Options of ``torch.compile`` for training, by preset."""


class SGD(torch.optim.SGD):
    """PyTorch's SGD, which is not for ``torch.compile``: its own wrappers import the compiler, which takes seconds."""

    add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.SGD.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class TorchLearner:
    """See :class:`resnet_xf.backend.learner.Learner`."""

    @in_own_mode
    def __init__(self, task: Task) -> None:
        self.workers = int(os.environ.get("WORLD_SIZE", "1")) if task.together else 1
        self.rank = int(os.environ.get("RANK", "0")) if self.workers > 1 else 0
        place = find_device(task.device)
        if task.precision in ("float16", "tf32") and place.type == "cpu":
            raise BackendError(
                f"torch trains in {task.precision} on a GPU alone; on the CPU choose bfloat16, float32 or float64"
            )
        refuse_uncompiled(place, task.precision, task.preset)
        mixed = task.precision in ("bfloat16", "float16")
        self.device = str(place)
        self._place = place
        self._dtype = torch.float64 if task.precision == "float64" else torch.float32
        on_gpu, compiles = place.type == "cuda", task.preset in COMPILED
        given = isinstance(task.network, nn.Module)
        network = task.network if given else builder.build_empty(task.network, self._dtype)
        wide = not given and on_gpu and compiles and mixed and with_wide_stem(network)
        # Measured: a GPU's exact float32 convolutions are slower in channels_last, which the compiler chooses too.
        # So are a CPU's float64 ones.
        exact = on_gpu and task.precision == "float32"
        in_order = task.preset == "eager" or exact or (task.precision == "float64" and not on_gpu)
        self._layout = torch.contiguous_format if in_order else torch.channels_last
        if not (on_gpu or in_order):
            builder.without_onednn_s_overrun(network)
        self._network = network.to(place, self._dtype).to(memory_format=self._layout)
        self._norms = [m for m in self._network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in self._norms:  # MXNet stores 1 − momentum as float32
            norm.momentum = 1 - rounded(1 - (norm.momentum or 0))
        self._freeze = task.freeze_statistics
        self._params = dict(self._network.named_parameters())
        decaying = [param for name, param in self._params.items() if name in task.decaying]
        others = [param for name, param in self._params.items() if name not in task.decaying]
        groups = (decaying, task.weight_decay), (others, 0.0)
        records = on_gpu and task.preset != "eager" and self.workers == 1 and task.precision != "float16"
        fuses = compiles or records
        self._optimizer = SGD(
            [{"params": params, "weight_decay": decay} for params, decay in groups if params],
            momentum=task.momentum,
            nesterov=task.nesterov,
            fused=True if fuses else None,
        )
        if fuses and task.momentum:
            # If float16's loss scale skips the first step, fused SGD would leave these buffers uninitialized.
            for param in self._params.values():
                self._optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param, requires_grad=False)
        low = getattr(torch, task.precision) if mixed else None
        self._autocast = torch.autocast(place.type, low, enabled=mixed)
        self._settings = {"tf32": task.precision == "tf32", "tries": on_gpu and compiles}
        self._copies: Any = torch.cuda.Stream(place) if place.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._pixels = DevicePixels(self._send, place) if place.type == "cuda" else None
        self._scaler = torch.amp.GradScaler(place.type, enabled=task.precision == "float16")
        self._distributed = self._join(task.timeout) if self.workers > 1 else None
        self._run: Any = self._distributed or self._network
        steps = {
            "channels_last": self._layout is torch.channels_last,
            task.precision: task.precision != "float32",
            "stem on 2×2 pixels": wide,
            "fused SGD": fuses,
            # Measured: on a CPU, compiled training is no faster.
            "compiled": on_gpu and compiles and not exact,
            "convolutions chosen by trying": on_gpu and compiles,
            GRAPH: records,
        }
        self.steps = tuple(name for name, done in steps.items() if done)
        self._compiled: Any = None
        self._largest = 0
        if steps["compiled"]:
            self._compiled = torch.compile(self._run, dynamic=False, options=OPTIONS[task.preset])
        self._rate = torch.zeros((), device=place) if records else None
        self._take_step: Callable[..., tuple[torch.Tensor, ...]] = self._step
        if records:
            self._take_step = Recorded(self._step, self._not_recorded)

    def _not_recorded(self) -> None:
        self.steps = tuple(step for step in self.steps if step != GRAPH)

    def _join(self, timeout: float) -> DistributedDataParallel:
        """Join the process group that ``torchrun``'s variables describe."""
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
    def _errors_in_one_line(self) -> Iterator[None]:
        """Turn PyTorch's errors into MemoryError or TrainingError, and set how convolutions compute."""
        try:
            with settings_of_convolutions(**self._settings):
                yield
        except (RuntimeError, ValueError) as error:  # ValueError: a batch norm got one value per channel
            text = one_line(error)
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
                raise MemoryError(f"{text}; choose a smaller batch_size") from error
            who = f"worker {self.rank} failed or lost the others" if self.workers > 1 else "torch failed"
            raise TrainingError(f"{who} on {self.device}: {text}") from error

    @in_own_mode
    def put(self, images: Any) -> Any:
        """Return a tensor on the device, in its memory format. A copy to a GPU overlaps with computation."""
        if isinstance(images, torch.Tensor):
            return images
        if self._pixels is not None and isinstance(images, Pixels):
            tensor = self._pixels(images)
        else:
            tensor = self._send(np.asarray(images))
        return tensor.to(self._dtype, memory_format=self._layout)

    def _send(self, array: Array) -> torch.Tensor:
        """Copy an array to the device; to a GPU from pinned memory, in a stream of its own."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self._copies is None:
            return tensor
        with torch.cuda.stream(self._copies):
            moved = tensor.pin_memory().to(self._place, non_blocking=True)
        torch.cuda.current_stream().wait_stream(self._copies)
        moved.record_stream(torch.cuda.current_stream())
        return moved

    @in_own_mode
    def step(self, images: Any, targets: Array, rate: float) -> Outcome:
        self._network.train()
        if self._freeze:
            for norm in self._norms:
                norm.eval()
        for group in self._optimizer.param_groups:
            group["lr"] = rate if self._rate is None else self._rate
        with self._errors_in_one_line():
            if self._rate is not None:
                self._rate.fill_(rate)
            fetched = self._fetch(*self._take_step(self.put(images), self._send(targets).to(self._dtype)))
        return lambda: self._outcome(fetched)

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Take a step, and return the loss and the outputs before it. Nothing here may wait for a GPU."""
        self._optimizer.zero_grad()
        with self._autocast:
            outputs = self._network_for(images.shape)(images)
        loss = -(nn.functional.log_softmax(outputs.to(self._dtype), dim=1) * labels).sum()
        total = loss * self.workers  # DistributedDataParallel averages the gradients of the workers
        self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss.detach(), outputs.detach()

    def _network_for(self, shape: torch.Size) -> Any:
        """Return the network to train: compiled, but for a smaller batch than the largest, as an epoch's last one."""
        self._largest = max(self._largest, shape[0])
        return self._run if self._compiled is None or shape[0] < self._largest else self._compiled

    def _fetch(self, *tensors: torch.Tensor) -> Callable[[], tuple[torch.Tensor, ...]]:
        """Return a function that returns the tensors; from a GPU, it waits for their copies to the host."""
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

    def _outcome(self, fetched: Callable[[], tuple[torch.Tensor, ...]]) -> tuple[float, Array]:
        with self._errors_in_one_line():  # a GPU tells some of a step's errors only here
            loss, outputs = fetched()
            return loss.item(), outputs.to(self._dtype).numpy()

    def outputs(self, images: Array | Pixels) -> Array:
        self._network.eval()
        with self._errors_in_one_line():
            x = self.put(images)
            with torch.inference_mode(), self._autocast:
                outputs: Array = self._network(x).to("cpu", self._dtype).numpy()
        return outputs

    def dump(self) -> tuple[Weights, Weights]:
        buffers = {name: self._optimizer.state[param].get("momentum_buffer") for name, param in self._params.items()}
        velocity = {name: buffer for name, buffer in buffers.items() if buffer is not None}
        return numpy_copies(weights_of(self._network)), numpy_copies(velocity)

    @in_own_mode
    def load(self, weights: Mapping[str, Array], velocity: Mapping[str, Array]) -> None:
        own = weights_of(self._network)
        for name, array in weights.items():
            own[name].copy_(as_tensor(array))
        for name, array in velocity.items():
            state = self._optimizer.state[self._params[name]]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.empty_like(self._params[name], requires_grad=False)
            state["momentum_buffer"].copy_(as_tensor(array))

    def loss_scaling(self) -> dict[str, int | float]:
        return dict(self._scaler.state_dict())

    def load_loss_scaling(self, state: Mapping[str, int | float]) -> None:
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(dict(state))

    def total(self, values: Array) -> Array:
        if self._distributed is None:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self._place)
        with self._errors_in_one_line():
            distributed.all_reduce(tensor)
        summed: Array = tensor.cpu().numpy()
        return summed

    def close(self, failure: BaseException | None = None) -> None:
        """Stay in the process group for this process's next run. After a failure, do not wait for others at exit."""
        # These refer to this learner. Python would find that late, and its memory of a GPU would not be free before.
        self._take_step, self._pixels, self._compiled = _closed, None, None
        if self._distributed is not None and failure is not None and not isinstance(failure, TrainingStopped):
            atexit.unregister(distributed.destroy_process_group)


def _closed(*tensors: torch.Tensor) -> NoReturn:
    raise TrainingError("the learner is closed")


@contextmanager
def settings_of_convolutions(tf32: bool = False, tries: bool = False) -> Iterator[None]:
    """Set how a GPU computes convolutions and products.

    Args:
        tf32: whether factors in float32 may be rounded to TF32 (11 bits).
        tries: whether cuDNN tries its kernels for a new shape and takes the fastest.
    """
    cudnn: Any = torch.backends.cudnn
    products = torch.backends.cuda.matmul
    tried = cudnn.benchmark
    try:
        before = [(flags, "allow_tf32", flags.allow_tf32) for flags in (cudnn, products)]
    except RuntimeError:  # the program has used PyTorch's newer settings; the older ones can then be set, but not read
        newer = cudnn.conv, cudnn.rnn, products
        before = [(flags, "fp32_precision", flags.fp32_precision) for flags in newer]
    cudnn.allow_tf32, products.allow_tf32, cudnn.benchmark = tf32, tf32, tries
    try:
        yield
    finally:
        cudnn.benchmark = tried
        for flags, name, value in before:
            setattr(flags, name, value)


def roles(workers: int) -> list[Role]:
    """Return the workers with the environment variables that ``torchrun --standalone`` sets."""
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(workers)}
    threads = {"OMP_NUM_THREADS": threads_each(workers), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return [
        Role(f"worker {rank}", rendezvous | threads | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(workers)
    ]


def find_device(name: str) -> torch.device:
    """Return the device of a name, and make a GPU the current one. Raises BackendError if there is no such device."""
    index = device_number(name, 0 if name == "cpu" else count_gpus(), "torch")
    if index is None:
        return torch.device("cpu")
    try:
        torch.cuda.set_device(index)
        torch.zeros(1, device="cuda")  # a kernel: this PyTorch may have no code for the GPU
    except RuntimeError as error:
        raise BackendError(f"torch cannot use cuda:{index}: {one_line(error)}; choose cpu") from error
    return torch.device("cuda", index)


def refuse_uncompiled(place: torch.device, precision: str, preset: str) -> None:
    """Raise BackendError for bfloat16 on a GPU before Ampere: PyTorch's compiler would skip it, and only warn."""
    compiles = place.type == "cuda" and preset in COMPILED and precision == "bfloat16"
    if compiles and torch.cuda.get_device_capability(place) < (8, 0):
        raise BackendError("torch compiles no bfloat16 for this GPU; choose float16, or preset tuned")


def count_gpus() -> int:
    """Return how many GPUs PyTorch can use. ``device_count`` alone also counts them if their driver is too old."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
