"""Runs a reader on damaged files, in a process of its own that is watched: for crashes, hangs, time and memory."""

from __future__ import annotations

import multiprocessing
import random
import resource
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from resnet_xf.errors import LONGEST, ResNetXFError

SECONDS, BYTES = 2.0, 2**30
"""The most processor time and the most memory that one input may take."""

HANG = 30.0
"""Seconds after which an input counts as one that never ends; the machine may be busy."""

Files = dict[str, bytes]
"""The files of one input, by their paths in its folder."""


class Reader(NamedTuple):
    """One reader.

    Attributes:
        name: of the reader.
        share: of all inputs, in percent; less for a reader that takes long.
        prepare: returns a function that makes the damaged files of one input, and one that reads a folder of them.
    """

    name: str
    share: int
    prepare: Callable[[], tuple[Callable[[random.Random], Files], Callable[[Path], object]]]


class Finding(NamedTuple):
    """An input that broke the rule: its seed, and what happened."""

    seed: int
    what: str


@dataclass
class Result:
    """What became of the inputs of one reader."""

    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        return self.read + self.refused + len(self.findings)


def files_of(reader: Reader, seed: int) -> Files:
    """The files of one input."""
    make, _ = reader.prepare()
    return make(random.Random(f"{reader.name}/{seed}"))


def fuzz(reader: Reader, inputs: int, seconds: float, first: int = 0) -> Result:
    """Read inputs ``first``, ``first + 1``, …, until there are so many, or so many seconds have passed."""
    result, began = Result(), time.monotonic()
    context = multiprocessing.get_context("fork")
    at, end = first, first + inputs
    while at < end and time.monotonic() - began < seconds:
        seed = context.Value("q", at - 1, lock=False)
        mine, its = context.Pipe(duplex=False)
        until = began + seconds
        child = context.Process(target=_work, args=(reader, at, end, until, seed, its))
        child.start()
        its.close()
        watched, since = at - 1, time.monotonic()
        ended = False
        while not ended:
            if mine.poll(0.2):
                try:
                    read, refused, slowest, findings = mine.recv()
                except EOFError:
                    break
                result.read += read
                result.refused += refused
                result.slowest = max(result.slowest, slowest)
                result.findings += findings
                ended = True
            elif seed.value != watched:
                watched, since = seed.value, time.monotonic()
            elif time.monotonic() - since > HANG:
                child.kill()
        child.join()
        if not ended:  # it died, and took the counts with it; the inputs before count as refused
            how = f"hung for {HANG:g} seconds" if child.exitcode == -9 else f"died with exit code {child.exitcode}"
            result.refused += max(0, seed.value - at)
            result.findings.append(Finding(seed.value, how))
        at = seed.value + 1
    result.seconds = time.monotonic() - began
    return result


def _work(reader: Reader, at: int, end: int, until: float, seed: Any, pipe: Any) -> None:
    """Read inputs until the time is over or memory ran out, and send the counts; this is the child."""
    result = Result()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        read = prepared(reader, Path(name), result)
        for number in range(at, end):
            if time.monotonic() > until:
                break
            seed.value = number
            if not read(number):
                break
    pipe.send((result.read, result.refused, result.slowest, result.findings))


def prepared(reader: Reader, folder: Path, result: Result) -> Callable[[int], bool]:
    """Return a function that reads the input of a seed and counts it; it returns whether memory can still be measured."""
    make, read = reader.prepare()
    old: set[str] = set()

    def find(seed: int, what: str) -> None:
        result.findings.append(Finding(seed, what))

    def one(seed: int) -> bool:
        _write(folder, make(random.Random(f"{reader.name}/{seed}")), old)
        began, memory = time.process_time(), _peak()
        try:
            read(folder)
            result.read += 1
        except ResNetXFError as error:
            result.refused += 1
            if not str(error).isprintable() or len(str(error)) > LONGEST:
                find(seed, f"unprintable: {str(error)[:200]!a}")
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            find(seed, f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {str(error)[:200]!a}")
        took, more = time.process_time() - began, _peak() - memory
        result.slowest = max(result.slowest, took)
        if took > SECONDS:
            find(seed, f"took {took:.1f} s")
        if more > BYTES:
            find(seed, f"took {more / 2**30:.1f} GiB")
        return more <= BYTES

    return one


def _write(folder: Path, files: Files, old: set[str]) -> None:
    """Write an input's files in place of the last one's, whose paths ``old`` holds."""
    for path in old - files.keys():
        (folder / path).unlink()
    for path, data in files.items():
        if path not in old:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with open(f"{folder}/{path}", "wb") as file:
            file.write(data)
    old.clear()
    old.update(files)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(results: dict[str, Result]) -> Iterator[str]:
    """The results as lines of Markdown."""
    yield "| reader | inputs | read | refused | findings | inputs/s | slowest |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, one in results.items():
        rate = one.inputs / max(one.seconds, 1e-9)
        yield (
            f"| {name} | {one.inputs:,} | {one.read:,} | {one.refused:,} | {len(one.findings)} | {rate:,.0f} "
            f"| {one.slowest:.2f} s |"
        )
    total = Result(
        sum(one.read for one in results.values()),
        sum(one.refused for one in results.values()),
        sum(one.seconds for one in results.values()),
        max(one.slowest for one in results.values()),
        [finding for one in results.values() for finding in one.findings],
    )
    yield (
        f"| all | {total.inputs:,} | {total.read:,} | {total.refused:,} | {len(total.findings)} "
        f"| {total.inputs / max(total.seconds, 1e-9):,.0f} | {total.slowest:.2f} s |"
    )
