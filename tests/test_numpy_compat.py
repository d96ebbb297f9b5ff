"""MXNet is imported in new interpreters. PyTorch is not needed."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=kept | environment,
    )


@pytest.fixture(scope="module")
def imported() -> dict[str, object]:
    """What a process finds after the import."""
    code = """
    import ctypes, importlib.util, json, os, sys, numpy as np
    names, had = set(vars(np)), importlib.util.find_spec("distutils") is not None
    before = {name: vars(np)[name] for name in ("bool", "in1d", "trapz", "round_") if name in vars(np)}
    from resnet_xf_mxnet.numpy_compat import NUMPY_NAMES, mx
    print(json.dumps({
        "threads": ctypes.CDLL("libgomp.so.1").omp_get_max_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "changed": [name for name, value in before.items() if vars(np)[name] is not value],
        "added or gone": sorted(set(NUMPY_NAMES) & (names ^ set(vars(np)))),
        "variable": os.environ.get("OMP_NUM_THREADS"),
        "distutils": not had and "distutils" in sys.modules,
        "sum": float((mx.nd.ones((2, 2)) + 1).asnumpy().sum()),
    }))
    """
    done = run(code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_added_names_are_removed_after_the_import_and_numpys_own_are_left_alone(imported) -> None:
    assert (imported["added or gone"], imported["changed"]) == ([], [])
    assert (imported["variable"], imported["distutils"]) == (None, False)
    assert imported["sum"] == 8


def test_the_import_leaves_the_process_its_threads(imported) -> None:
    assert imported["threads"] == imported["cores"]


def test_a_callers_own_number_of_threads_is_kept() -> None:
    code = """
    import ctypes, os, resnet_xf_mxnet.numpy_compat
    print(ctypes.CDLL("libgomp.so.1").omp_get_max_threads(), os.environ["OMP_NUM_THREADS"])
    """
    assert run(code, OMP_NUM_THREADS="1").stdout.split() == ["1", "1"]


def test_a_missing_libgomp_is_named(tmp_path) -> None:
    (tmp_path / "libgomp.so.1").write_bytes(b"")  # stands before the system's own, and cannot be loaded
    done = run("import resnet_xf; resnet_xf.get_backend('mxnet')", LD_LIBRARY_PATH=str(tmp_path))
    last = done.stderr.strip().splitlines()[-1]
    assert "MXNet needs the system library libgomp.so.1" in last
    assert "apt-get install libgomp1" in last


def test_versions_compare_by_number() -> None:
    from resnet_xf_mxnet.numpy_compat import _Version

    assert _Version("1.26.4") > _Version("1.9")
    assert _Version(np.__version__) >= _Version("1.17")
