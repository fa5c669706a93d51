"""Where a run stands: one line on a terminal, one line a case elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.status import Status


class Progress:
    """Shows what is being measured, on standard error."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._status = Status("", console=self._console)
        self._began = time.monotonic()
        self._case = ""

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._status.stop()

    def at(self, section: str, case: str, step: str = "") -> None:
        """What is measured now; `step` changes within a case."""
        passed = time.monotonic() - self._began
        told = f"[{passed:4.0f} s] {section}: {case}"
        if self._console.is_terminal:
            self._status.update(f"{told}{f', {step}' if step else ''}".replace("[", r"\["))
        elif case != self._case:
            print(told, file=sys.stderr, flush=True)
        self._case = case
