"""The ladder gives the same verdict, whatever a notebook has set before it."""

from contextlib import ExitStack

import numpy as np
import torch

from helpers.runs import TINY
from resnet_xf import assert_parity
from resnet_xf_mxnet.numpy_compat import mx


def test_a_caller_s_modes_change_no_verdict() -> None:
    """A default device without memory stands for a GPU."""
    in_torch = torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta")
    with ExitStack() as modes:
        for mode in (*in_torch, mx.autograd.record(), np.errstate(all="raise")):
            modes.enter_context(mode)
        assert_parity(TINY, ["torch", "mxnet"], image_size=(16, 16), level="standard")
