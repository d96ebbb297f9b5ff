import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from helpers.bench import CASE, QUICK, SECONDS, case, in_this_process, patched, references_here
from helpers.runs import TINY
from resnet_xf import plan, trace
from resnet_xf.cli import bench as bench_command
from resnet_xf.errors import BenchError, ResNetXFError
from resnet_xf.speed.bench import crew as crew_module
from resnet_xf.speed.bench import engine as engine_module
from resnet_xf.speed.bench import harness as harness_module
from resnet_xf.speed.bench import memory as memory_module
from resnet_xf.speed.bench import worker as worker_module
from resnet_xf.speed.bench.case import Case, cases
from resnet_xf.speed.bench.engine import Engine, WrongError, distinct_images, reference_outputs, sample_crops
from resnet_xf.speed.bench.harness import bench, best_batch
from resnet_xf.speed.bench.memory import check_memory
from resnet_xf.speed.bench.report import BenchReport, compare
from resnet_xf.speed.bench.statistics import ratio, speed, steady, unpaired
from resnet_xf.speed.bench.worker import COMMAND, backend_variables
from resnet_xf.support.environment import Memory, environment, hardware
from resnet_xf_torch.cudagraph import WARM_UP


@pytest.fixture(scope="module", autouse=True)
def quick_processes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "COMMAND", (*COMMAND[:2], QUICK + COMMAND[2]))
        yield


@pytest.fixture
def reference_at_hand(monkeypatch) -> None:
    """Compute the reference outputs in this process. In the tests without this fixture a process of its own does."""
    references_here(monkeypatch)


@pytest.fixture
def here(monkeypatch) -> None:
    """Measure in this process; what is tried is the same. The tests without this fixture start processes."""
    in_this_process(monkeypatch)


@pytest.fixture(scope="module")
def report() -> BenchReport:
    """Real measurements of a tiny network, inference and training, one of them refused."""
    told = []
    wanted = [
        case(),
        case(preset="best", precision="bfloat16", backend="mxnet"),
        case(precision="float16"),
        case(mode="train"),
        case(mode="train", preset="best", precision="bfloat16"),
        case(mode="train", preset="tuned", backend="mxnet"),
    ]
    referees = []
    with pytest.MonkeyPatch.context() as patch:
        start = crew_module.start_referee
        patch.setattr(crew_module, "start_referee", lambda *given: referees.append(given) or start(*given))
        found = bench(wanted, seconds=SECONDS, callback=lambda done, total, text: told.append((done, total, text)))
    assert len(referees) == 1, "one process computes all reference outputs of a network"
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1][0] == told[-1][1] == 6 * 11
    assert [row.case for row in found.rows] == wanted
    return found


def test_every_case_is_measured_and_held_against_float64(report: BenchReport) -> None:
    for row in report.rows:
        if row.case.precision == "float16":
            assert row.result is None
            assert not row.failed
            assert "float16" in row.reason
            continue
        found = row.result
        assert found is not None
        assert found.speed.low <= found.speed.median <= found.speed.high
        assert len(found.rates[0]) == found.speed.rounds == 10
        assert 0 < found.error < {"float32": 1e-5, "bfloat16": 0.05}[row.case.precision]
        assert found.agreement >= 0.75
        assert found.share is None or 0 < found.share < 1
        assert found.host_memory > 2**25
        assert found.device_memory is None
        assert found.first > 0
        assert 0 < found.busy_processors < 4
        assert found.threads == 1
    eager, best = report.rows[0].result, report.rows[1].result
    assert eager is not None
    assert best is not None
    assert eager.steps == ()
    assert best.steps[:3] == ("folded norms", "bfloat16", "hybridized with static memory")
    assert best.steps[3].startswith("MXNET_")
    assert report.ceilings["float32"] > 1e9


