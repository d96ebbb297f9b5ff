"""Networks as PyTorch's exported programs, which run without this package; and timm's networks from a folder."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from resnet_xf.architecture.weights import Array, plain
from resnet_xf.errors import BackendError, one_line
from resnet_xf.support.optional import optional
from resnet_xf_torch.arrays import to_numpy


class InPrecision(nn.Module):
    """A network that computes in another dtype than its float32 inputs and outputs have."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network.to(dtype), dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.network(images.to(self.dtype)).float()
        return output


def export(network: nn.Module, path: Path, images: Array, precision: str) -> None:
    """See :meth:`resnet_xf.backend.contract.Exports.export`."""
    dtype = getattr(torch, precision)
    whole = network if dtype == torch.float32 else InPrecision(network, dtype)
    example, any_size = torch.from_numpy(plain(images, "float32")), torch.export.Dim.AUTO  # as far as layers allow it
    sizes = {0: torch.export.Dim("batch"), 2: any_size, 3: any_size}
    try:
        with torch.no_grad(), open(path, "wb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's, on itself
            torch.export.save(torch.export.export(whole.eval(), (example,), dynamic_shapes=(sizes,)), file)
    except OSError:
        raise
    except Exception as error:  # the errors of torch.export have no common base class
        raise BackendError(f"torch cannot export the network in {precision}: {one_line(error)}") from error


def run_export(path: Path, images: Array) -> Array:
    """See :meth:`resnet_xf.backend.contract.Exports.run_export`. A folder is one for timm."""
    if path.is_dir():
        timm = optional("timm", "the network is built by timm", "pip install timm")
        network: nn.Module = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    else:
        with open(path, "rb") as file:
            network = torch.export.load(file).module()
    with torch.no_grad():
        return to_numpy(network(torch.from_numpy(plain(images, "float32"))))
