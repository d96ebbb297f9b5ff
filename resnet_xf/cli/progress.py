"""The progress bar of every command that takes long."""

from __future__ import annotations

from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """A bar on stderr, shown only where stderr is a terminal, from its first update until the block ends."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        text = TextColumn("{task.description}", markup=False)
        columns = SpinnerColumn(), text, BarColumn(24), TaskProgressColumn(), TimeElapsedColumn()
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("starting", total=None)

    def update(self, done: float, total: float, text: str) -> None:
        """Show how much of the total is done, and what is going on; a total of 0 means that it is not known."""
        self._bar.start()
        self._bar.update(self._task, description=text, completed=done, total=total or None)

    def stop(self) -> None:
        """Remove the bar, so that a line can be printed; the next update shows it again."""
        self._bar.stop()

    def __exit__(self, *error: object) -> None:
        self.stop()
