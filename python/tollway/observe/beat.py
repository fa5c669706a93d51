"""Something that is done again and again beside the requests, in whichever process they are."""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar
from weakref import WeakSet

from tollway.errors import ConfigError

log = logging.getLogger("tollway")
Name = TypeVar("Name")


class Beat:
    """Calls ``step`` every so many seconds in a thread, and once more when it stops.

    A forked child has one of its own, and ``anew`` is called there before it begins: what the
    parent has counted is not the child's. Nothing is left running at exit.
    """

    def __init__(
        self, step: Callable[[], None], every: float, anew: Callable[[], None] | None = None
    ) -> None:
        if not (math.isfinite(every) and every > 0):
            raise ConfigError(f"every is a number of seconds above 0, not {every}")
        self._step = step
        self._every = every
        self._anew = anew
        self._lock = threading.Lock()
        self._begin()
        _beating.add(self)
        atexit.register(self.stop)

    def _begin(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tollway-observe", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        over = self._over
        while not over.wait(self._every):
            self.now()

    def now(self) -> None:
        """Do it now."""
        with self._lock:
            try:
                self._step()
            except Exception:
                log.exception("what is observed could not be told")

    def stop(self) -> None:
        """Do it a last time and no more."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        self.now()
        _beating.discard(self)
        atexit.unregister(self.stop)

    def go_on(self) -> None:
        """In a forked child, where the thread is not."""
        self._lock = threading.Lock()
        if self._anew is not None:
            self._anew()
        self._begin()


def growth(counts: Mapping[Name, int], before: Mapping[Name, int]) -> dict[Name, int]:
    """What came in since; all of it, where counting began anew, as with a limiter."""
    return {
        name: count - (last if (last := before.get(name, 0)) <= count else 0)
        for name, count in counts.items()
    }


_beating: WeakSet[Beat] = WeakSet()


def _after_fork() -> None:
    for beat in list(_beating):
        beat.go_on()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
