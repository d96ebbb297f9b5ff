"""Plan to plan, with its weights: a norm folded into the convolution before it, once, for every backend."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from resnet_xf.architecture.nodes import Children, Conv, Node, Norm, Sequential, join
from resnet_xf.architecture.weights import Array, Weights, all_weight_shapes, check_weights

Pairs = dict[str, tuple[str, Norm]]


def fold_norms(root: Node, weights: Mapping[str, Array]) -> tuple[Node, Weights]:
    """The same network in inference mode with fewer layers: each norm that follows a convolution becomes part of it.

    A norm in inference mode is y = γ · (x − μ) / √(σ² + eps) + β with constants all, so with s = γ / √(σ² + eps) the
    convolution's kernel becomes s · w and its bias s · (b − μ) + β (Jacob et al. 2018, section 3.2). That is computed
    in float64 and rounded once. A norm that follows anything else stays, as in pre-activation blocks, and so does one
    where a :class:`Taps` node shows its output or its convolution's. The network is not to be trained any
    more, since its norms are gone.

    Args:
        root: a plan's root, or any node.
        weights: its arrays by name; they keep their dtypes.

    Returns:
        The new node and its weights; the layers that are left bear their old names.

    Raises:
        WeightsError: if the weights are not the node's.
    """
    widest = max((array.dtype for array in weights.values()), default=np.dtype("float32"), key=lambda d: d.itemsize)
    check_weights(weights, all_weight_shapes(root), widest)
    pairs: Pairs = {}
    folded = _folded(root, "", pairs)
    left = all_weight_shapes(folded)
    arrays = {name: array for name, array in weights.items() if name in left}
    for conv, (norm, node) in pairs.items():
        arrays |= _merged(conv, norm, node, weights)
    return folded, {name: arrays[name] for name in left}


def _folded(node: Node, name: str, pairs: Pairs) -> Node:
    """The node without the norms that can go, which are noted in ``pairs`` by the names of their convolutions."""
    return node.changed(partial(_chain, name, pairs))


def _chain(parent: str, pairs: Pairs, chain: Children, shown: Collection[str] = ()) -> Children:
    """Children of which each reads what the one before it gives; the outputs of those ``shown`` are read by others."""
    kept: list[tuple[str, Node]] = []
    for name, node in chain:
        before, last = kept[-1] if kept else ("", node)
        biased, conv = _biased(last, join(parent, before))
        if isinstance(node, Norm) and conv and conv not in pairs and not {before, name} & set(shown):
            pairs[conv] = join(parent, name), node
            kept[-1] = before, biased
        else:
            kept.append((name, _folded(node, join(parent, name), pairs)))
    return tuple(kept)


def _biased(node: Node, name: str) -> tuple[Node, str | None]:
    """A node that ends in a convolution, with a bias there, and that convolution's name; of any other node no name."""
    match node:
        case Conv():
            return replace(node, bias=True), name
        case Sequential(children=(*others, (last, child))):
            biased, conv = _biased(child, join(name, last))
            return Sequential((*others, (last, biased))), conv
        case _:
            return node, None


def _merged(conv: str, norm: str, node: Norm, weights: Mapping[str, Array]) -> Weights:
    """The convolution's new arrays."""

    def own(layer: str, word: str, otherwise: float) -> Array:
        array: Array = np.asarray(weights.get(f"{layer}.{word}", otherwise), np.float64)
        return array

    kernel = weights[f"{conv}.weight"]
    scale = own(norm, "weight", 1.0) / np.sqrt(own(norm, "running_var", 1.0) + node.eps)
    bias = scale * (own(conv, "bias", 0.0) - own(norm, "running_mean", 0.0)) + own(norm, "bias", 0.0)
    turned = scale[:, None, None, None] * kernel.astype(np.float64)
    return {f"{conv}.weight": turned.astype(kernel.dtype), f"{conv}.bias": bias.astype(kernel.dtype)}