def test_rows_are_compared_with_the_first_of_their_group(report: BenchReport) -> None:
    assert [len(group) for group in report.groups()] == [3, 3]
    assert [row.ratio is None for row in report.rows] == [True, False, True, True, False, False]
    row, baseline = report.rows[1], report.rows[0]
    rates = (found.result.by_launch for found in (row, baseline) if found.result)
    assert row.ratio == ratio(*rates)
    said = [line.split(":")[0] for line in report.conclusions()]
    assert said[:2] == [
        "tiny, infer, 12×12, cpu, 1 thread, in any precision",
        "tiny, train, 12×12, cpu, 1 thread, in float32",
    ]
    # What has been said of float32 is not said again, should no other precision be faster.
    assert said[2:] in ([], ["tiny, train, 12×12, cpu, 1 thread, in any precision"])
    assert not report.failed


def test_launches_are_processes_of_each_case(monkeypatch, reference_at_hand) -> None:
    """Memory holds two at a time: what is refused comes last, when the baseline has nobody to take turns with."""
    monkeypatch.setattr(crew_module, "fits_another", lambda runners, case: False)
    told = []
    wanted = [case(), case(preset="tuned"), case(precision="float16")]
    found = bench([*wanted, wanted[0]], seconds=SECONDS, launches=2, callback=lambda *parts: told.append(parts))
    assert told[-1][0] == told[-1][1]
    assert [row.case for row in found.rows] == wanted
    assert sum("getting ready" in text for _, _, text in told) == 5, "what was refused was asked again"
    first, second, _ = (row.result for row in found.rows)
    assert first is not None
    assert second is not None
    assert first.speed.rounds == 10
    assert [sorted(launch) for launch in first.rates] == [list(range(5))] * 2
    assert found.rows[1].ratio == ratio(second.by_launch, first.by_launch)
    assert (found.rows[1].ratio.rounds, found.rows[1].ratio.launches) == (10, 2)


LATER = """import os
flag = pathlib.Path(sys.argv[2] + ".launched")
if pathlib.Path(sys.argv[2]).exists():
    if flag.exists():
        print("the last words", file=sys.stderr, flush=True)
        os.abort()
    flag.touch()"""


def test_a_crash_in_a_later_launch_leaves_no_result(monkeypatch, reference_at_hand) -> None:
    patched(monkeypatch, torch=LATER)
    [row] = bench([case()], seconds=SECONDS, launches=2).rows
    assert row.result is None
    assert row.failed
    assert row.reason == "in launch 2: the process was killed by SIGABRT; its last words: the last words"


def test_a_report_is_read_as_it_was_written(report: BenchReport, tmp_path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report.to_complete_json())
    assert BenchReport.read(path) == report
    lines = report.to_csv().splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("network,library,backend,mode,preset,precision,batch,height,width")
    names = lines[0].split(",")
    assert len(set(names)) == len(names)
    assert lines[1].startswith("tiny,resnet_xf,torch,infer,eager,float32,4,12,12,cpu,1,")


def test_two_reports_side_by_side(report: BenchReport) -> None:
    rows = report.rows[0], replace(report.rows[1], case=case(preset="tuned"))
    twice = [
        msgspec.structs.replace(row.result, rates=({turn: 2 * r for turn, r in row.result.rates[0].items()},))
        for row in rows
    ]  # type: ignore[union-attr]
    later = replace(
        report,
        rows=tuple(replace(row, result=result) for row, result in zip(rows, twice, strict=True)),
        environment=report.environment | {"cpu": "another"},
    )
    found = compare(report, later)
    assert [change.case for change in found.changes] == [CASE]
    assert found.changes[0].ratio.median == pytest.approx(2)
    assert len(found.only_before) == 4
    assert found.only_after == ("tiny, infer, 12×12, cpu, 1 thread: torch tuned float32, batch 4",)
    assert list(found.environment) == ["cpu"]
    with pytest.raises(BenchError, match="no case was measured in both: in one of them, nothing was"):
        compare(report, replace(report, rows=()))
    larger = replace(report, rows=tuple(replace(row, case=replace(row.case, batch=9)) for row in report.rows))
    with pytest.raises(BenchError, match="in both: batch is 4 in the first and 9 in the second; measure both with"):
        compare(report, larger)


