"""Ours against torchvision and timm on a GPU, every precision; MXNet's row says why, where it has no code for it.

It writes its report below ``results/``, its table into ``docs/throughput.md``, and its plot.
"""

from __future__ import annotations

from throughput import main

NETWORKS = ("resnet18", "resnet50", "d2l_resnet18")
OPTIONS = (
    *("--backend", "torch,mxnet", "--peers", "torchvision,timm", "--mode", "infer,train", "--device", "cuda"),
    *("--preset", "eager,best", "--precision", "tf32,float32,bfloat16,float16", "--batch", "256"),
)

if __name__ == "__main__":
    main("on_a_gpu", __doc__.splitlines()[0], NETWORKS, OPTIONS)
