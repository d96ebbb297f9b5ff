"""The command ``resnet-xf``.

Exit codes: 0 all holds, 1 parity fails, no backend is usable or a measurement fails, 2 bad use; 128 and the signal's
number where training was asked to stop and has saved its checkpoint.
"""

from __future__ import annotations

import io
import sys

from resnet_xf.cli.application import app
from resnet_xf.errors import ResNetXFError, TrainingStopped
from resnet_xf.support.parent import connect, report_failure

__all__ = ["main"]


def main() -> None:
    """Run the command line; a mistake that its user can mend is one line on stderr and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows another
    connect()
    code = 2
    try:
        app()
    except TrainingStopped as stopped:
        complaint, code = str(stopped), 128 + stopped.signal
    except ResNetXFError as error:
        complaint = str(error)
    except MemoryError as error:
        complaint = f"not enough memory: {error}"
    except OSError as error:
        complaint = f"{error.filename or 'output'}: {error.strerror}"
    else:
        return
    report_failure(complaint)
    sys.exit(code)
