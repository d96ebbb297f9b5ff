"""From one MXNet checkpoint to a folder that a PyTorch service can use, with the proof."""

from resnet_xf.migration.folder import Migration, migrate

__all__ = ["Migration", "migrate"]
