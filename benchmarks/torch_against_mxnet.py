"""PyTorch against MXNet Gluon, the same network and weights.

It writes its report below ``results/``, its table into ``docs/throughput.md``, and its plot.
"""

from __future__ import annotations

from throughput import main

NETWORKS = ("resnet18", "resnet50", "cifar_resnet20")
OPTIONS = (
    *("--backend", "torch,mxnet", "--mode", "infer,train", "--device", "cpu"),
    *("--preset", "eager,tuned,best", "--precision", "float32,bfloat16,int8"),
)

if __name__ == "__main__":
    main("torch_against_mxnet", __doc__.splitlines()[0], NETWORKS, OPTIONS)
