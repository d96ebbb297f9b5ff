"""What stands between MXNet and NVIDIA's GPUs; no GPU is needed.

A driver is a shared library that is compiled here and says what GPU it has.
"""

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_xf.errors import BackendError
from resnet_xf_mxnet.cuda import LIBRARIES, Gpu, how_to_install, load_libraries, no_code_for
from resnet_xf_mxnet.numpy_compat import mx

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return flags; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int index) { *device = 40 + index; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    strncpy(name, device == 40 ? "First" : "Second", size);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? (device == 40 ? 9 : 8) : attribute == 76 ? (device == 40 ? 0 : 6) : -1;
    return 0;
}
"""
CPU_BUILD = f"this is MXNet's CPU build; choose --device cpu, or run: {how_to_install('mxnet-cu117')}"
cpu_build = pytest.mark.skipif(mx.runtime.Features().is_enabled("CUDA"), reason="this is MXNet's CUDA build")


def alone() -> str:
    """A PYTHONPATH with which ``cuda`` is the module without its package, which would import MXNet."""
    return os.pathsep.join([str(Path(inspect.getfile(Gpu)).parent), *filter(None, [os.environ.get("PYTHONPATH")])])


def python(code: str, libraries: Path, **environment: str) -> str:
    """What a fresh interpreter prints, or the last line of its error; it finds shared libraries in that folder first."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"LD_LIBRARY_PATH": str(libraries)} | environment,
    )
    return (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1]


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    """The folder of a driver with two GPUs: the First of compute capability 9.0, the Second of 8.6."""
    folder = tmp_path_factory.mktemp("driver")
    if not (compiler := shutil.which("cc")):
        pytest.skip("no C compiler is installed")
    library = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1"]
    subprocess.run([compiler, "-xc", "-", *library], input=DRIVER, text=True, check=True)
    return folder


@pytest.fixture
def no_driver(tmp_path) -> Path:
    """The folder of a driver that cannot be loaded, which stands before the system's own."""
    (tmp_path / "no_driver").mkdir()
    (tmp_path / "no_driver" / "libcuda.so.1").write_bytes(b"")
    return tmp_path / "no_driver"


@pytest.fixture
def distribution(tmp_path) -> Callable[[str], Path]:
    """Makes the folder in which a distribution of MXNet is installed, or so it says."""

    def install(name: str) -> Path:
        info = tmp_path / "site" / f"{name.replace('-', '_')}-1.9.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.9.1\n")
        return info.parent

    return install


@pytest.mark.parametrize("capability", [(5, 0), (6, 1), (7, 5), (8, 0), (8, 6), (8, 9)])
def test_the_wheel_has_code_for(capability: tuple[int, int]) -> None:
    assert no_code_for(Gpu("any", capability)) is None


@pytest.mark.parametrize("capability, told", [((3, 7), "3.7"), ((9, 0), "9.0"), ((10, 0), "10.0"), ((12, 1), "12.1")])
def test_the_wheel_has_no_code_for(capability: tuple[int, int], told: str) -> None:
    assert no_code_for(Gpu("NVIDIA H200", capability)) == (
        "MXNet's last wheel has machine code for compute capabilities 5.0 to 8.9, and this GPU (NVIDIA H200) has "
        f"{told}; choose --device cpu, or move the network to PyTorch with resnet-xf convert"
    )


def test_the_driver_is_asked_for_its_gpus(driver: Path) -> None:
    assert python("from cuda import gpus; print(gpus())", driver, PYTHONPATH=alone()) == str(
        [Gpu("First", (9, 0)), Gpu("Second", (8, 6))]
    )


def test_without_a_driver_there_are_no_gpus(no_driver: Path) -> None:
    assert python("from cuda import gpus; print(gpus())", no_driver, PYTHONPATH=alone()) == "[]"
    find = "from resnet_xf_mxnet.learner import find_device; print(find_device('auto')); find_device('cuda')"
    assert "BackendError: mxnet sees 0 GPUs on this machine" in python(find, no_driver)


@pytest.fixture(scope="module")
def told(driver: Path) -> dict[str, dict[str, object]]:
    """What a process with that driver says of each device, and what ``doctor`` says there."""
    code = """
import json, resnet_xf
from resnet_xf.backend.doctor import here
from resnet_xf_mxnet.learner import find_device
told = {}
for name in ("cpu", "auto", "cuda", "cuda:1", "cuda:2"):
    try:
        told[name] = str(find_device(name))
    except resnet_xf.errors.BackendError as error:
        told[name] = str(error)
print(json.dumps({"devices": told, "doctor": json.loads(here("mxnet"))}))
"""
    return json.loads(python(code, driver))


@cpu_build
def test_a_device_that_mxnet_cannot_use_is_refused_with_the_reason(told) -> None:
    assert told["devices"] == {
        "cpu": "cpu(0)",
        "auto": "cpu(0)",
        "cuda": no_code_for(Gpu("First", (9, 0))),
        "cuda:1": CPU_BUILD,
        "cuda:2": "mxnet sees 2 GPUs on this machine, so there is no cuda:2; choose cpu",
    }


