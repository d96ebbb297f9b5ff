"""The results of a bench: rows, ratios and the environment; as JSON and CSV, and compared with an earlier report."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from statistics import median
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import asdict, replace

from resnet_xf.errors import BenchError
from resnet_xf.speed.bench.case import OURS, Case
from resnet_xf.speed.bench.statistics import Rate, Ratio, Speed, ratio, speed, unpaired
from resnet_xf.support.documents import Document, Struct


class Prepared(Struct, frozen=True, kw_only=True):
    """How a case's network was made ready for timing, and the errors of its outputs against float64.

    Attributes:
        version: the framework's version.
        steps: what was done to make the network fast, in order.
        build, first: seconds to build the network, then to its first outputs (compilation included).
        error: the largest error of the outputs against those in float64, relative to the largest output.
        agreement: the share of images with the reference's top-1 class, 0 to 1.
        threads: how many threads the framework says it uses.
    """

    version: str
    steps: tuple[str, ...]
    build: float
    first: float
    error: float
    agreement: float
    threads: int


Launch = Annotated[dict[int, Rate], Meta(min_length=1, max_length=1000)]
"""Images per second in one start of the processes, by the number of the turn."""


class Result(Prepared, frozen=True, kw_only=True):
    """What was measured of one case, in one or more launches (starts of its process).

    ``error`` and ``agreement`` are the worst of all launches; ``build``, ``first`` and ``warm_up`` are those of the
    first launch, which finds nothing compiled.

    Attributes:
        warm_up: seconds of the warm-up, until it got no faster.
        speed: images per second: median and quartiles over all turns.
        rates: for each launch, the images per second by the turn's number. Cases ran one after the other in a turn.
        share: the network's operations per second as a share of those of the machine's fastest matrix product in this
            precision, 0 to 1; None if unknown.
        host_memory, device_memory: the peak in bytes of all launches; None for the device if it is the CPU.
        busy_processors: how many processors were busy on average.
    """

    warm_up: float
    speed: Speed
    rates: Annotated[tuple[Launch, ...], Meta(min_length=1, max_length=1000)]
    share: float | None
    host_memory: int
    device_memory: int | None
    busy_processors: float

    @property
    def by_launch(self) -> list[list[float]]:
        """For each launch, the images per second of each turn."""
        return [list(launch.values()) for launch in self.rates]


NOT_MEASURED = "not measured"
"""How the reason of a row begins if the bench ended before the case was measured."""


class Row(Struct, frozen=True, kw_only=True):
    """A case with its result.

    Attributes:
        case: what was measured.
        result: None if there is none.
        reason: why there is no result.
        failed: whether the case crashed or computed wrong results. False if it only could not be run.
        ratio: the speed relative to the group's :func:`baseline`; None for the baseline itself.
    """

    case: Case
    result: Result | None = None
    reason: str = ""
    failed: bool = False
    ratio: Ratio | None = None

    @property
    def missing(self) -> bool:
        """Whether the bench ended before the case was measured."""
        return self.reason.startswith(NOT_MEASURED)


class BenchReport(Document, frozen=True, kw_only=True):
    """The results of a bench.

    Attributes:
        command: the command line.
        partial: whether the bench ended, or was killed, before all was measured as it was asked for.
        ended: if partial, why: ``the budget of 300 s is spent``, ``stopped by SIGTERM``; ``not finished`` while the
            bench runs, and so if it was killed.
        environment: the machine and its software.
        ceilings: by precision, the most operations per second that any backend reached in a large matrix product.
        rows: one row for each case.
    """

    title = "a bench's report"
    error = BenchError

    command: str = ""
    partial: bool = False
    ended: str = ""
    environment: dict[str, str]
    ceilings: dict[str, float]
    rows: tuple[Row, ...]

    @property
    def failed(self) -> bool:
        """Whether any case crashed or computed wrong results."""
        return any(row.failed for row in self.rows)

    def groups(self) -> Iterator[list[Row]]:
        """Yield the lists of rows that are compared with each other: rows of equal :attr:`Case.group`."""
        for _, rows in groupby(self.rows, key=lambda row: row.case.group):
            yield list(rows)

    def conclusions(self) -> list[str]:
        """Return for each group a sentence that compares the backends' fastest cases in float32, and in any precision.

        Sentences that would say the same again, or have only one backend to compare, are left out.
        """
        return [line for rows in self.groups() for line in _conclusions(rows)]

    def ceilings_in_words(self) -> str:
        """Return the ceilings (fastest matrix products) of all precisions in one line."""
        return ", ".join(f"{flops / 1e9:,.0f} Gflop/s in {name}" for name, flops in self.ceilings.items()) or "none"

    def to_csv(self) -> str:
        """Return the rows as CSV: one line for each case, with the environment in its last columns."""
        text = io.StringIO()
        columns = (*COLUMNS, *self.environment)
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_csv_row(row) | self.environment for row in self.rows)
        return text.getvalue()


COLUMNS = (
    *("network", "library", "backend", "mode", "preset", "precision", "batch", "height", "width", "device", "threads"),
    *("images_per_second", "lower_quartile", "upper_quartile", "rounds", "launches"),
    *("ratio", "ratio_low", "ratio_high"),
    *("error", "agreement", "share_of_ceiling", "build_seconds", "first_seconds", "warm_up_seconds"),
    *("host_memory", "device_memory", "busy_processors", "version", "reason"),
)
"""The columns of the CSV before the environment's."""


