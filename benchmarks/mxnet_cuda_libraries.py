"""Whether MXNet's CUDA wheel finds all that it is linked with in NVIDIA's wheels, so that no toolkit is needed.

After ``pip install 'resnet-xf[mxnet-cu117]'``, on any Linux machine of x86-64, with a GPU or without one,
``python benchmarks/mxnet_cuda_libraries.py`` asks ``ldd -r`` for every library and symbol that ``libmxnet.so`` needs,
and for those of NVIDIA's libraries that are loaded later on. It prints what is missing and writes
``benchmarks/results/mxnet_cuda_libraries.json``. The exit code is 1 if anything is, but for what the NVIDIA driver
brings: ``libcuda.so.1``. With ``--cuobjdump`` it also counts the GPUs' machine codes in ``libmxnet.so``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from importlib.metadata import distribution, requires, version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from resnet_xf.ladder.report.report import environment

RESULTS = Path(__file__).parent / "results"
MODULE = Path(__file__).parent.parent / "backends" / "resnet_xf_mxnet" / "cuda.py"
MXNET = Path("mxnet", "libmxnet.so")
EXTRA = "mxnet-cu117"
DRIVERS_SYMBOL = re.compile(r"cu[A-Z]\w*")
"""As the driver's are called; the runtime's and the other libraries' begin with ``cuda``, ``cublas``, ``cudnn``."""


def cuda() -> ModuleType:
    """The module that loads the libraries, without its package, which would import MXNet."""
    spec = spec_from_file_location("cuda", MODULE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def versions() -> dict[str, str]:
    """The versions of MXNet and of NVIDIA's wheels that the extra asks for."""
    wanted = [line for line in requires("resnet-xf") or () if re.search(f"extra == ['\"]{EXTRA}['\"]", line)]
    names = [re.split(r"[^\w.-]", line)[0] for line in wanted]
    return {name: version(name) for name in sorted(names) if name.startswith(("mxnet", "nvidia"))}


def linked(file: Path, folders: list[Path]) -> tuple[dict[str, str], set[str]]:
    """What ``ldd -r`` says of a shared library: its libraries and where they are, and the symbols that are nowhere."""
    done = subprocess.run(
        ["ldd", "-r", file],
        env=os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, folders))},
        capture_output=True,
        text=True,
        check=True,
    )
    libraries, absent = {}, set()
    for line in (done.stdout + done.stderr).splitlines():
        if at := re.fullmatch(r"\t(\S+) => (.*?)(?: \(0x\w+\))?", line):
            libraries[at[1]] = at[2]
        elif at := re.match(r"undefined symbol: ([^\s,]+)", line):
            absent.add(at[1])
        elif not re.fullmatch(r"\t(\S+ \(0x\w+\)|statically linked)", line):
            absent.add(line.strip())  # a version that a library lacks, say
    return libraries, absent


def machine_codes(tool: str, file: Path) -> dict[str, int]:
    """How many pieces of machine code there are of each GPU architecture, and how many of PTX."""
    found = {}
    for kind in ("elf", "ptx"):
        done = subprocess.run([tool, f"--list-{kind}", file], capture_output=True, text=True)
        said = done.stdout + done.stderr
        if done.returncode and "found to extract" not in said:
            sys.exit(f"{tool}: {said.strip()}")
        found[kind] = Counter(re.findall(r"\.(sm_\w+)\.(?:cubin|ptx)$", said, re.MULTILINE))
    return dict(sorted(found["elf"].items())) | {"PTX": found["ptx"].total()}


def measure(site: Path, module: ModuleType) -> dict[str, Any]:
    """What is found and what is missing, by the folder that MXNet was installed into."""
    loaded = [site / "nvidia" / library for library in module.LIBRARIES]
    folders = sorted({path.parent for path in loaded})
    libraries, absent = linked(site / MXNET, folders)
    found = {name: Path(place).relative_to(site) for name, place in libraries.items() if place.startswith(str(site))}
    missing = [f"{path.relative_to(site)}: no such file" for path in loaded if not path.is_file()]
    missing += [
        f"{place}: {MODULE.name} does not load it"
        for place in found.values()
        if place.parts[0] == "nvidia" and site / place not in loaded
    ]
    drivers = set(filter(DRIVERS_SYMBOL.fullmatch, absent))
    for file in (site / MXNET, *(file for folder in folders for file in sorted(folder.glob("lib*.so.*")))):
        libraries, absent = linked(file, folders)
        absent |= {name for name, place in libraries.items() if place == "not found"} - {module.DRIVER}
        missing += [f"{file.relative_to(site)}: {name}" for name in sorted(absent - drivers)]
    return {
        "found": {name: str(place) for name, place in found.items()},
        "the driver's": sorted(drivers),
        "missing": missing,
        "holds": not missing,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cuobjdump", help="the tool of that name, of CUDA 12 or later")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    site = Path(str(distribution(EXTRA).locate_file("")))
    command = [
        "python",
        "benchmarks/mxnet_cuda_libraries.py",
        *(["--cuobjdump=cuobjdump"] if options.cuobjdump else []),
    ]
    result = {"command": shlex.join(command), "environment": environment(), "versions": versions()}
    result |= measure(site, cuda())
    if options.cuobjdump:
        result["machine code"] = machine_codes(options.cuobjdump, site / MXNET)
    for key, value in result.items():
        print(f"{key}: {value}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "mxnet_cuda_libraries.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    sys.exit(not result["holds"])


if __name__ == "__main__":
    main()
