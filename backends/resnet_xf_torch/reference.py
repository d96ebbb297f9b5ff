"""The networks of torchvision and timm, to compare ours with."""

from __future__ import annotations

from typing import Any

from torch import nn

from resnet_xf.errors import BackendError
from resnet_xf.support.optional import optional


def peer(library: str, model: str, num_classes: int, in_channels: int) -> nn.Module:
    """See :meth:`resnet_xf.backend.contract.BuildsPeers.peer`. ``resnet50_os16`` is timm's with output stride 16."""
    if library not in ("torchvision", "timm"):
        raise BackendError(f"torch has no networks of {library}; choose torchvision or timm")
    name, options = model, dict[str, Any](num_classes=num_classes)
    if library == "torchvision":
        module = optional("torchvision.models", f"{model} is built by torchvision", "pip install torchvision")
        create = module.get_model
    else:
        module = optional("timm", f"{model} is built by timm", "pip install timm")
        create = module.create_model
        name, _, stride = model.partition("_os")
        options |= {"in_chans": in_channels} | ({"output_stride": int(stride)} if stride else {})
    if name not in module.list_models():
        raise BackendError(f"{library} has no {model}")
    if library == "torchvision" and in_channels != 3:
        raise BackendError(f"torchvision's networks take 3 channels, not {in_channels}; choose timm")
    network: nn.Module = create(name, **options)
    return network
