"""Settings and inputs that several tests share."""

import gc
import os
import signal
from collections.abc import Callable, Iterator

# Before any framework is imported. The processes that run tests share the cores. A value that such a process inherits
# does not count: its parent, which runs no tests, has set it here for itself.
os.environ["OMP_NUM_THREADS"] = str(
    max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
)
os.environ.pop("RESNET_XF_BACKEND", None)

import pytest
from hypothesis import settings

from resnet_xf import ResNetSpec, cli

# A shell that starts the tests in the background lets them ignore Ctrl-C, and so every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("resnet_xf.testing")
settings.register_profile("suite", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """Leave what the imports have made out of garbage collections: it stays, and there is much of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def command(capsys, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: arguments to exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["resnet-xf", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module", autouse=True)
def exported_in_this_process() -> Iterator[None]:
    """Verifications run exported networks here. A module that keeps the real process replaces this fixture."""
    from helpers.exported import running_exported
    from resnet_xf.formats import verify

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "running_exported", running_exported)
        yield


@pytest.fixture(scope="session")
def odd_spec() -> ResNetSpec:
    """A network that no zoo has: stages of 1, 3 and 2 blocks, odd channels, an oblong image."""
    from resnet_xf.testing import SPEC

    return SPEC
