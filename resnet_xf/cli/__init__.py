"""The command ``resnet-xf``.

Exit codes: 0 all is well; 1 a rung fails, a checkpoint is incomplete, layers differ, no backend is usable or a
measurement fails; 2 wrong use; 3 parity is inconclusive, or a migration is not proven; 70 a bug of resnet-xf; 130 after
Ctrl-C, 143 after SIGTERM, and 141 if nobody reads the output any more; a training saves its checkpoint first.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import traceback
import warnings
from contextlib import nullcontext, suppress

from resnet_xf.cli.application import app
from resnet_xf.errors import ResNetXFError, TrainingStopped, one_line, printable
from resnet_xf.support.parent import connect, report_failure
from resnet_xf.support.signals import SIGPIPE, exit_on_stop_signals

__all__ = ["main"]

PIPE_CLOSED = 128 + SIGPIPE
"""The exit code where the reader of a pipe, as `head`, has closed it (SIGPIPE)."""

BUG = 70
"""The exit code for an exception that this program should have turned into one of its own errors (``EX_SOFTWARE``)."""


def main() -> None:
    """Run the command line; a mistake that its user can mend is one line on stderr and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows another
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of a damaged image, whose error is one line
    # A child ends with its parent. MXNet's servers run no Python that could handle a signal.
    ends_itself = connect() is not None or "DMLC_ROLE" in os.environ
    code = 2
    try:
        with nullcontext() if ends_itself else exit_on_stop_signals():
            app()
    except TrainingStopped as stopped:
        complaint, code = str(stopped), 128 + stopped.signal
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # for which Typer's exit code is 1
            raise
        complaint, code = "", PIPE_CLOSED
    except ResNetXFError as error:
        complaint = str(error)
    except MemoryError as error:
        complaint = f"not enough memory: {error}"
    except OSError as error:
        complaint = f"{error.filename or 'output'}: {error.strerror or error}"
    except Exception as error:
        complaint, code = _save_traceback(error), BUG
    else:
        return
    if code == PIPE_CLOSED:
        _discard_output()
    report_failure(printable(complaint))
    sys.exit(code)


def _discard_output() -> None:
    """Send what is still to be written to stdout nowhere, so that Python does not complain at its end."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.__stdout__.fileno() if sys.__stdout__ else 1)


def _save_traceback(error: Exception) -> str:
    """Write the traceback to a temporary file; return a line that says that this is a bug, and names the file."""
    with tempfile.NamedTemporaryFile("w", prefix="resnet-xf-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(f"{sys.argv}\n")
        traceback.print_exception(error, file=file)
    what = f"{type(error).__name__}: {one_line(error)}"
    return f"this is a bug in resnet-xf, please report it with {file.name}, which has the details: {what}"