@cpu_build
def test_doctor_tells_why_gpus_are_not_used(told) -> None:
    assert told["doctor"]["usable"]
    assert told["doctor"]["devices"] == [
        "cpu",
        f"not cuda:0: {no_code_for(Gpu('First', (9, 0)))}",
        f"not cuda:1: {CPU_BUILD}",
    ]


def shared_library() -> Path:
    """A small one that is loaded already; a copy of it is loaded once more."""
    places = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return Path(next(place for place in places if "/libm.so" in place or "/libm-" in place))


def loaded(*parts: str) -> bool:
    return any(os.path.join(*parts) in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.skipif(sys.platform != "linux", reason="the CUDA build is for Linux alone")
class TestLibraries:
    def install(self, folder: Path, library: str) -> None:
        (folder / "nvidia" / library).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shared_library(), folder / "nvidia" / library)

    def test_they_are_loaded_from_the_first_folder_that_has_them(self, tmp_path) -> None:
        early, late = tmp_path / "early", tmp_path / "late"
        self.install(early, "cufft/lib/libcufft.so.10")
        self.install(late, "cufft/lib/libcufft.so.10")
        self.install(late, "curand/lib/libcurand.so.10")
        folders = [str(tmp_path / "none"), str(early), str(late)]
        load_libraries(["cufft/lib/libcufft.so.10", "curand/lib/libcurand.so.10"], folders)
        assert loaded(str(early), "nvidia/cufft/lib/libcufft.so.10")
        assert not loaded(str(late), "nvidia/cufft/lib/libcufft.so.10")
        assert loaded(str(late), "nvidia/curand/lib/libcurand.so.10")

    def test_the_systems_own_stand_in(self, tmp_path) -> None:
        load_libraries([f"any/lib/{shared_library().name}"], [str(tmp_path)])
        with pytest.raises(BackendError, match="libm.so.none"):
            load_libraries(["any/lib/libm.so.none"], [str(tmp_path)])

    def test_all_that_are_missing_or_broken_are_named(self, tmp_path) -> None:
        self.install(tmp_path, "cufft/lib/libcufft.so.10")
        self.install(tmp_path, "cublas/lib/libbroken.so.11")
        (tmp_path / "nvidia/cublas/lib/libbroken.so.11").write_bytes(b"")
        with pytest.raises(BackendError) as told:
            load_libraries(
                ["cublas/lib/libbroken.so.11", "cufft/lib/libcufft.so.10", "nccl/lib/libmissing.so.2"], [str(tmp_path)]
            )
        assert "MXNet's CUDA build needs libraries that cannot be loaded" in told.value.problem
        assert "libbroken.so.11: file too short; libmissing.so.2: cannot open" in told.value.problem
        assert "cufft" not in told.value.problem
        assert told.value.mend == how_to_install("mxnet-cu117")

    def prepare(self, site: Path, libraries: Path) -> str:
        """What an import of MXNet begins with, where only that folder's distributions are installed."""
        code = f"import sys, cuda; sys.path[:] = [{str(site)!r}]; print(cuda.prepare())"
        return python(code, libraries, PYTHONPATH=alone()).removeprefix("resnet_xf.errors.BackendError: ")

    def test_mxnet_for_the_cpu_needs_neither_driver_nor_libraries(self, distribution, no_driver: Path) -> None:
        assert self.prepare(distribution("mxnet"), no_driver) == "None"

    def test_mxnet_for_gpus_needs_the_driver(self, distribution, no_driver: Path) -> None:
        told = self.prepare(distribution("mxnet-cu117"), no_driver)
        assert told.startswith("MXNet's CUDA build needs the NVIDIA driver (")
        assert told.endswith(f"install that, or MXNet's CPU build; run: {how_to_install('mxnet')}")

    def test_mxnet_for_gpus_needs_its_libraries(self, distribution, driver: Path) -> None:
        site = distribution("mxnet-cu117")
        for library in LIBRARIES[1:]:
            self.install(site, library)
        missing = self.prepare(site, driver)
        assert "(libcudart.so.11.0: cannot open shared object file" in missing
        assert "libcublas" not in missing
        self.install(site, LIBRARIES[0])
        assert self.prepare(site, driver) == "None"

    def test_two_distributions_at_once_are_refused(self, distribution, no_driver: Path) -> None:
        distribution("mxnet")
        path = os.pathsep.join([str(distribution("mxnet-cu117")), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        told = python("import resnet_xf; resnet_xf.get_backend('mxnet')", no_driver, PYTHONPATH=path)
        assert (
            "BackendError: mxnet and mxnet-cu117 are both installed, and one has overwritten the other's files" in told
        )
        assert told.endswith(f"; run: {how_to_install('mxnet-cu117')}")


def test_the_install_line_takes_the_other_build_away() -> None:
    line = how_to_install("mxnet-cu117")
    assert line.startswith("pip uninstall -y mxnet mxnet-cu117 && ")
    assert line.endswith(" && pip install 'resnet-xf[mxnet-cu117]'")
    assert ("--no-deps mxnet-cu117==1.9.1" in line) == (sys.version_info >= (3, 13))
