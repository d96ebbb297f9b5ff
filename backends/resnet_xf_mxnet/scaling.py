"""Loss scaling for float16, equal to PyTorch's ``GradScaler``: a run can be resumed on either backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resnet_xf_mxnet.numpy_compat import mx

ARRAYS_PER_CALL = 200
"""Number of arrays that one call of ``multi_all_finite`` checks."""


class LossScaling:
    """A factor for the loss, so that float16 can represent the gradients. The update divides by it again.

    If a gradient is not finite, the step is skipped and the factor is halved. After ``growth_interval`` good steps in a
    row, it is doubled. If not ``enabled``, it is always 1.
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
        """Return the factor for the next loss."""
        return float(self._state["scale"]) if self.enabled else 1.0

    def state(self) -> dict[str, int | float]:
        """Return the state in the format of ``GradScaler.state_dict()``; empty if not enabled."""
        return dict(self._state) if self.enabled else {}

    def load(self, state: Mapping[str, int | float]) -> None:
        """Load a state. An empty one changes nothing."""
        self._state |= state

    def allows(self, gradients: Sequence[Any]) -> bool:
        """Return whether a step with these gradients is allowed, and update the factor for the next step."""
        if not self.enabled:
            return True
        state = self._state
        groups = (gradients[n : n + ARRAYS_PER_CALL] for n in range(0, len(gradients), ARRAYS_PER_CALL))
        if not all(mx.nd.multi_all_finite(*group, num_arrays=len(group)).asscalar() for group in groups):
            state |= {"scale": state["scale"] * state["backoff_factor"], "_growth_tracker": 0}
            return False
        state["_growth_tracker"] += 1
        if state["_growth_tracker"] == state["growth_interval"]:
            state |= {"scale": state["scale"] * state["growth_factor"], "_growth_tracker": 0}
        return True
