"""The parity ladder: proof that two sides are the same network, or where they part."""

from resnet_xf.parity.accuracy import Trial
from resnet_xf.parity.against import capture, parity_against
from resnet_xf.parity.ladder import assert_parity, parity
from resnet_xf.parity.pairs import suggest_names
from resnet_xf.parity.report import Report, RungResult

__all__ = [
    "Report",
    "RungResult",
    "Trial",
    "assert_parity",
    "capture",
    "parity",
    "parity_against",
    "suggest_names",
]
