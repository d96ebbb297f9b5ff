"""Formats numbers and texts for a report's HTML and XML, and says in words what each rung compares."""

from __future__ import annotations

import re
from collections.abc import Iterable

ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot write: control characters, lone surrogates, U+FFFE and U+FFFF."""

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

RUNGS = {
    "shapes": "Every layer's name, output shape, parameters, multiply-accumulates, and its settings, such as a batch "
    "norm's eps and momentum or a convolution's stride and padding: all as the spec says, or as the first network of a "
    "pair has them.",
    "weights": "Every weight is loaded into each network and read back, in float32 and float64: no bit may change.",
    "determinism": "Each backend builds and runs the network twice: the outputs must be equal to the bit.",
    "forward float64": "The networks' outputs for the same images and weights, computed in float64, where rounding "
    "errors are too small to hide a real difference.",
    "layers": "Every layer's output in the whole network, and again when both sides get the same input, so that a "
    "layer's own error is separated from the error that it inherits.",
    "gradients": "The loss, every parameter's gradient and every batch norm's statistics after one training step.",
    "lock-step": "Weights, momentum and batch norm statistics after each of several training steps in float64, in "
    "pairs of steps from the same weights.",
    "learning curves": "The losses of a float32 training run: they may differ at most a few times as much as the same "
    "framework's own losses do after the smallest change of the initial weights.",
    "accuracy": "The test accuracies of networks trained from the same seeds: a statistical test must show that their "
    "mean difference is within the declared margin.",
}
"""For each rung's name, a sentence that says what it compares."""


def listed(names: Iterable[str]) -> str:
    """Return names as a text: ``torch, mxnet and onnx``."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def rung_in_words(name: str, metric: str) -> str:
    """Return a sentence on what the rung called ``name`` compares; ``Measures METRIC.`` if the name is unknown."""
    if name not in RUNGS and name.startswith("forward "):
        return f"Each network's output in {name.removeprefix('forward ')} against the float64 result of rung 4."
    return RUNGS.get(name, f"Measures {metric}.")


def legal(text: str) -> str:
    """Return the text with U+FFFD for every character that XML and HTML cannot hold."""
    return ILLEGAL.sub("\ufffd", text)


def number(value: float | None) -> str:
    """Return a number as text with three digits; an empty text for None."""
    if value is None:
        return ""
    return f"{value:.3g}".replace("inf", "∞").replace("nan", "NaN")


def beyond(value: float | None, bound: float | None) -> bool:
    """Return whether an error is larger than its bound: true if the error is NaN, false if either is None."""
    return value is not None and bound is not None and not value <= bound


def power_of_ten(exponent: int) -> str:
    """Return a power of ten as ``10⁻¹²``."""
    return f"10{str(exponent).translate(SUPERSCRIPTS)}"
