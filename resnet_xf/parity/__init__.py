"""The parity ladder: proof that backends build the same network, or where they part."""

from resnet_xf.parity.ladder import assert_parity, parity
from resnet_xf.parity.report import Report, RungResult

__all__ = ["Report", "RungResult", "assert_parity", "parity"]
