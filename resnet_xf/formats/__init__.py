"""Other people's checkpoints: one module a format, the tables of names, and the conversion between them."""

from resnet_xf.formats.convert import Check, Conversion, convert, write_checkpoint
from resnet_xf.formats.files import CheckpointFile, read_checkpoint
from resnet_xf.formats.identify import Identity, identify
from resnet_xf.formats.inspect import Inspection, inspect

__all__ = [
    "Check",
    "CheckpointFile",
    "Conversion",
    "Identity",
    "Inspection",
    "convert",
    "identify",
    "inspect",
    "read_checkpoint",
    "write_checkpoint",
]