def _csv_row(row: Row) -> dict[str, object]:
    """Return the values of one line of the CSV, by column; columns without a value are missing."""
    case, result = row.case, row.result
    height, width = case.image_size
    values = asdict(case) | {"network": case.spec.name, "height": height, "width": width, "reason": row.reason}
    if result:
        values |= asdict(result) | {
            "images_per_second": result.speed.median,
            "lower_quartile": result.speed.low,
            "upper_quartile": result.speed.high,
            "rounds": result.speed.rounds,
            "launches": len(result.rates),
            "share_of_ceiling": result.share,
            "build_seconds": result.build,
            "first_seconds": result.first,
            "warm_up_seconds": result.warm_up,
        }
    if row.ratio:
        values |= {"ratio": row.ratio.median, "ratio_low": row.ratio.interval[0], "ratio_high": row.ratio.interval[1]}
    return values


def merged(launches: Sequence[Row]) -> Row:
    """Join the rows of one case, one for each launch, into one.

    If a launch has no result, the row has none and gives its reason. If that is not the first launch, the row also
    counts as failed, since the case ran before.
    """
    results: list[Result] = []
    for number, row in enumerate(launches):
        if row.result is None:
            later = replace(row, failed=True, reason=f"in launch {number + 1}: {row.reason}")
            return later if number else row
        results.append(row.result)
    rates = tuple(rates for result in results for rates in result.rates)
    whole = replace(
        results[0],
        speed=speed([rate for launch in rates for rate in launch.values()]),
        rates=rates,
        error=max(result.error for result in results),
        agreement=min(result.agreement for result in results),
        host_memory=max(result.host_memory for result in results),
        device_memory=max((result.device_memory for result in results if result.device_memory), default=None),
        busy_processors=median(result.busy_processors for result in results),
    )
    return replace(launches[0], result=whole)


def result_ratio(first: Result, second: Result) -> Ratio | None:
    """Return how many times as fast the first is, from the turns in which both ran; None if there are none."""
    numerators: list[list[float]] = []
    denominators: list[list[float]] = []
    for one, two in zip(first.rates, second.rates, strict=False):
        if shared := sorted(one.keys() & two.keys()):
            numerators.append([one[turn] for turn in shared])
            denominators.append([two[turn] for turn in shared])
    return ratio(numerators, denominators) if numerators else None


def baseline(group: Sequence[Row]) -> Row | None:
    """Return the row with which the others of a group are compared: the first with a result; None if none has one."""
    return next((row for row in group if row.result), None)


def measured(rows: Sequence[Row]) -> list[tuple[Case, Result]]:
    """Return the cases that have a result, with it."""
    return [(row.case, row.result) for row in rows if row.result]


def with_ratios(group: Sequence[Row]) -> list[Row]:
    """Return the rows of a group, each with its ratio to the :func:`baseline` if it has a result."""
    first = baseline(group)
    if first is None or first.result is None:
        return list(group)
    return [
        replace(row, ratio=result_ratio(row.result, first.result)) if row.result and row is not first else row
        for row in group
    ]


