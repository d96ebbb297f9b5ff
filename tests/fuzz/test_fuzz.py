"""A short run of the fuzzer. ``python -m tests.fuzz`` makes a long one."""

from pathlib import Path

import pytest

from .engine import Reader, Result, prepared
from .readers import READERS


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@pytest.mark.filterwarnings("ignore:::PIL")
def test_damaged_files_are_read_or_refused(reader: Reader, tmp_path: Path) -> None:
    result = Result()
    read = prepared(reader, tmp_path, result)
    for seed in range(200 if reader.name not in ("capture", "state_dict") else 40):
        read(seed)
    assert not result.findings
    assert result.read
    assert result.refused
