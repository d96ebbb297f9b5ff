"""The ladder gives the same verdict, whatever a notebook has set before it."""

import numpy as np
import torch

from helpers.runs import TINY
from resnet_xf import assert_parity


def test_a_caller_s_modes_change_no_verdict() -> None:
    """A default device without memory stands for a GPU."""
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"), np.errstate(all="raise"):
        assert_parity(TINY, ["torch", "mxnet"], image_size=(16, 16), level="standard")
