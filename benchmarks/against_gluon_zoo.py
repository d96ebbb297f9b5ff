"""Our Gluon networks against the Gluon model zoo's own, and what the fastest way gives.

It writes its report below ``results/``, its table into ``docs/throughput.md``, and its plot.
"""

from __future__ import annotations

from throughput import main

NETWORKS = ("resnet18_v1", "resnet50_v1")
OPTIONS = (
    *("--backend", "mxnet", "--peers", "gluon", "--mode", "infer,train", "--device", "cpu"),
    *("--preset", "tuned,best", "--precision", "float32,bfloat16,int8"),
)

if __name__ == "__main__":
    main("against_gluon_zoo", __doc__.splitlines()[0], NETWORKS, OPTIONS)
