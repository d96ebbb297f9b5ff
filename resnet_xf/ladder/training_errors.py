"""Measures how much two training states differ: in losses, running statistics, gradients and weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import sqrt

import numpy as np

from resnet_xf.architecture.measures import largest, layer_errors, relative_error
from resnet_xf.architecture.nodes import is_statistic
from resnet_xf.architecture.weights import Array, Weights
from resnet_xf.ladder.perturb import PERTURBATION
from resnet_xf.ladder.sides.side import Side
from resnet_xf.ladder.subject import Subject
from resnet_xf.training.recipe import rounded

LOSS = "the loss"
"""The key of the loss, in mappings whose other keys are names of layers."""


def parameters_of(arrays: Weights) -> Weights:
    """Return the arrays that an optimiser updates: all but the running means and variances of batch norms."""
    return {name: array for name, array in arrays.items() if not is_statistic(name)}


def statistics_of(arrays: Weights) -> Weights:
    """Return the running means and variances of batch norms among some arrays."""
    return {name: array for name, array in arrays.items() if is_statistic(name)}


def loss_error(loss: float, expected: float) -> float:
    """Return the error of a loss, relative to the larger of 1 and |expected loss|.

    A loss is the logarithm of a probability, so its absolute error is the relative error of the probability. A network
    of one class always has loss 0.
    """
    return relative_error(np.array(loss), np.array(expected), max(1.0, abs(expected)))


def statistic_errors(statistics: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, float]:
    """Return the relative error of each running statistic, by name; ``expected`` has the same names.

    The scale is the largest absolute value of the array. For a mean it is at least the standard deviation, because a
    mean may be 0.
    """
    errors = {}
    for name, array in expected.items():
        scale = largest(array)
        if name.endswith("running_mean"):
            variances = expected[name.removesuffix("mean") + "var"]
            scale = max(scale, sqrt(largest(variances)))
        errors[name] = relative_error(statistics[name], array, scale)
    return errors


def growth(perturbed: tuple[Array, Weights], exact: tuple[Array, Weights]) -> dict[str, float]:
    """Return how many times larger a perturbation of ``PERTURBATION`` has become after some training.

    ``perturbed`` and ``exact`` are the outputs and the arrays after a run with the perturbation and one without. The
    keys are layers for parameters, arrays for running statistics, and ``LOSS``. In the loss itself a perturbation may
    cancel by chance, so twice the largest change of an output is taken, which the loss cannot exceed.
    """
    errors = layer_errors(parameters_of(perturbed[1]), parameters_of(exact[1]))
    errors |= statistic_errors(statistics_of(perturbed[1]), statistics_of(exact[1]))
    errors[LOSS] = 2 * relative_error(perturbed[0], exact[0], 1.0)
    return {name: error / PERTURBATION for name, error in errors.items()}


def compare_statistics(
    subject: Subject,
    sides: tuple[Side, Side],
    before: tuple[Weights, Weights],
    after: tuple[Weights, Weights],
    gain: Mapping[str, float],
) -> Iterator[tuple[str, float, float]]:
    """Compare the running statistics of two sides (networks) before and after a training step.

    Yield for each running mean and variance: its batch norm, the relative error, and its gain. ``gain``: by array name,
    how much a perturbation of the weights has grown there.

    Let r be the running value, b the batch's, and k the share of r that is kept: r ← k · r + (1 − k) · b. For a
    variance, b is Σ (x − x̄)² / m on one framework and / (m − 1) on the other. So what one side adds to k · r is what
    the other adds, times the ratio of the two.
    """
    first, other = sides
    for norm, settings in subject.outline.norms.items():
        elements, keep = subject.lockstep_run.elements[norm], rounded(1 - settings["momentum"])
        ratios = {"running_mean": 1.0, "running_var": _correction(other, elements) / _correction(first, elements)}
        expected = {}
        for name, ratio in ratios.items():
            key = f"{norm}.{name}"
            expected[key] = keep * before[1][key] + ratio * (after[0][key] - keep * before[0][key])
        for key, error in statistic_errors(after[1], expected).items():
            yield norm, error, gain.get(key, 0.0)


def _correction(side: Side, elements: int) -> float:
    """Return the factor from a biased variance of n ``elements`` to what a side (network) uses: 1, or n / (n − 1)."""
    return elements / (elements - 1) if side.unbiased_variance else 1.0
