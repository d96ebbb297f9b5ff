"""The ladder gives the same verdict, whatever a notebook has set before it."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch

from resnet_xf import assert_parity, get_spec

MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "a default device without memory, as another one than the CPU": lambda: torch.device("meta"),
    "NumPy's errors raised": lambda: np.errstate(all="raise"),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_caller_s_modes_change_no_verdict(mode: str) -> None:
    with MODES[mode]():
        assert_parity(get_spec("cifar_resnet20"), ["torch", "mxnet"], image_size=(16, 16), level="standard")
