"""Each test imports MXNet in a new interpreter. PyTorch is not needed."""

import os
import subprocess
import sys
import textwrap

import numpy as np


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=kept | environment,
    )


def test_the_added_names_are_removed_after_the_import_and_numpys_own_are_left_alone() -> None:
    code = """
    import os, sys, importlib.util, numpy as np
    names, had = set(vars(np)), importlib.util.find_spec("distutils") is not None
    before = {name: vars(np)[name] for name in ("bool", "in1d", "trapz", "round_") if name in vars(np)}
    from resnet_xf_mxnet.numpy_compat import NUMPY_NAMES, mx
    assert all(vars(np)[name] is value for name, value in before.items())
    assert set(NUMPY_NAMES) & set(vars(np)) == set(NUMPY_NAMES) & names
    assert "OMP_NUM_THREADS" not in os.environ
    assert had or "distutils" not in sys.modules
    print((mx.nd.ones((2, 2)) + 1).asnumpy().sum())
    """
    done = run(code)
    assert done.stdout.strip() == "8.0", done.stderr


def test_the_import_leaves_the_process_its_threads() -> None:
    code = """
    import ctypes, os, resnet_xf_mxnet.numpy_compat
    print(ctypes.CDLL("libgomp.so.1").omp_get_max_threads(), len(os.sched_getaffinity(0)))
    """
    threads, cores = run(code).stdout.split()
    assert threads == cores


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
