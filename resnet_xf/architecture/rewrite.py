"""Changes of a plan for every backend: batch norms folded into the convolutions before them, and exact layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from resnet_xf.architecture.nodes import Children, Conv, Dropout, LeakyReLU, Node, Norm, PReLU, Sequential, join
from resnet_xf.architecture.weights import Array, Weights, all_weight_shapes, check_weights

Pairs = dict[str, tuple[str, Norm]]


def fold_norms(root: Node, weights: Mapping[str, Array]) -> tuple[Node, Weights]:
    """Fold each batch norm that follows a convolution into it. The result computes the same in inference only.

    In inference a batch norm is y = γ · (x − μ) / √(σ² + eps) + β. With s = γ / √(σ² + eps) the convolution's kernel
    becomes s · w and its bias s · (b − μ) + β (Jacob et al. 2018, section 3.2), computed in float64 and rounded once.
    A norm stays if it follows anything else, as in pre-activation blocks, or if a :class:`Taps` node returns its
    output or its convolution's.

    Args:
        root: a plan's root, or any node.
        weights: its arrays by name; they keep their dtypes.

    Returns:
        The new node and its weights; the remaining layers keep their names.

    Raises:
        WeightsError: if the weights do not fit the node.
    """
    check_weights(weights, all_weight_shapes(root))
    pairs: Pairs = {}
    folded = root.changed(partial(_chain, "", pairs))
    remaining = all_weight_shapes(folded)
    arrays = dict(weights)
    for conv, (norm, node) in pairs.items():
        arrays |= _merged(conv, norm, node, weights)
    return folded, {name: arrays[name] for name in remaining}


def _chain(parent: str, pairs: Pairs, chain: Children, read_elsewhere: Collection[str] = ()) -> Children:
    """Children without the norms that can be folded, which go to ``pairs`` by the names of their convolutions.

    Other modules read the outputs of ``read_elsewhere``.
    """
    kept: list[tuple[str, Node]] = []
    for name, node in chain:
        before, last = kept[-1] if kept else ("", node)
        biased, conv = _biased(last, join(parent, before))
        if isinstance(node, Norm) and conv and conv not in pairs and not {before, name} & set(read_elsewhere):
            pairs[conv] = join(parent, name), node
            kept[-1] = before, biased
        else:
            kept.append((name, node.changed(partial(_chain, join(parent, name), pairs))))
    return tuple(kept)


def _biased(node: Node, name: str) -> tuple[Node, str | None]:
    """A node that ends in a convolution, with a bias there, and the convolution's name; else the node and None."""
    match node:
        case Conv():
            return replace(node, bias=True), name
        case Sequential(children=(*others, (last, child))):
            biased, conv = _biased(child, join(name, last))
            return Sequential((*others, (last, biased))), conv
        case _:
            return node, None


def _merged(conv: str, norm: str, node: Norm, weights: Mapping[str, Array]) -> Weights:
    """The convolution's kernel and bias with the norm folded in."""

    def array(name: str, default: float) -> Array:
        return np.asarray(weights.get(name, default), np.float64)

    kernel = weights[f"{conv}.weight"]
    mean, variance = (weights[f"{norm}.{word}"].astype(np.float64) for word in ("running_mean", "running_var"))
    scale = array(f"{norm}.weight", 1.0) / np.sqrt(variance + node.eps)
    bias = scale * (array(f"{conv}.bias", 0.0) - mean) + array(f"{norm}.bias", 0.0)
    scaled = scale[:, None, None, None] * kernel.astype(np.float64)
    return {f"{conv}.weight": scaled.astype(kernel.dtype), f"{conv}.bias": bias.astype(kernel.dtype)}


def in_full_precision(root: Node) -> Node:
    """Return a network whose PReLUs and leaky ReLUs compute in float64 if the network does."""
    return _each(root, lambda node: replace(node, float32=False) if isinstance(node, PReLU | LeakyReLU) else node)


def without_dropout(root: Node) -> Node:
    """Return a network whose dropout drops nothing. Frameworks draw random values differently."""
    return _each(root, lambda node: replace(node, rate=0.0) if isinstance(node, Dropout) else node)


def _each(node: Node, change: Callable[[Node], Node]) -> Node:
    """Return a tree in which each layer is changed."""

    def children(chain: Children, read_elsewhere: Collection[str] = ()) -> Children:
        return tuple((name, _each(child, change)) for name, child in chain)

    return change(node.changed(children))
