"""What is asked of the machine."""

import gc
from contextlib import suppress
from pathlib import Path

import pytest

from resnet_xf.support.environment import Memory, gpus, memory, without_collection

STATISTICS = "anon 400\ninactive_file 300\nactive_file 200\nfile_mapped 50\nworkingset_activate_file 7\n"


def test_a_container_s_page_cache_is_free_memory(monkeypatch) -> None:
    """Of 1,000 bytes 900 are used, and 500 of these can be given back."""
    told = {"max": "1000\n", "current": "900\n", "stat": STATISTICS}
    files = {f"/sys/fs/cgroup/memory.{name}": text for name, text in told.items()}
    files["/proc/meminfo"] = "MemTotal:  9000000 kB\nMemAvailable:  8000000 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda path: files[str(path)])
    assert memory() == Memory(total=1000, free=600)


@pytest.mark.parametrize("visible, number", [(None, 1), ("0", 1), ("", 0), ("-1", 0)])
def test_gpus_that_are_hidden_from_cuda_are_none(monkeypatch, tmp_path, visible: str | None, number: int) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho H100, 550.54, 81559 MiB, 1980 MHz, 1980 MHz, 2619 MHz, 700 W\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.partition(",")[0] for gpu in gpus()] == ["name H100"] * number


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_collected_during_an_import_and_the_callers_choice_stays(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    try:
        with suppress(KeyError), without_collection():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
