"""The blocks and parameters of a Gluon network by our names, and NumPy arrays as NDArrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from resnet_xf.architecture.nodes import join
from resnet_xf.architecture.weights import Array, plain
from resnet_xf.formats.layouts import GLUON_WORDS
from resnet_xf_mxnet.numpy_compat import mx

NEUTRAL_WORDS = {theirs: ours for words in GLUON_WORDS.values() for ours, theirs in words.items()}
"""Gluon's names of parameters, with ours: ``gamma`` is ``weight``."""


def named_blocks(block: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``block`` and every block inside it with its dotted name, like PyTorch's ``named_modules``."""
    yield name, block
    for child_name, child in block._children.items():
        yield from named_blocks(child, join(name, child_name))


def own_weights(block: Any) -> dict[str, Any]:
    """Return the parameters of one block by our names, without those that a batch norm does not use."""
    unused = ("gamma", "beta") if isinstance(block, mx.gluon.nn.BatchNorm) and block._kwargs["fix_gamma"] else ()
    params = block._reg_params.items()
    return {NEUTRAL_WORDS.get(name, name): param for name, param in params if name not in unused}


def weights_of(network: Any) -> dict[str, Any]:
    """Return the network's parameters by our names, in the order of registration."""
    return {
        join(name, suffix): param
        for name, block in named_blocks(network)
        for suffix, param in own_weights(block).items()
    }


def ndarray(array: Array, dtype: Any, context: Any) -> Any:
    """Return an NDArray with the same values. ``mx.nd.array`` would use a deprecated name of SciPy."""
    result = mx.nd.empty(array.shape, ctx=context, dtype=dtype)
    result[:] = plain(array)
    return result
