"""The progress bar of every command that takes long."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from tqdm import tqdm


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """A bar on stderr, shown only where stderr is a terminal, from its first update until the block ends."""

    def __init__(self) -> None:
        self._bar: Any = None

    def update(self, done: float, total: float, text: str) -> None:
        """Show how much of the total is done, and what is going on; a total of 0 means that it is not known."""
        if self._bar is None:
            shape = "{percentage:3.0f}%|{bar:24}| {elapsed}  {desc}"
            self._bar = tqdm(bar_format=shape, leave=False, disable=None)
        self._bar.total, self._bar.n = total, done
        self._bar.set_description_str(text)

    def stop(self) -> None:
        """Remove the bar, so that a line can be printed; the next update shows it again."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __exit__(self, *error: object) -> None:
        self.stop()