def test_specs_of_one_name_that_differ_are_told(report: BenchReport, command, tmp_path) -> None:
    other = replace(TINY, norm_eps=1e-3)
    rows = tuple(replace(row, case=replace(row.case, spec=other)) for row in report.rows)
    paths = tmp_path / "before.json", tmp_path / "after.json"
    for path, one in zip(paths, (report, replace(report, rows=rows)), strict=True):
        path.write_text(one.to_complete_json())
    code, _, complaint = command("bench", "--compare", *paths)
    assert code == 2
    assert "no case was measured in both: spec: what both call tiny is not the same; measure both with" in complaint


def test_a_measurement_that_lacked_processors_is_told(report: BenchReport, capsys) -> None:
    row = report.rows[0]
    assert row.result is not None
    for busy, told in ((0.69, True), (0.71, False)):
        starved = replace(row, result=replace(row.result, busy_processors=busy))
        bench_command._print_notes(replace(report, rows=(starved,)))
        assert ("these say little: torch eager float32, batch 4 (0.7 of 1)" in capsys.readouterr().out) is told


CRASH = "import os\nprint('the last words', file=sys.stderr, flush=True)\nos.abort()"
WRONG = """import resnet_xf.speed.bench.engine as engine
real = engine.native_of
def broken(*given):
    network, steps = real(*given)
    network.fc.weight.data.neg_()
    return network, steps
engine.native_of = broken"""


NORMLESS = """from resnet_xf_mxnet.numpy_compat import mx
mx.gluon.nn.BatchNorm.hybrid_forward = lambda self, F, x, **given: x"""


def test_crashes_and_false_outputs_are_told_and_do_not_end_the_run(monkeypatch, reference_at_hand) -> None:
    """Weights are drawn so that every number matters: a norm with the values that it begins with would not be missed."""
    patched(monkeypatch, tuned=CRASH, bfloat16=WRONG, mxnet=NORMLESS)
    wanted = [case(), case(preset="tuned"), case(precision="bfloat16"), case(backend="mxnet")]
    report = bench(wanted, seconds=SECONDS)
    sound, crashed, wrong, normless = report.rows
    assert report.failed
    assert sound.result is not None
    assert crashed.failed
    assert crashed.reason == "the process was killed by SIGABRT; its last words: the last words"
    for row in (wrong, normless):
        assert row.failed
        assert row.reason.startswith("its outputs are off by ")


FUSED = """from resnet_xf_mxnet.numpy_compat import mx
real = mx.gluon.HybridBlock.hybridize
mx.gluon.HybridBlock.hybridize = lambda self, *a, **k: real(self, *a, **(k | {'backend': 'MKLDNN'}))"""
ZEROS = """import torch
real = torch.Tensor.backward
def zeros(loss, *given, **named):
    real(loss * 0, *given, **named)
torch.Tensor.backward = zeros"""


def test_gradients_that_are_zero_are_no_training(monkeypatch, reference_at_hand) -> None:
    """A Gluon network fused by oneDNN trains so, and says nothing."""
    patched(monkeypatch, mxnet=FUSED, tuned=ZEROS)
    fused, still = bench(
        [case(mode="train", backend="mxnet", preset="best"), case(mode="train", preset="tuned")], seconds=SECONDS
    ).rows
    for row in (fused, still):
        assert row.failed
        assert row.reason == "7 of its gradients are zero, the first is that of conv1.weight"


def test_a_gpu_s_memory_is_told_after_the_steps_that_fill_it(monkeypatch) -> None:
    """A CUDA graph is recorded in these, and what it holds is never given back."""
    one, made, steps = case(mode="train"), engine_module._learner, []
    reference = reference_outputs(one)

    def on_a_gpu(*given: Any) -> Any:
        learner = made(*given)
        take, learner.device = learner.step, "cuda:0"
        learner.step = lambda *batch: steps.append(1) or take(*batch)
        return learner

    monkeypatch.setattr(engine_module, "_learner", on_a_gpu)
    Engine(one).start(reference)
    assert len(steps) > WARM_UP + 1


def test_what_cannot_be_measured_has_a_reason() -> None:
    """What the process of a case sends as its refusal; ``report`` holds a refused case."""
    wanted = {
        case(library="gluon", backend="mxnet"): "the Gluon model zoo has no tiny",
        case(library="torchvision"): "torchvision has no tiny",
        case(device="cuda:99"): "so there is no cuda:99; choose cpu",
        case(mode="train", precision="int8"): "no network is trained in int8; choose bfloat16",
    }
    for row, says in wanted.items():
        with pytest.raises(ResNetXFError, match=re.escape(says)) as refused:
            Engine(row).start(np.zeros((32, 10)))
        assert not isinstance(refused.value, WrongError)
        assert "\n" not in str(refused.value)


