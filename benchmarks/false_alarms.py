"""How often the parity ladder cries wolf: random sound networks, each climbed to the end of the level ``standard``.

``python benchmarks/false_alarms.py`` draws networks from the whole field space of a spec, builds each in PyTorch and in
MXNet Gluon from weights of its own, prints how near the measured errors came to their bounds, and writes
``benchmarks/results/false_alarms.json``. Its exit code is 1 if a rung failed.
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

from hypothesis import HealthCheck, Phase, given, reject, seed, settings
from rich.progress import track

from resnet_xf import ResNetSpec, get_backend, trace
from resnet_xf.errors import ShapeError
from resnet_xf.ladder.climb import climb
from resnet_xf.ladder.inputs import subject_of
from resnet_xf.ladder.report.report import Report, environment
from resnet_xf.ladder.sides.live import Live
from resnet_xf.support.files import atomic

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.strategies import specs

RESULTS = Path(__file__).parent / "results" / "false_alarms.json"
BACKENDS = ("torch", "mxnet")


def drawn(count: int, start: int) -> list[ResNetSpec]:
    """So many sound specs, the same for the same start."""
    found: list[ResNetSpec] = []

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
            reject()  # a small image, pooled to less than a window of the next pool
        found.append(spec)

    collect()
    return found


def climbed(spec: ResNetSpec, number: int) -> tuple[Report, list[Live]]:
    """The ladder on one network, with weights and images' order drawn from its number."""
    subject, origin, shown = subject_of(spec, None, None, None, number, None)
    sides = [Live(subject, get_backend(name)) for name in BACKENDS]
    return climb(subject, sides, origin, shown, level="standard"), sides


def shares(report: Report, sides: list[Live]) -> Iterator[tuple[str, float]]:
    """What was compared, and the share of its bound that was measured, of everything that has a bound."""
    for rung in report.rungs:
        if rung.status == "pass" and rung.value is not None and rung.bound:
            yield f"{rung.number} {rung.name}", rung.value / rung.bound
    for layer in report.layers:
        if layer.own is not None and layer.own_bound:
            yield "6 layers, given the other's input", layer.own / layer.own_bound
    for own in (own for side in sides for own in side.own_rounding().values()):
        yield "6 layers, float32 of each alone", own.forward / own.forward_bound
        yield "7 gradients, float32 of each layer alone", own.backward / own.backward_bound


def main() -> None:
    """Draw, climb, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="networks to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()

    begun = time.perf_counter()
    networks = drawn(given.count, given.seed)
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
        "seed": given.seed,
        "false_alarms": alarms,
        "share_of_bound": headroom,
        "seconds": round(time.perf_counter() - begun),
        "backends": {name: get_backend(name).version() for name in BACKENDS},
        "environment": environment(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(given.out) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if alarms else 0)


if __name__ == "__main__":
    main()
