"""The scale of the loss in float16, by the law of PyTorch's ``GradScaler``, so that a run goes on on either backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resnet_xf_mxnet.numpy_compat import mx

TOGETHER = 200
"""Arrays that are looked through in one call."""


class LossScaling:
    """By what the loss is multiplied, so that float16 holds the gradients, and their steps are then divided.

    Where a gradient is not finite the step is left out and the scale halved; after ``growth_interval`` good ones in a
    row it is doubled. Where it is not ``enabled`` it is 1 and stays so.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._state: dict[str, int | float] = {
            "scale": 2.0**16,
            "growth_factor": 2.0,
            "backoff_factor": 0.5,
            "growth_interval": 2000,
            "_growth_tracker": 0,
        }

    @property
    def scale(self) -> float:
        """The factor for the next loss."""
        return float(self._state["scale"]) if self.enabled else 1.0

    def state(self) -> dict[str, int | float]:
        """As ``GradScaler.state_dict``; empty where it is not enabled."""
        return dict(self._state) if self.enabled else {}

    def load(self, state: Mapping[str, int | float]) -> None:
        """Go on with a state; an empty one changes nothing."""
        self._state |= state

    def allows(self, gradients: Sequence[Any]) -> bool:
        """Whether a step may be taken with these gradients; sets the scale for the next."""
        if not self.enabled:
            return True
        state = self._state
        if not _finite(gradients):
            state |= {"scale": state["scale"] * state["backoff_factor"], "_growth_tracker": 0}
            return False
        state["_growth_tracker"] += 1
        if state["_growth_tracker"] == state["growth_interval"]:
            state |= {"scale": state["scale"] * state["growth_factor"], "_growth_tracker": 0}
        return True


def _finite(gradients: Sequence[Any]) -> bool:
    parts = [gradients[start : start + TOGETHER] for start in range(0, len(gradients), TOGETHER)]
    return all(mx.nd.multi_all_finite(*part, num_arrays=len(part)).asscalar() for part in parts)
