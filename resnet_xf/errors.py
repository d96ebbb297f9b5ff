"""The errors that a person can cause and mend; every message is one line that says how."""


def one_line(error: Exception) -> str:
    """What an error says, in one line; of MXNet's, which begin with a traceback, the last line."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if lines[0].startswith("Traceback") else 0].strip()


class ResNetXFError(Exception):
    """Base of all errors below; the command line prints it as one line and exits with 2."""


class SpecError(ResNetXFError, ValueError):
    """A spec is malformed; the message begins with the path of the field, as ``$.stages[1].groups``."""


class ShapeError(ResNetXFError, ValueError):
    """An input does not fit a network; the message begins with the name of the layer."""


class WeightsError(ResNetXFError, ValueError):
    """Named arrays do not fit a network, or their file cannot be read; the message names the tensors."""


class DataError(ResNetXFError, ValueError):
    """Images cannot be read; the message names the file or folder."""


class BackendError(ResNetXFError, RuntimeError):
    """A backend is unknown, not installed or broken; the message says how to get or mend it.

    ``mend`` is the line to run, where one helps.
    """

    def __init__(self, message: str, mend: str | None = None) -> None:
        super().__init__(f"{message}; run: {mend}" if mend else message)
        self.problem, self.mend = message, mend


class RecipeError(ResNetXFError, ValueError):
    """A recipe is malformed or does not fit; the message begins with the path of the field."""


class CheckpointError(ResNetXFError, ValueError):
    """A run's checkpoint cannot be read, written or used; the message names its file."""


class EvidenceError(ResNetXFError, ValueError):
    """A capture cannot be read, written or compared; the message names its file or field."""


class BenchError(ResNetXFError, ValueError):
    """A measurement is malformed or does not fit; the message names the option, or the file and its field."""


class TrainingError(ResNetXFError, RuntimeError):
    """A run cannot go on; the message names the step and the last good checkpoint."""


class TrainingStopped(ResNetXFError):  # noqa: N818 - it was asked for, so it is no error
    """A run was asked to stop by a signal, and has written its checkpoint; ``signal`` is the number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
