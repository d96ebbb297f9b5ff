"""Other people's networks in PyTorch, to hold ours against: torchvision's and timm's own."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping

import torch

from resnet_xf.weights import Array


def run_reference(
    library: str, model: str, weights: Mapping[str, Array], images: Array, num_classes: int, in_channels: int
) -> Array | None:
    """What the library's own network makes of images in float64, with weights under its own names.

    None if the library is not installed or has no such network.
    """
    if library not in ("torchvision", "timm") or importlib.util.find_spec(library) is None:
        return None
    module = importlib.import_module(library)
    if library == "torchvision":
        if in_channels != 3:
            return None
        network = module.models.get_model(model, weights=None, num_classes=num_classes)
    else:
        base, _, stride = model.partition("_os")
        options = {"output_stride": int(stride)} if stride else {}
        network = module.create_model(base, num_classes=num_classes, in_chans=in_channels, **options)
    network.double().eval()
    network.load_state_dict({name: torch.tensor(array).double() for name, array in weights.items()}, strict=True)
    with torch.inference_mode():
        output: Array = network(torch.tensor(images, dtype=torch.float64)).numpy()
    return output
