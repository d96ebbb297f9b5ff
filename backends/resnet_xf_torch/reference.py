"""Other people's networks in PyTorch, to hold ours against: torchvision's and timm's own."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping

import torch

from resnet_xf.architecture.weights import COUNTER, Array, plain


def run_reference(
    library: str, model: str, weights: Mapping[str, Array], images: Array, num_classes: int, in_channels: int
) -> Array | None:
    """What the library's own network makes of images in float64, with weights under its own names.

    None if the library is not installed or has no such network, of these very names and shapes.
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
    own = {name: tuple(t.shape) for name, t in network.state_dict().items() if not name.endswith(COUNTER)}
    if own != {name: array.shape for name, array in weights.items()}:
        return None
    network.load_state_dict({name: torch.tensor(plain(array, "float64")) for name, array in weights.items()})
    with torch.inference_mode():
        output: Array = network(torch.tensor(images, dtype=torch.float64)).numpy()
    return output
