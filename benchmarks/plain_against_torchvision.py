"""Our plain networks against torchvision's under PyTorch with nothing set, in many launches.

It writes its report below ``results/``, its table into ``docs/throughput.md``, and its plot.
"""

from __future__ import annotations

from throughput import main

NETWORKS = ("resnet18", "resnet50")
OPTIONS = (
    *("--backend", "torch", "--peers", "torchvision", "--mode", "infer,train", "--device", "cpu"),
    *("--preset", "eager", "--precision", "float32"),
)

if __name__ == "__main__":
    main("plain_against_torchvision", __doc__.splitlines()[0], NETWORKS, OPTIONS)