def _conclusions(rows: Sequence[Row]) -> Iterator[str]:
    """Yield sentences that compare the two fastest backends of a group: in float32, and in any precision.

    Each backend counts with its fastest case of this project.
    """
    ours = [(case, result) for case, result in measured(rows) if case.library == OURS]
    compared = set()
    for scope, precisions in (("in float32", {"float32"}), ("in any precision", {case.precision for case, _ in ours})):
        fastest: dict[str, tuple[Case, Result]] = {}
        for case, result in sorted(ours, key=lambda one: one[1].speed.median):
            if case.precision in precisions:
                fastest[case.backend] = case, result
        if len(fastest) < 2:
            continue
        (case, result), (other, slower), *_ = sorted(fastest.values(), key=lambda one: -one[1].speed.median)
        if (case, other) not in compared and (quotient := result_ratio(result, slower)):
            yield f"{case.group_title}, {scope}: {case} beside {other}: {quotient}"
        compared.add((case, other))


NO_VERDICT = "one launch: no verdict"
"""The verdict on a case that one of two reports measured in a single launch: processes of the same code differ, and one
launch does not tell by how much."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A case that two reports measured: both speeds, and in ``ratio`` how many times as fast the later one is.

    ``verdict`` is the ratio's, or ``NO_VERDICT``.
    """

    case: Case
    before: Speed
    after: Speed
    ratio: Ratio
    verdict: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of two reports, called before and after.

    Attributes:
        changes: the cases that both measured.
        only_before, only_after: the cases that one alone measured, in words.
        environment: what differs between the machines and their software: by name, the values before and after.
        partial: for each report that is partial (``before`` or ``after``), why.
    """

    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    environment: dict[str, tuple[str, str]]
    partial: dict[str, str]


def compare(before: BenchReport, after: BenchReport) -> Comparison:
    """Compare two reports, case by case. A ratio above 1 means that the case is faster in ``after``.

    A case without a result counts as not measured. The two were measured at different times, so the ratios also
    contain whatever else slowed the machine.

    Raises:
        BenchError: if they have no case in common.
    """
    old, new = (dict(measured(report.rows)) for report in (before, after))
    if old.keys().isdisjoint(new):
        raise BenchError(f"no case was measured in both: {_differences(old, new)}; measure both with the same options")
    changes = tuple(_change(case, result, new[case]) for case, result in old.items() if case in new)
    names = dict.fromkeys((*before.environment, *after.environment))
    values = {name: (before.environment.get(name, "none"), after.environment.get(name, "none")) for name in names}
    return Comparison(
        changes=changes,
        only_before=tuple(f"{case.group_title}: {case}" for case in old if case not in new),
        only_after=tuple(f"{case.group_title}: {case}" for case in new if case not in old),
        environment={name: (one, two) for name, (one, two) in values.items() if one != two},
        partial={name: one.ended for name, one in (("before", before), ("after", after)) if one.partial},
    )


def _change(case: Case, before: Result, after: Result) -> Change:
    ratio = unpaired(after.by_launch, before.by_launch)
    verdict = ratio.verdict if ratio.launches > 1 else NO_VERDICT
    return Change(case=case, before=before.speed, after=after.speed, ratio=ratio, verdict=verdict)


def _differences(before: Collection[Case], after: Collection[Case]) -> str:
    """Say in words why two reports have no case in common: in which fields of :class:`Case` they share no value."""
    if not before or not after:
        return "in one of them, nothing was"
    differences = []
    for name in Case.__struct_fields__:
        values = [{getattr(case, name) for case in cases} for cases in (before, after)]
        if values[0].isdisjoint(values[1]):
            first, second = (sorted(getattr(value, "name", str(value)) for value in one) for one in values)
            if first == second:  # specs of one name
                differences.append(f"{name}: what both call {' and '.join(first)} is not the same")
                continue
            differences.append(f"{name} is {' or '.join(first)} in the first and {' or '.join(second)} in the second")
    return ", ".join(differences) or "what each has of backend, preset, precision and batch goes together otherwise"
