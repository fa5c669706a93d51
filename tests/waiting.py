"""Waiting in tests, but not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress


def wait(
    what: str,
    holds: Callable[[], object],
    within: float = 60.0,
    told: Callable[[], object] = str,
) -> float:
    """Wait until something holds; the seconds it took. An OSError says that it does not hold yet.

    Raises AssertionError with ``what``, and what is ``told`` then, when it does not within so many
    seconds.
    """
    began = time.monotonic()
    while True:
        with suppress(OSError):
            if holds():
                return time.monotonic() - began
        if time.monotonic() - began > within:
            raise AssertionError(f"waited in vain until {what}\n{told()}".rstrip())
        time.sleep(0.005)