def test_peers_are_the_same_networks(here) -> None:
    """Their own, with our weights by their names: loading them is strict, and the referee is our own."""
    spec = replace(plan("resnet18").spec, num_classes=10)
    peers = cases(
        spec, backends=(), peers=("torchvision", "gluon"), presets=("eager",), batch=1, image_size=(32, 32), threads=1
    )
    for row in bench(peers, seconds=SECONDS).rows:
        assert row.result is not None, row.reason
        assert row.result.error < 1e-5
    assert [one.library for one in peers] == ["torchvision", "gluon"]


def test_cases_are_all_combinations_with_low_precision_in_the_fastest_preset_alone() -> None:
    found = cases(
        TINY, backends=("torch", "mxnet"), modes=("infer", "train"), precisions=("float32", "bfloat16"), threads=2
    )
    assert len(found) == 2 * 2 * 3
    assert len(set(found)) == len(found)
    assert {one.preset for one in found if one.precision == "bfloat16"} == {"best"}
    assert found[0].image_size == TINY.image_size
    low = cases(TINY, backends=("torch",), presets=("eager", "best"), precisions=("bfloat16", "float16"), threads=2)
    assert len(low) == 4, "without float32 beside them, low precisions are measured in every preset"


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(monkeypatch) -> None:
    monkeypatch.setattr(memory_module, "memory", lambda: Memory(2**30, 2**30))
    for mode in ("infer", "train"):
        with pytest.raises(BenchError, match=r"batch: to \w+ tiny with 9,000,000 images of 12×12 takes") as refused:
            check_memory(case(mode=mode, batch=9_000_000))
        fits = int(str(refused.value).rpartition("less than ")[2].replace(",", ""))
        check_memory(case(mode=mode, batch=fits - 1))
        with pytest.raises(BenchError):
            check_memory(case(mode=mode, batch=fits + 1))


def test_the_best_batch_is_searched_for_as_long_as_it_fits(monkeypatch, here) -> None:
    rows = trace(TINY, (1, 1, 12, 12))
    largest = max(np.prod(row.output_shape) for row in rows if row.kind == "conv")
    monkeypatch.setattr(memory_module, "memory", lambda: Memory(2**30, int(8 * largest * 3)))
    monkeypatch.setattr(harness_module, "SEARCH", 0.05)
    told = []
    found = best_batch(CASE, lambda done, total, text: told.append(text))
    assert found.batch in (1, 2)
    assert replace(found, batch=CASE.batch) == CASE
    assert sum("images/s" in text for text in told) == 2


@given(st.integers(1, 200))
def test_a_batch_for_training_is_some_images_again_and_again(batch: int) -> None:
    few = distinct_images(batch)
    assert batch % few == 0
    assert few == batch or 8 <= few <= 32


def test_images_are_real_and_different() -> None:
    for channels in (1, 3):
        shown = sample_crops(channels, (16, 24), 9)
        assert shown.shape == (9, channels, 16, 24)
        assert shown.dtype == np.float32
        assert len({image.tobytes() for image in shown}) == 9


RATES = st.lists(st.floats(1, 1e4), min_size=2, max_size=30)


@given(RATES, st.floats(0.1, 10))
def test_a_ratio_is_of_turns(rates: list[float], factor: float) -> None:
    """What slows the machine for both in one turn cancels out."""
    found = ratio([[factor * rate for rate in rates]], [rates])
    assert found.median == pytest.approx(factor)
    assert found.interval == (pytest.approx(factor), pytest.approx(factor))
    found = unpaired([[factor * rate for rate in rates]], [rates])
    assert found.median == pytest.approx(factor)
    assert found.interval[0] <= factor * (1 + 1e-9)
    assert found.interval[1] >= factor * (1 - 1e-9)


