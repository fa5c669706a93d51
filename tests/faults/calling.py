"""Callers of a limiter, and what they saw."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.waiting import wait
from tollway import Decision, Limiter, Policy, StoreUnavailable

MODES = ("open", "closed", "local")
# What the limiters of these tests wait for a server that does not answer.
TIME_OUT = 0.15
# How long a machine with other work may need for what takes a moment.
PATIENCE = 30.0


def limiter_of(url: str | Sequence[str], mode: str, **options: Any) -> Limiter:
    """A limiter that gives up soon and remembers no refusals, so that each call is one."""
    given = {"connect_timeout": TIME_OUT, "command_timeout": TIME_OUT, "near_cache": 0} | options
    backends: Any = url if isinstance(url, str) else list(url)
    return Limiter(backends, fail_mode=mode, **given)


def patient(url: str) -> Limiter:
    """A limiter that fails aloud, and waits longer than a busy machine needs."""
    return limiter_of(url, "closed", connect_timeout=10, command_timeout=10)


@dataclass
class Seen:
    """What callers saw: answers by who gave them, errors, and how long the slowest took."""

    admitted: int = 0
    refused: int = 0
    degraded_admitted: int = 0
    degraded_refused: int = 0
    errors: int = 0
    slowest: float = 0.0
    #: Calls that took at least as long as a time-out.
    slow: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def calls(self) -> int:
        return self.counted + self.degraded + self.errors

    @property
    def counted(self) -> int:
        """Answers of the backend."""
        return self.admitted + self.refused

    @property
    def degraded(self) -> int:
        """Answers that the fail mode gave."""
        return self.degraded_admitted + self.degraded_refused

    def call(self, ask: Callable[[], Decision], slow: float) -> Decision | None:
        """Ask once. Only the documented error may come out, and it is counted."""
        started = time.perf_counter()
        decision = None
        with suppress(StoreUnavailable):
            decision = ask()
        took = time.perf_counter() - started
        with self.lock:
            self.slowest = max(self.slowest, took)
            self.slow += took >= slow
            self.note(decision)
        return decision

    def note(self, decision: Decision | None) -> None:
        """Count one answer, or an error in place of it."""
        if decision is None:
            self.errors += 1
        elif decision.degraded:
            self.degraded_admitted += decision.allowed
            self.degraded_refused += not decision.allowed
        else:
            self.admitted += decision.allowed
            self.refused += not decision.allowed


def ask(
    limiter: Limiter, policy: Policy, times: int, slow: float = PATIENCE, pause: float = 0.0
) -> Seen:
    """Check the key "k" so many times, one after the other."""
    seen = Seen()
    for _ in range(times):
        seen.call(lambda: limiter.check(policy, "k"), slow)
        time.sleep(pause)
    return seen


def recovered(limiter: Limiter, policy: Policy, key: str = "k") -> float:
    """Look, without counting, until the backend itself answers; how long that took."""
    started = time.perf_counter()
    while True:
        seen = Seen()
        seen.call(lambda: limiter.peek(policy, key, 0), PATIENCE)
        took = time.perf_counter() - started
        if seen.counted:
            return took
        assert took < PATIENCE, "the backend is there and is not used"
        time.sleep(0.005)


class Callers:
    """Threads that check one key again and again until they are stopped."""

    def __init__(
        self,
        limiter: Limiter,
        policy: Policy,
        threads: int = 2,
        pause: float = 0.002,
        key: str = "k",
    ) -> None:
        self.limiter, self.policy, self.key = limiter, policy, key
        self.seen = Seen()
        self.failures: list[BaseException] = []
        self._pause = pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.seen.call(lambda: self.limiter.check(self.policy, self.key), PATIENCE)
                self._stop.wait(self._pause)
        except BaseException as error:
            self.failures.append(error)

    def wait_for(self, calls: int) -> None:
        """Wait until so many calls more were answered."""
        aim = self.seen.calls + calls
        wait("the callers go on", lambda: self.seen.calls >= aim or self.failures, PATIENCE)

    def stop(self) -> Seen:
        """What all of them saw. Raises what a check raised that is not documented."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a check that never ends"
        if self.failures:
            raise self.failures[0]
        return self.seen
