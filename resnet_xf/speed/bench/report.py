"""What a bench found: rows, ratios, the environment; as JSON and CSV, and held against another."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from statistics import median

import msgspec

from resnet_xf.errors import BenchError
from resnet_xf.speed.bench.case import OURS, Case
from resnet_xf.speed.bench.statistics import Ratio, Speed, ratio, speed, unpaired
from resnet_xf.support.documents import Document, Struct


class Result(Struct, frozen=True, kw_only=True):
    """What was measured of one case.

    Attributes:
        speed: images a second.
        rates: of each round, by launch and turn: those of one turn were run one after the other.
        error: of the outputs against float64, relative to the largest.
        agreement: the share of images whose largest output is float64's.
        share: of the machine's ceiling in that precision; None where that is not known.
        build, first, warm_up: seconds until the network was there, until its first result, until it was steady.
            These, and what is not said to be otherwise, are the first launch's, which finds nothing compiled.
        host_memory, device_memory: peaks in bytes; ``error`` and ``agreement`` too are the worst of all launches.
        threads, busy_processors: how many the framework says it has, and how many were busy on the mean.
        version: the framework's.
        steps: what was done to make it fast.
    """

    speed: Speed
    rates: tuple[dict[int, float], ...]
    error: float
    agreement: float
    share: float | None
    build: float
    first: float
    warm_up: float
    host_memory: int
    device_memory: int | None
    threads: int
    busy_processors: float
    version: str
    steps: tuple[str, ...]

    @property
    def by_launch(self) -> list[list[float]]:
        """The rates without their turns."""
        return [list(launch.values()) for launch in self.rates]


class Row(Struct, frozen=True, kw_only=True):
    """A case, and its result or the reason why there is none; ``failed`` if that is more than something lacking.

    ``ratio`` is to its group's :func:`baseline`.
    """

    case: Case
    result: Result | None = None
    reason: str = ""
    failed: bool = False
    ratio: Ratio | None = None


class BenchReport(Document, frozen=True, kw_only=True):
    """Everything a bench found.

    Attributes:
        command: what was asked for, as a command line.
        environment: the machine and its software.
        ceilings: flops a second of a large product of matrices, by precision; the best that any backend reached.
        rows: one for each case.
    """

    title = "a bench's report"
    error = BenchError

    command: str = ""
    environment: dict[str, str]
    ceilings: dict[str, float]
    rows: tuple[Row, ...]

    @property
    def failed(self) -> bool:
        """Whether any case crashed or gave false results."""
        return any(row.failed for row in self.rows)

    def groups(self) -> Iterator[list[Row]]:
        """The rows that are compared with each other."""
        for _, rows in groupby(self.rows, key=lambda row: row.case.group):
            yield list(rows)

    def conclusions(self) -> list[str]:
        """In words, of each group: which backend is faster at its fastest, in float32 and in any precision."""
        return [line for rows in self.groups() for line in _conclusions(rows)]

    def ceilings_in_words(self) -> str:
        """The ceilings of all precisions in a line."""
        return ", ".join(f"{flops / 1e9:,.0f} Gflop/s in {name}" for name, flops in self.ceilings.items()) or "none"

    def to_csv(self) -> str:
        """One line for each case, with the environment at its end."""
        text = io.StringIO()
        writer = csv.DictWriter(text, (*COLUMNS, *self.environment), lineterminator="\n")
        writer.writeheader()
        writer.writerows(_flat(row) | self.environment for row in self.rows)
        return text.getvalue()


COLUMNS = (
    *("network", "library", "backend", "mode", "preset", "precision", "batch", "height", "width", "device", "threads"),
    *("images_per_second", "lower_quartile", "upper_quartile", "rounds", "launches"),
    *("ratio", "ratio_low", "ratio_high"),
    *("error", "agreement", "share_of_ceiling", "build_seconds", "first_seconds", "warm_up_seconds"),
    *("host_memory", "device_memory", "busy_processors", "version", "reason"),
)


def _flat(row: Row) -> dict[str, object]:
    case, found = row.case, row.result
    flat: dict[str, object] = {
        "network": case.spec.name,
        "height": case.image_size[0],
        "width": case.image_size[1],
        "reason": row.reason,
    }
    flat |= {name: getattr(case, name) for name in COLUMNS if name in case.__struct_fields__}
    if found:
        flat |= {
            "images_per_second": found.speed.median,
            "lower_quartile": found.speed.low,
            "upper_quartile": found.speed.high,
            "rounds": found.speed.rounds,
            "launches": len(found.rates),
            "share_of_ceiling": found.share,
            "build_seconds": found.build,
            "first_seconds": found.first,
            "warm_up_seconds": found.warm_up,
        }
        flat |= {name: getattr(found, name) for name in COLUMNS if name in found.__struct_fields__}
    if row.ratio:
        flat |= {"ratio": row.ratio.median, "ratio_low": row.ratio.interval[0], "ratio_high": row.ratio.interval[1]}
    return flat


def merged(launches: Sequence[Row]) -> Row:
    """One row of the same case's rows, a launch each; one without a result leaves the case with none."""
    found: list[Result] = []
    for number, row in enumerate(launches):
        if row.result is None and number:
            return msgspec.structs.replace(row, failed=True, reason=f"in launch {number + 1}: {row.reason}")
        if row.result is None:
            return row
        found.append(row.result)
    rates = tuple(rates for result in found for rates in result.rates)
    whole = msgspec.structs.replace(
        found[0],
        speed=speed([rate for launch in rates for rate in launch.values()]),
        rates=rates,
        error=max(result.error for result in found),
        agreement=min(result.agreement for result in found),
        host_memory=max(result.host_memory for result in found),
        device_memory=max((result.device_memory for result in found if result.device_memory), default=None),
        busy_processors=median(result.busy_processors for result in found),
    )
    return msgspec.structs.replace(launches[0], result=whole)


