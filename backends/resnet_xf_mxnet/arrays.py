"""A Gluon network's blocks and arrays by neutral name, and NumPy arrays as MXNet's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from resnet_xf.architecture.nodes import join
from resnet_xf.architecture.weights import Array, plain
from resnet_xf.formats.layouts import GLUON_WORDS
from resnet_xf_mxnet.numpy_compat import mx

NEUTRAL_WORDS = {theirs: ours for words in GLUON_WORDS.values() for ours, theirs in words.items()}
"""Our names of the arrays that Gluon names otherwise: ``gamma`` is ``weight``."""


def named_blocks(block: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every block below and including ``block`` with its dotted name, as PyTorch's ``named_modules``."""
    yield name, block
    for child_name, child in block._children.items():
        yield from named_blocks(child, join(name, child_name))


def own_weights(block: Any) -> dict[str, Any]:
    """One block's own parameters by neutral name, without those that a norm holds but does not use."""
    unused = ("gamma", "beta") if isinstance(block, mx.gluon.nn.BatchNorm) and block._kwargs["fix_gamma"] else ()
    params = block._reg_params.items()
    return {NEUTRAL_WORDS.get(name, name): param for name, param in params if name not in unused}


def weights_of(network: Any) -> dict[str, Any]:
    """The network's parameters by neutral name, in the order of registration."""
    return {
        join(name, suffix): param
        for name, block in named_blocks(network)
        for suffix, param in own_weights(block).items()
    }


def ndarray(array: Array, dtype: Any, context: Any) -> Any:
    """An NDArray of the same numbers. ``mx.nd.array`` would do, but asks SciPy for a name that is going away."""
    made = mx.nd.empty(array.shape, ctx=context, dtype=dtype)
    made[:] = plain(array)
    return made