def test_verdicts_need_an_interval_without_1() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.normal(100, 5, 20) for _ in range(2)]
    assert ratio([list(noise[0])], [list(noise[1])]).verdict == "no difference shown"
    assert ratio([list(noise[0] * 1.2)], [list(noise[1])]).verdict == "faster"
    assert ratio([list(noise[0] / 1.2)], [list(noise[1])]).verdict == "slower"
    assert speed([1, 2, 3, 4, 5]).median == 3
    with pytest.raises(ValueError, match="rounds: 1 of the one and 2 of the other"):
        ratio([[1.0]], [[1.0, 2.0]])


@given(st.lists(RATES, min_size=1, max_size=4), st.lists(RATES, min_size=1, max_size=4))
def test_two_ways_round_a_ratio_is_inverted(first: list[list[float]], second: list[list[float]]) -> None:
    one, two = unpaired(first, second), unpaired(second, first)
    assert one.median * two.median == pytest.approx(1)
    assert one.interval[0] <= one.interval[1]


def test_what_differs_between_launches_stands_in_the_interval() -> None:
    """Each launch alone is sure of its ratio, and they do not agree."""
    rng = np.random.default_rng(0)
    base = rng.normal(100, 1, (4, 20))
    scale = np.array([0.9, 1.0, 1.05, 1.1])[:, None]
    each = [ratio([list(own)], [list(other)]) for own, other in zip(base * scale, base, strict=True)]
    assert [found.verdict for found in each] == ["slower", "no difference shown", "faster", "faster"]
    found = ratio((base * scale).tolist(), base.tolist())
    assert found.verdict == "no difference shown"
    assert found.interval[0] < 0.97
    assert found.interval[1] > 1.05
    assert found.median == pytest.approx(np.exp(np.log(scale).mean()))


