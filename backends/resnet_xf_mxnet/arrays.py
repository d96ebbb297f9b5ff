"""The blocks and parameters of a Gluon network by our names, and NumPy arrays as MXNet's arrays.

MXNet has two kinds of arrays: the classic ``mx.nd.NDArray``, and ``mx.np.ndarray`` after ``npx.set_np()``. Most
operators take one kind alone, and a switch of the process chooses which operators layers call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from resnet_xf.architecture.nodes import is_statistic, join
from resnet_xf.architecture.weights import Array, plain
from resnet_xf.data.pixels import Pixels
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
    """Return the parameters and running statistics of one block by our names.

    Constants are left out, and what a batch norm does not use.
    """
    unused: list[str] = []
    if isinstance(block, mx.gluon.nn.BatchNorm):
        unused = [name for name in ("gamma", "beta") if not block._reg_params[name]._differentiable]
        unused += ["gamma"] if block._kwargs["fix_gamma"] else []
    used = {NEUTRAL_WORDS.get(name, name): param for name, param in block._reg_params.items() if name not in unused}
    return {name: param for name, param in used.items() if is_statistic(name) or not _is_constant(param)}


def _is_constant(param: Any) -> bool:
    return isinstance(param, mx.gluon.Constant) or not param._differentiable


def weights_of(network: Any) -> dict[str, Any]:
    """Return the network's parameters by our names, in the order of registration."""
    return {
        join(name, suffix): param
        for name, block in named_blocks(network)
        for suffix, param in own_weights(block).items()
    }


def ndarray(array: Array, dtype: Any, context: Any) -> Any:
    """Return an array of the current kind with the same values. ``mx.nd.array`` uses a deprecated name of SciPy."""
    module = mx.np if mx.util.is_np_array() else mx.nd
    result = module.empty(array.shape, ctx=context, dtype=dtype)
    result._sync_copyfrom(plain(array))  # what ``result[:] =`` calls in the end, after much indexing
    return result


def set_values(param: Any, array: Array) -> None:
    """Copy values into a parameter. ``set_data`` does so too, and takes twice as long."""
    values = ndarray(array, param.dtype, mx.cpu())
    if param._data is None:  # its initialization waits for the first run
        param.set_data(values)
        return
    for own in param.list_data():
        values.copyto(own)


def on_device(pixels: Pixels, context: Any) -> Any:
    """Return the input tensor of a batch, equal to ``np.asarray(pixels)``. Bytes are sent, and looked up there."""
    images, table = pixels.images(), pixels.normalisation.table
    places = ndarray(images, "uint8", context).astype("int32")
    places = places + ndarray(np.arange(0, table.size, 256), "int32", context)
    values = ndarray(table.ravel(), "float32", context).take(places)
    return values.transpose((0, 3, 1, 2))


@contextmanager
def kind(numpy: bool) -> Iterator[None]:
    """Let layers make and take ``mx.np.ndarray`` within the block, or else ``mx.nd.NDArray``."""
    shape, array = mx.util.np_shape(numpy), mx.util.np_array(numpy)
    with shape if numpy else array, array if numpy else shape:  # MXNet refuses NumPy's arrays without NumPy's shapes
        yield


def is_numpy(network: Any) -> bool:
    """Return whether a network's weights are ``mx.np.ndarray``. Without weights, the process's switch decides.

    A node is built with the classic kind.
    """
    if not isinstance(network, mx.gluon.Block):
        return False
    for _, block in named_blocks(network):
        for param in block._reg_params.values():
            if param._data is not None:
                return isinstance(param._data[0], mx.np.ndarray)
    return bool(mx.util.is_np_array())


def as_kind(array: Any, numpy: bool) -> Any:
    """Return a view of an array, or of each in a list, as the other kind if it is not of this one."""
    if isinstance(array, list | tuple):
        return [as_kind(one, numpy) for one in array]
    return array.as_np_ndarray() if numpy else array.as_nd_ndarray()


M = TypeVar("M", bound=Callable[..., Any])


def in_kind_of(network: Callable[..., Any], *, pauses: bool = True) -> Callable[[M], M]:
    """Decorate a method to run with arrays of a network's kind. ``network`` returns it, from the method's arguments.

    If it ``pauses``, it does not add to what a caller records (``mx.autograd.record``).
    """

    def decorate(method: M) -> M:
        @wraps(method)
        def run(*args: Any, **kwargs: Any) -> Any:
            with kind(is_numpy(network(*args))), mx.autograd.pause() if pauses else nullcontext():
                return method(*args, **kwargs)

        return run  # type: ignore[return-value]

    return decorate