def result_ratio(first: Result, second: Result) -> Ratio | None:
    """How many times as fast the first is, from the turns that both had; None if there were none."""
    own: list[list[float]] = []
    other: list[list[float]] = []
    for one, two in zip(first.rates, second.rates, strict=False):
        if shared := sorted(one.keys() & two.keys()):
            own.append([one[turn] for turn in shared])
            other.append([two[turn] for turn in shared])
    return ratio(own, other) if own else None


def baseline(group: Sequence[Row]) -> Row | None:
    """What a group's rows are compared with: the first that has a result; None if none has."""
    return next((row for row in group if row.result), None)


def with_ratios(group: Sequence[Row]) -> list[Row]:
    """A group's rows, each but the baseline with its ratio to it."""
    first = baseline(group)
    if first is None or first.result is None:
        return list(group)
    return [
        msgspec.structs.replace(row, ratio=result_ratio(row.result, first.result))
        if row.result and row is not first
        else row
        for row in group
    ]


def _conclusions(rows: Sequence[Row]) -> Iterator[str]:
    ours = [(row.case, row.result) for row in rows if row.result and row.case.library == OURS]
    said = set()
    for what, precisions in (("in float32", {"float32"}), ("in any precision", {case.precision for case, _ in ours})):
        fastest: dict[str, tuple[Case, Result]] = {}
        for case, result in sorted(ours, key=lambda one: one[1].speed.median):
            if case.precision in precisions:
                fastest[case.backend] = case, result
        if len(fastest) < 2:
            continue
        (case, result), (other, beside), *_ = sorted(fastest.values(), key=lambda one: -one[1].speed.median)
        if (case, other) not in said and (found := result_ratio(result, beside)):
            yield f"{case.group_title}, {what}: {case} beside {other}: {found}"
        said.add((case, other))


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A case in two reports: how many times as fast the second is."""

    case: Case
    before: Speed
    after: Speed
    ratio: Ratio


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two reports side by side: cases that both measured, those that one did alone, and what else is not the same."""

    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    environment: dict[str, tuple[str, str]]


def compare(before: BenchReport, after: BenchReport) -> Comparison:
    """Hold two reports against each other.

    They were not run in turns, so that whatever else the machine did stands in the ratios as well.

    Raises:
        BenchError: if they have no case in common.
    """
    one, two = ({row.case.key: row for row in report.rows if row.result} for report in (before, after))
    shared = [key for key in one if key in two]
    if not shared:
        raise BenchError(f"no case was measured in both: {_apart(one, two)}; measure both with the same options")
    changes = []
    for key in shared:
        first, second = one[key].result, two[key].result
        assert first is not None
        assert second is not None
        found = unpaired(second.by_launch, first.by_launch)
        changes.append(Change(case=two[key].case, before=first.speed, after=second.speed, ratio=found))
    names = dict.fromkeys((*before.environment, *after.environment))
    sides = {name: (before.environment.get(name, "none"), after.environment.get(name, "none")) for name in names}
    return Comparison(
        changes=tuple(changes),
        only_before=tuple(_title(one[key].case) for key in one if key not in two),
        only_after=tuple(_title(two[key].case) for key in two if key not in one),
        environment={name: (old, new) for name, (old, new) in sides.items() if old != new},
    )


def _title(case: Case) -> str:
    return f"{case.group_title}: {case}"


def _apart(*sides: Mapping[tuple[object, ...], Row]) -> str:
    """Why two reports have nothing in common: the fields whose values none share."""
    if not all(sides):
        return "in one of them, nothing was"
    found = []
    for name in Case.__struct_fields__:
        values = [{getattr(row.case, name) for row in side.values()} for side in sides]
        if values[0].isdisjoint(values[1]):
            first, second = (sorted(getattr(value, "name", str(value)) for value in one) for one in values)
            found.append(f"{name} is {' or '.join(first)} in the first and {' or '.join(second)} in the second")
    return ", ".join(found) or "what each has of backend, preset, precision and batch goes together otherwise"
