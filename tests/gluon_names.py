"""Where Gluon's model zoo keeps what we name: an explicit table of structural names."""

import re

import numpy as np

BODY = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
WORDS = {"gamma": "weight", "beta": "bias"}


def ours(name: str) -> str:
    """The neutral name of a parameter of a v1 network of the zoo."""
    head, _, last = name.rpartition(".")
    last = WORDS.get(last, last)
    if block := re.fullmatch(r"features\.([4-7])\.(\d+)\.(body|downsample)\.(\d+)", head):
        stage, number, part, place = block.groups()
        layer = BODY[place] if part == "body" else f"downsample.{place}"
        return f"layer{int(stage) - 3}.{number}.{layer}.{last}"
    return {"features.0": "conv1", "features.1": "bn1", "output": "fc"}[head] + f".{last}"


def zoo_weights(network) -> dict[str, np.ndarray]:
    """A zoo network's weights by neutral name."""
    return {ours(name): p.data().asnumpy() for name, p in network._collect_params_with_prefix().items()}
