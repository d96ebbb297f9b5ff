"""The time that a network takes besides running: to import, plan, trace, build and prove it.

``python benchmarks/planning.py`` prints the tables and writes ``benchmarks/results/planning.json``. Every time is a
median in milliseconds.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

from common import RESULTS, exponent, write_results

from resnet_xf import ResNetSpec, Stage, Stem, get_backend, get_spec, parity, plan, trace
from resnet_xf.support.environment import environment

MODELS = ("resnet18", "resnet50", "resnet152", "cifar_resnet110_v1")
PROVEN = ("resnet18", "resnet50")
LEVELS = (("quick", 3), ("standard", 1))
BLOCKS = (8, 16, 32, 64, 128, 256, 512)


def milliseconds(work: Callable[[], object], times: int = 7) -> float:
    """The median time of a call."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append((time.perf_counter() - start) * 1e3)
    return round(median(taken), 3)


def importing() -> float:
    """The time of ``import resnet_xf`` without that of NumPy, by ``-X importtime``."""
    taken = []
    for _ in range(5):
        command = [sys.executable, "-X", "importtime", "-c", "import resnet_xf"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        cumulative = {name: int(us) for us, name in re.findall(r"\| +(\d+) \| +([\w.]+)$", said, re.MULTILINE)}
        taken.append((cumulative["resnet_xf"] - cumulative["numpy"]) / 1e3)
    return round(median(taken), 1)


def proving(name: str) -> dict[str, float]:
    """The time of a parity run of each level, with the frameworks imported before."""
    return {
        f"parity {level}": milliseconds(lambda level=level: parity(name, level=level), times=times)
        for level, times in LEVELS
    }


def deep(blocks: int) -> ResNetSpec:
    """A narrow network of any depth."""
    return ResNetSpec(name="deep", stem=Stem(kind="conv3", width=8), stages=(Stage(depth=blocks, channels=8),))


def main() -> None:
    """Measure, print and write."""
    backends = [get_backend(name) for name in ("torch", "mxnet")]

    def build(spec: ResNetSpec) -> dict[str, float]:
        root = plan(spec).root
        return {f"build {b.name}": milliseconds(lambda b=b: b.build(root), times=3) for b in backends}

    rows = {}
    for name in MODELS:
        spec = get_spec(name)
        shape = (1, spec.in_channels, *spec.image_size)
        rows[name] = (
            {"plan and trace": milliseconds(lambda s=spec, i=shape: trace(plan(s), i))}
            | build(spec)
            | (proving(name) if name in PROVEN else {})
        )
    scaling = {
        "plan and trace": [milliseconds(lambda n=n: trace(plan(deep(n)), (1, 3, 32, 32))) for n in BLOCKS],
    } | {key: [build(deep(n))[key] for n in BLOCKS] for key in ("build torch", "build mxnet")}
    result = {
        "command": "python benchmarks/planning.py",
        "environment": environment() | {b.name: b.version() for b in backends},
        "import beyond NumPy, ms": importing(),
        "models, ms": rows,
        "blocks": BLOCKS,
        "by blocks, ms": scaling,
        "exponent of time against blocks": {key: round(exponent(BLOCKS, times), 2) for key, times in scaling.items()},
    }
    write_results(RESULTS / "planning.json", result)
    for key, value in result.items():
        print(f"{key}: {value}" if not isinstance(value, dict) else f"{key}:")
        for name, one in value.items() if isinstance(value, dict) else ():
            print(f"  {name}: {one}")


if __name__ == "__main__":
    main()
