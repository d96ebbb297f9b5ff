"""How often a rung of the parity ladder fails although both networks are right.

``python benchmarks/false_alarms.py`` draws random specs from all values that a spec's fields may have. It builds each
network in PyTorch and in MXNet Gluon and runs the ladder at level ``standard``. It prints how near the measured errors
came to their bounds and writes ``benchmarks/results/false_alarms.json``. The exit code is 1 if a rung failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from common import RESULTS, write_results
from hypothesis import HealthCheck, Phase, given, reject, seed, settings
from rich.progress import track

from resnet_xf import ResNetSpec, get_backend, trace
from resnet_xf.errors import ShapeError
from resnet_xf.ladder.climb import climb
from resnet_xf.ladder.inputs import subject_of
from resnet_xf.ladder.report.report import Report
from resnet_xf.ladder.rungs.layers import rounding
from resnet_xf.ladder.sides.live import Live
from resnet_xf.support.environment import environment

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.strategies import specs

BACKENDS = ("torch", "mxnet")


def drawn(count: int, start: int) -> list[ResNetSpec]:
    """Draw ``count`` specs whose shapes fit; the same seed gives the same specs."""
    sound: list[ResNetSpec] = []

    @seed(start)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(specs())
    def collect(spec: ResNetSpec) -> None:
        try:
            trace(spec, (1, spec.in_channels, *spec.image_size))
        except ShapeError:
            reject()  # the image is too small for one of the pools
        sound.append(spec)

    collect()
    return sound


def climbed(spec: ResNetSpec, number: int) -> tuple[Report, list[Live]]:
    """Run the ladder on one network; its number is the seed of weights and images."""
    subject, origin, shown = subject_of(spec, None, None, None, number, None)
    sides = [Live(subject, get_backend(name)) for name in BACKENDS]
    return climb(subject, sides, origin, shown, level="standard"), sides


def shares(report: Report, sides: list[Live]) -> Iterator[tuple[str, float]]:
    """For each comparison that has a bound: its name, and the error as a share of the bound."""
    for rung in report.rungs:
        if rung.status == "pass" and rung.value is not None and rung.bound:
            yield f"{rung.number} {rung.name}", rung.value / rung.bound
    for layer in report.layers:
        if layer.own is not None and layer.own_bound:
            yield "6 layers, given the other's input", layer.own / layer.own_bound
    for own in (own for side in sides for own in rounding(side).values()):
        yield "6 layers, float32 of each alone", own.forward / own.forward_bound
        yield "7 gradients, float32 of each layer alone", own.backward / own.backward_bound


def main() -> None:
    """Draw networks, run the ladder, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="networks to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the random specs")
    parser.add_argument("--out", type=Path, default=RESULTS / "false_alarms.json")
    options = parser.parse_args()

    begun = time.perf_counter()
    networks = drawn(options.count, options.seed)
    measured: defaultdict[str, list[float]] = defaultdict(list)
    alarms = []
    for number, spec in enumerate(track(networks, "networks")):
        report, sides = climbed(spec, number)
        if (failure := report.failure) is not None:
            alarms.append({"number": number, "verdict": report.verdict(), "spec": json.loads(spec.to_json())})
            print(f"network {number}: {failure.name}: {report.verdict()}")
            continue
        nearest: dict[str, float] = {}
        for what, share in shares(report, sides):
            nearest[what] = max(share, nearest.get(what, 0.0))
        for what, share in nearest.items():
            measured[what].append(share)
    headroom = {
        what: {"median": round(median(found), 4), "max": round(max(found), 4), "networks": len(found)}
        for what, found in sorted(measured.items())
    }
    for what, found in headroom.items():
        print(f"{what:45} median {found['median']:.3f} of its bound, at most {found['max']:.3f}")
    print(f"{len(alarms)} false alarms on {len(networks)} networks")
    result = {
        "networks": len(networks),
        "seed": options.seed,
        "false_alarms": alarms,
        "share_of_bound": headroom,
        "seconds": round(time.perf_counter() - begun),
        "backends": {name: get_backend(name).version() for name in BACKENDS},
        "environment": environment(),
    }
    write_results(options.out, result)
    sys.exit(1 if alarms else 0)


if __name__ == "__main__":
    main()
