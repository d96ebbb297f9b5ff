"""The errors that a user can cause and mend. Every message is one line that says how."""

import json
from collections.abc import Mapping

LONGEST = 2000
"""The most characters of a message. The middle of a longer one is left out."""


def printable(text: str) -> str:
    """Return a text as one line that is safe to print, with at most ``LONGEST`` characters."""
    return _shortened(escaped(_shortened(text)))


def escaped(text: str) -> str:
    r"""Return a text as one line that is safe to print.

    Line breaks, escape sequences of terminals and signs that turn the direction of writing are escaped as in JSON:
    ``escaped("a\x1b[1m")`` is ``a\u001b[1m``.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST * 2 // 3]} … {text[3 - LONGEST // 3 :]}"


class ResNetXFError(Exception):
    """Base of all errors below. The command line prints one as a line and exits with 2."""

    def __str__(self) -> str:
        """Return the message as one line that is safe to print; names and texts of a file may be in it."""
        return printable(super().__str__())


class SpecError(ResNetXFError, ValueError):
    """A spec is malformed. The message begins with the path of the field, as ``$.stages[1].groups``."""


class ShapeError(ResNetXFError, ValueError):
    """An input does not fit a network. The message begins with the name of the layer."""


class WeightsError(ResNetXFError, ValueError):
    """Weights do not fit a network, or their file cannot be read. The message names the tensors."""


class DataError(ResNetXFError, ValueError):
    """Images cannot be read. The message names the file or folder."""


class BackendError(ResNetXFError, RuntimeError):
    """A backend is unknown, not installed or broken.

    Attributes:
        problem: the message without the mend.
        mend: the command to run, or None where no command helps.
    """

    def __init__(self, message: str, mend: str | None = None) -> None:
        super().__init__(f"{message}; run: {mend}" if mend else message)
        self.problem, self.mend = message, mend


class MissingExtraError(BackendError, ImportError):
    """A framework or an optional library is not installed. ``mend`` is the line of pip that installs it."""


class RecipeError(ResNetXFError, ValueError):
    """A recipe is malformed or does not fit. The message begins with the path of the field."""


class CheckpointError(ResNetXFError, ValueError):
    """A checkpoint of a training run cannot be read, written or used. The message names its file."""


class EvidenceError(ResNetXFError, ValueError):
    """A capture cannot be read, written or compared. The message names its file or field."""


class BenchError(ResNetXFError, ValueError):
    """A measurement is malformed or does not fit. The message names the option, or the file and its field."""


class TrainingError(ResNetXFError, RuntimeError):
    """A training run cannot go on. The message names the step and the last good checkpoint."""


class TrainingStopped(ResNetXFError):  # noqa: N818 - the user asked for it, so it is no error
    """A signal stopped a training run, which has written its checkpoint first. ``signal`` is its number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


def refuse(error: type[ResNetXFError], complaints: Mapping[str, bool]) -> None:
    """Raise ``error`` with the first complaint whose value is true; do nothing if none is.

    ``refuse(DataError, {f"size {size} is not positive": size < 1, f"size {size} is odd": size % 2 == 1})``
    """
    for complaint, is_wrong in complaints.items():
        if is_wrong:
            raise error(complaint)


def one_line(error: Exception) -> str:
    """Return an error's message in one line. MXNet's begin with a traceback: of these, return the last line."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if lines[0].startswith("Traceback") else 0].strip()
