"""Our PyTorch networks against torchvision's and timm's own, and what the fastest way gives.

It writes its report below ``results/``, its table into ``docs/throughput.md``, and its plot.
"""

from __future__ import annotations

from throughput import main

NETWORKS = ("resnet18", "resnet50")
OPTIONS = (
    *("--backend", "torch", "--peers", "torchvision,timm", "--mode", "infer,train", "--device", "cpu"),
    *("--preset", "eager,best", "--precision", "float32,bfloat16,int8"),
)

if __name__ == "__main__":
    main("against_torchvision_and_timm", __doc__.splitlines()[0], NETWORKS, OPTIONS)
