"""``python -m tests.fuzz``: read damaged files with every reader, for as long as asked, and print a table.

Exit code 1 if an input broke the rule. ``--only NAME --first SEED --inputs 1 --save FOLDER`` saves one input's files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .engine import files_of, fuzz, table
from .readers import READERS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="inputs for all readers together")
    parser.add_argument("--seconds", type=float, default=1e9, help="seconds for each reader, at most")
    parser.add_argument("--first", type=int, default=0, help="seed of the first input")
    parser.add_argument("--only", default="", help="names of readers, by comma")
    parser.add_argument("--save", type=Path, help="write the files of the first input here, and read nothing")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [reader.name for reader in READERS]
    results = {}
    for reader in (reader for reader in READERS if reader.name in names):
        if options.save:
            for path, data in files_of(reader, options.first).items():
                (options.save / path).parent.mkdir(parents=True, exist_ok=True)
                (options.save / path).write_bytes(data)
            continue
        results[reader.name] = fuzz(
            reader, max(1, options.inputs * reader.share // 100), options.seconds, options.first
        )
        for finding in results[reader.name].findings[:10]:
            print(f"{reader.name} {finding.seed}: {finding.what}", file=sys.stderr, flush=True)
    if results:
        print("\n".join(table(results)))
    sys.exit(any(one.findings for one in results.values()))


if __name__ == "__main__":
    main()
