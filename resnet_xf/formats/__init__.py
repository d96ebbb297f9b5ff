"""Other people's checkpoints: one module a format, the tables of names, and the conversion between them."""

from resnet_xf.formats.convert import Check, Conversion, convert, write_checkpoint
from resnet_xf.formats.files import CheckpointFile, read_checkpoint
from resnet_xf.formats.identify import Identity, identify

__all__ = [
    "Check",
    "CheckpointFile",
    "Conversion",
    "Identity",
    "convert",
    "identify",
    "read_checkpoint",
    "write_checkpoint",
]
