"""Parity reports by hand, for the tests on what is made of them: one that holds, one that fails, one that is hostile."""

from datetime import UTC, datetime
from math import inf, nan

import msgspec

from helpers.runs import TINY
from resnet_xf.ladder.accuracy.equivalence import Equivalence
from resnet_xf.ladder.report.report import Curves, LayerError, Report, RungResult

NAMES = ("shapes", "weights", "determinism", "forward float64", "layers", "learning curves", "accuracy")
HOSTILE = "<script>alert('$x')</script> & \"]]>\" \x00\x1b[31m \ud800 \uffff 層 url(http://evil.example/x)"


def rung(
    number: int, name: str, value: float | None = 1e-16, bound: float | None = 1e-14, **more: object
) -> RungResult:
    given = {"status": "pass", "metric": "relative error", "detail": "as it should be", "seconds": 0.25} | more
    return RungResult(number=number, name=name, value=value, bound=bound, **given)


def layers(number: int) -> tuple[LayerError, ...]:
    return tuple(
        LayerError(
            name="conv1" if n == 0 else f"layer{1 + 4 * n // number}.{n % 7}.conv{n}",
            kind="conv",
            inherited=1e-16 * n,
            inherited_bound=1e-13,
            own=(n % 3) * 1e-16,
            own_bound=1e-14,
            float32={"torch": 1e-7, "mxnet": (n % 2) * 2e-7},
            float32_bound=1e-5,
        )
        for n in range(number)
    )


def equivalence(first: str = "torch", second: str = "mxnet") -> Equivalence:
    return Equivalence(
        first=first,
        second=second,
        seeds=(0, 1, 2),
        accuracies={first: (91.0, 92.0, 91.5), second: (91.2, 91.9, 91.5)},
        mean_difference=0.0333,
        deviation=0.1528,
        interval=(-0.2242, 0.2909),
        margin=1.0,
        alpha=0.05,
        p_value=0.004,
        power=0.99,
        needed=3,
        verdict="equivalent",
    )


def holding(number: int = 30, **changes: object) -> Report:
    """A report with everything in it."""
    losses = tuple(2.3 / (1 + n / 5) for n in range(20))
    report = Report(
        network="tiny",
        spec=TINY,
        level="full",
        command="resnet-xf parity tiny.toml --level full",
        backends={"torch": "2.9.1", "mxnet": "1.9.1"},
        images="scikit-learn's digits",
        input_shape=(4, 1, 12, 12),
        weights="drawn as probe from seed 0",
        weights_digest="0123456789abcdef0123456789abcdef",
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        environment={"resnet_xf": "0.1.0", "python": "3.11.7", "machine": "x86_64"},
        devices={"torch": "cuda", "mxnet": "cpu"},
        rungs=tuple(rung(n, name, *((0, 0) if n <= 3 else ())) for n, name in enumerate(NAMES, start=1)),
        layers=layers(number),
        curves=Curves(
            losses={"torch": losses, "mxnet": tuple(loss + 1e-6 for loss in losses)},
            nudged={side: (tuple(loss * (1 + 1e-6) for loss in losses),) * 2 for side in ("torch", "mxnet")},
        ),
        accuracy=equivalence(),
    )
    return msgspec.structs.replace(report, **changes)


def failing() -> Report:
    """A report that ends on rung 5, where numbers are infinite or none at all."""
    found = list(layers(30))
    found[7] = msgspec.structs.replace(found[7], inherited=inf, own=nan, own_bound=inf, float32={"torch": nan})
    found[8] = msgspec.structs.replace(found[8], inherited=0.1, own=None, own_bound=None, float32={})
    rungs = [rung(n, name) for n, name in enumerate(NAMES[:4], start=1)]
    rungs.append(rung(5, "layers", inf, 1e-13, status="fail", where=found[7].name, detail="it is not finite"))
    rungs.append(rung(6, "lock-step", None, None, status="skip", detail="", seconds=0.0))
    lost = Curves(losses={"torch": (2.0, nan), "mxnet": (2.0, inf)}, nudged={"torch": ((2.0, nan),), "mxnet": ()})
    return holding(rungs=tuple(rungs), layers=tuple(found), curves=lost, accuracy=None)


def hostile() -> Report:
    """A report whose every text is somebody else's."""
    found = msgspec.structs.replace(layers(1)[0], name=HOSTILE, kind=HOSTILE, float32={HOSTILE: 1e-7})
    return holding(
        network=HOSTILE,
        spec=None,
        command=HOSTILE,
        backends={HOSTILE: HOSTILE, "mxnet": HOSTILE},
        devices={HOSTILE: HOSTILE},
        images=HOSTILE,
        weights=HOSTILE,
        environment={HOSTILE: HOSTILE},
        rungs=tuple(
            rung(4, HOSTILE, 1, 0.5, metric=HOSTILE, where=HOSTILE, detail=HOSTILE, status=s) for s in ("fail", "pass")
        ),
        layers=(found,),
        curves=Curves(losses={HOSTILE: (1.0, 2.0), "mxnet": (1.0, 2.0)}, nudged={HOSTILE: ((1.0, 2.0),)}),
        accuracy=equivalence(HOSTILE, "mxnet"),
    )
