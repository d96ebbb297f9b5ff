"""The fastest inference with PyTorch: channels_last, low precision, fused layers, ``torch.compile``."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from resnet_xf.architecture.weights import Array, plain
from resnet_xf.backend.fast import COMPILED, FastTask, no_gradients
from resnet_xf.errors import BackendError, one_line
from resnet_xf.support.optional import optional
from resnet_xf_torch.fused import with_fused_convolutions, with_pooled_stem, with_wide_stem
from resnet_xf_torch.learner import find_device, refuse_uncompiled, settings_of_convolutions

OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("cpu", "best"): {"freezing": True},
    ("cpu", "max"): {"freezing": True},
    ("cuda", "best"): {"freezing": True, "triton.cudagraphs": True},
    ("cuda", "max"): {"freezing": True, "max_autotune": True, "triton.cudagraphs": True},
}
"""Options of ``torch.compile``, by type of device and preset."""

LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchFast:
    """See :class:`resnet_xf.backend.fast.Fast`."""

    def __init__(self, task: FastTask) -> None:
        place = find_device(task.device)
        if task.precision in ("float16", "tf32") and place.type == "cpu":
            raise BackendError(
                f"torch has no {task.precision} that is fast on a CPU; choose float32, bfloat16 or int8, or a GPU"
            )
        if task.precision == "int8" and (place.type != "cpu" or task.preset not in COMPILED):
            raise BackendError("torch computes in int8 where it compiles for a CPU alone; choose bfloat16")
        refuse_uncompiled(place, task.precision, task.preset)
        self.device, self._place, self._batch = str(place), place, task.shape[0]
        self._dtype = LOW.get(task.precision, torch.float32)
        self._tf32 = task.precision == "tf32"
        self._layout = torch.contiguous_format if task.preset == "eager" else torch.channels_last
        network = task.network.eval().requires_grad_(False)
        steps = ["channels_last"] if task.preset != "eager" else []
        if task.precision != "float32":
            steps.append(task.precision)
        compiles = task.preset in COMPILED
        if compiles and place.type == "cuda" and task.precision in LOW:
            steps += _for_tensor_cores(network)
        if compiles:
            steps.append("compiled with frozen weights")
        if OPTIONS.get((place.type, task.preset), {}).get("max_autotune"):
            steps.append("kernels chosen by trying")
        self.steps = tuple(steps)
        try:
            network = network.to(place, self._dtype).to(memory_format=self._layout)
            if task.precision == "int8":
                network = _in_int8(network, task)
            self._run: Any = network
            if compiles:
                self._run = torch.compile(network, dynamic=False, options=OPTIONS[place.type, task.preset])
            with _compiling() if compiles else nullcontext():
                self(torch.zeros(task.shape, device=place))
        except BackendError:
            raise
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise MemoryError(f"{one_line(error)}; choose a smaller batch") from error
            instead = "" if task.precision == "int8" else ", or a preset that compiles nothing"
            raise BackendError(
                f"torch cannot run the network in {task.precision}, preset {task.preset}: {one_line(error)}; choose "
                f"another precision{instead}"
            ) from error

    def put(self, images: Array) -> torch.Tensor:
        return torch.from_numpy(plain(images)).to(self._place, self._dtype, memory_format=self._layout)

    def __call__(self, images: Any) -> Any:
        """Return the outputs, without an autograd graph."""
        native = isinstance(images, torch.Tensor)
        if native and torch.is_grad_enabled() and images.requires_grad:
            no_gradients()
        x = images if native else torch.from_numpy(plain(images))
        with torch.no_grad(), settings_of_convolutions(self._tf32):
            outputs = [self._run_batch(batch) for batch in x.split(self._batch)]
            output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return output if native else output.cpu().numpy()

    def _run_batch(self, images: torch.Tensor) -> torch.Tensor:
        """Return the outputs of one batch. A smaller batch is padded: a new shape would be compiled again."""
        count = len(images)
        if count < self._batch:
            images = torch.cat([images, images.new_zeros((self._batch - count, *images.shape[1:]))])
        output: torch.Tensor = self._run(images.to(self._place, self._dtype, memory_format=self._layout))
        return output[:count].to(torch.float32, copy=True)  # a copy, because a CUDA graph reuses its output memory


@contextmanager
def _compiling() -> Iterator[None]:
    """Freeze weights through the global setting too, because int8 fusion does not read the options of ``compile``.

    The compiler is imported here only: its import takes as long as that of PyTorch itself.
    """
    inductor = importlib.import_module("torch._inductor.config")
    with inductor.patch(freezing=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "To copy construct from a tensor", UserWarning)
        yield


def _for_tensor_cores(network: nn.Module) -> list[str]:
    """Change the network for a GPU's low precision; return what was done."""
    done = {
        "stem on 4×4 pixels": with_pooled_stem(network),
        "stem on 2×2 pixels": with_wide_stem(network),
        "convolutions fused with sums and ReLUs": with_fused_convolutions(network),
    }
    return [name for name, changed in done.items() if changed]


def _in_int8(network: nn.Module, task: FastTask) -> nn.Module:
    """Quantize convolutions and linear layers to int8 for x86 kernels, calibrated on the task's images."""
    purpose, mend = "torch's quantizer is torchao", "pip install 'resnet-xf[int8]'"
    pt2e = optional("torchao.quantization.pt2e.quantize_pt2e", purpose, mend)
    x86 = optional("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer", purpose, mend)
    images = torch.from_numpy(task.calibration).to(memory_format=torch.channels_last)
    batches = torch.split(images, task.shape[0])
    exported = torch.export.export(network, (batches[0],)).module()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = pt2e.prepare_pt2e(exported, quantizer)
    for batch in batches:
        prepared(batch)
    quantized: nn.Module = pt2e.convert_pt2e(prepared)
    return quantized
