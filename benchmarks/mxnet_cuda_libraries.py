"""Whether NVIDIA's wheels hold every library and symbol that MXNet's CUDA wheel needs, so that no toolkit is needed.

Run ``pip install 'resnet-xf[mxnet-cu117]'`` first, on any x86-64 Linux machine, with or without a GPU. Then
``python benchmarks/mxnet_cuda_libraries.py`` asks ``ldd -r`` for the needs of ``libmxnet.so`` and of NVIDIA's libraries
that are loaded later. It prints what is missing and writes ``benchmarks/results/mxnet_cuda_libraries.json``. The exit
code is 1 if anything is missing except ``libcuda.so.1``, which comes with the driver. With ``--cuobjdump`` it also
counts the machine code in ``libmxnet.so`` for each GPU architecture.
"""

from __future__ import annotations

import argparse
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

from common import RESULTS, write_results

from resnet_xf.support.environment import environment

MODULE = Path(__file__).parent.parent / "backends" / "resnet_xf_mxnet" / "cuda.py"
MXNET = Path("mxnet", "libmxnet.so")
EXTRA = "mxnet-cu117"
DRIVERS_SYMBOL = re.compile(r"cu[A-Z]\w*")
"""Names of the driver's symbols. Those of the other libraries begin with ``cuda``, ``cublas``, ``cudnn``."""


def cuda() -> ModuleType:
    """Import the module that loads the libraries without its package, which imports MXNet."""
    spec = spec_from_file_location("cuda", MODULE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def versions() -> dict[str, str]:
    """The versions of MXNet's and NVIDIA's wheels in the extra."""
    wanted = [line for line in requires("resnet-xf") or () if re.search(f"extra == ['\"]{EXTRA}['\"]", line)]
    names = [re.split(r"[^\w.-]", line)[0] for line in wanted]
    return {name: version(name) for name in sorted(names) if name.startswith(("mxnet", "nvidia"))}


def linked(file: Path, folders: list[Path]) -> tuple[dict[str, str], set[str]]:
    """Run ``ldd -r`` on a shared library: the path of each library that it needs, and the symbols that none defines."""
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
    """Count the pieces of machine code for each GPU architecture, and those of PTX."""
    found = {}
    for kind in ("elf", "ptx"):
        done = subprocess.run([tool, f"--list-{kind}", file], capture_output=True, text=True)
        said = done.stdout + done.stderr
        if done.returncode and "found to extract" not in said:
            sys.exit(f"{tool}: {said.strip()}")
        found[kind] = Counter(re.findall(r"\.(sm_\w+)\.(?:cubin|ptx)$", said, re.MULTILINE))
    return dict(sorted(found["elf"].items())) | {"PTX": found["ptx"].total()}


def measure(site: Path, module: ModuleType) -> dict[str, Any]:
    """List the libraries that are found below the folder ``site``, and those that are missing."""
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
    parser.add_argument("--cuobjdump", help="path of cuobjdump, of CUDA 12 or later")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
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
    write_results(options.out / "mxnet_cuda_libraries.json", result)
    sys.exit(not result["holds"])


if __name__ == "__main__":
    main()