@pytest.mark.parametrize("launches", [2, 3, 4, 8])
def test_an_interval_holds_the_truth_as_often_as_it_says(launches: int) -> None:
    """The same code twice, whose processes differ by 3 % and turns by 1 %."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        found = ratio(
            np.exp(rng.normal(0, 0.03, (launches, 1)) + rng.normal(0, 0.01, (launches, 5))).tolist(),
            [[1.0] * 5] * launches,
        )
        held += found.interval[0] <= 1 <= found.interval[1]
    assert held >= 90


def test_warm_up_ends_when_it_gets_no_faster() -> None:
    assert not steady([1.0, 2.0])
    assert not steady([1, 2, 3, 4, 5, 6])
    assert steady([1, 5, 5, 5])
    assert not steady([1, 1.1, 1.2, 1.3])


def test_the_machine_is_described(monkeypatch) -> None:
    found = environment() | hardware()
    assert {"cpu", "cpu features", "processors", "memory", "torch", "mxnet", "numpy", "python"} <= set(found)
    monkeypatch.setenv("PATH", "")
    assert not any(name.startswith("gpu") for name in hardware())
    assert backend_variables("mxnet", "tuned") == backend_variables("jax", "best") == {}
    for preset in ("best", "max"):
        assert "MXNET_CUDNN_AUTOTUNE_DEFAULT" in backend_variables("mxnet", preset)


def test_the_command(command, tmp_path, here) -> None:
    spec, out, picture = tmp_path / "tiny.json", tmp_path / "out.json", tmp_path / "out.svg"
    spec.write_text(TINY.to_json())
    options = ("--batch", 4, "--threads", 1, "--time", SECONDS, "--preset", "eager", "--out", out, "--plot", picture)
    code, said, _ = command("bench", spec, *options)
    assert code == 0
    assert said.startswith("tiny, infer, 12×12, cpu, 1 thread\n")
    assert "torch eager float32" in said
    assert "mxnet eager float32" in said
    assert "onnx eager float32" in said
    assert "ceiling, a large matrix product: " in said
    assert picture.read_text().startswith("<?xml")
    found = BenchReport.read(out)
    assert found.command.startswith("resnet-xf bench")
    assert found.command.endswith("--preset eager")  # and not where this machine keeps the files
    code, said, _ = command("bench", "--compare", out, out, "--json")
    assert code == 0
    assert [change["ratio"]["median"] for change in json.loads(said)["changes"]] == [1.0, 1.0, 1.0]
    code, said, _ = command("bench", "--compare", out, out)
    assert code == 0
    assert said.count("one launch: no verdict") == 3


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--backend", "jax"), "--backend: nothing is called 'jax'; choose, by comma, from torch, mxnet"),
        (("--precision", "half"), "--precision: nothing is called 'half'"),
        (("--mode", "test"), "--mode: nothing is called 'test'"),
        (("--preset", "fast"), "--preset: nothing is called 'fast'"),
        (("--peers", "keras"), "--peers: nothing is called 'keras'"),
        (("--batch", "many"), "--batch: expected a number of images, 1 or more, or auto; got 'many'"),
        (("--device", "cpu", "--batch", 10**9), "choose less than"),
        (("--time", 0), "time: expected more than 0 seconds, and not for ever, got 0"),
        (("--out", "report.txt"), "report.txt: a report is a .json file"),
        (("--out", "nowhere/report.json"), "nowhere/report.json: there is no folder nowhere; make it first"),
        (("--plot", "plot.bmp"), "plot.bmp: a picture is one of .svg, .png, .pdf"),
        (("--csv", "--json"), "--csv and --json: choose one"),
        (("resnet19",), "resnet19"),
        (("--out", "folder.json"), "folder.json: is a folder; name a file in it"),
        (("--compare", "none.json", "none.json"), "none.json: No such file"),
        (
            ("--compare", "none.json", "none.json", "--out", "new.json"),
            "only prints, as a table or --json; leave out --out",
        ),
        (("resnet18", "--compare", "none.json", "none.json"), "leave out the networks"),
    ],
)
def test_bad_use_is_one_line(command, arguments, says: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()
    code, said, complaint = command("bench", *arguments)
    assert (code, said) == (2, "")
    assert says in complaint
    assert len(complaint.splitlines()) == 1


@pytest.mark.parametrize(
    "option, says",
    [
        ("--time=inf", "time: expected more than 0 seconds, and not for ever, got inf"),
        ("--time=0", "time: expected more than 0 seconds, and not for ever, got 0"),
        ("--budget=-5", "budget: expected more than 0 seconds, got -5.0"),
    ],
)
def test_options_are_refused_before_the_best_batch_is_searched_for(command, monkeypatch, option, says) -> None:
    monkeypatch.setattr(bench_command, "best_batch", lambda *given, **options: pytest.fail("it is searched for"))
    assert command("bench", "cifar_resnet20", "--batch", "auto", option) == (2, "", f"resnet-xf: {says}\n")


def test_a_gpu_that_no_chosen_backend_can_use_is_left_alone(command, monkeypatch) -> None:
    chosen: list[Case] = []

    def measure(cases: list[Case], **options: object) -> None:
        chosen.extend(cases)
        raise BenchError("this is enough")

    monkeypatch.setattr(bench_command, "gpus", lambda: ["H100"])
    monkeypatch.setattr(bench_command, "measure", measure)
    assert command("bench", "cifar_resnet20", "--backend", "onnx", "--preset", "eager")[0] == 2
    assert [one.device for one in chosen] == ["cpu"]


def test_nothing_but_refusals_is_bad_use(command, here) -> None:
    code, _, complaint = command(
        *("bench", "cifar_resnet20", "--backend", "torch,mxnet", "--precision", "float16", "--preset", "best"),
        *("--time", SECONDS),
    )
    assert code == 2
    assert "torch has no float16 that is fast on a CPU" in complaint
    assert "mxnet has no fast float16 on cpu" in complaint
    progress = re.compile(r" *\d+ s  cifar_resnet20_v1, infer, 32×32, cpu, \d+ threads?: \w+ best float16, batch 16: ")
    assert sum(not progress.match(line) for line in complaint.splitlines()) == 1


def test_a_broken_report_is_named_by_file_and_field(command, tmp_path) -> None:
    for text, says in (("{", "$: "), ('{"rows": 3}', "$.rows: "), ("[]", "$: ")):
        path = tmp_path / "broken.json"
        path.write_text(text)
        code, _, complaint = command("bench", "--compare", path, path)
        assert code == 2
        assert f"{path}: {says}" in complaint
        assert len(complaint.splitlines()) == 1
