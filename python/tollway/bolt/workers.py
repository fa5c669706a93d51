"""Several processes on one port, and the one that watches over them."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from tollway.bolt.serving import AT_ONCE

__all__ = ["NEVER_READY", "Child", "Supervisor"]

NEVER_READY: Final = 3
"""The exit code of a child that could not begin to serve: starting it again would not help."""

_SHORTEST: Final = 0.1
_LONGEST: Final = 10.0
_SETTLED: Final = 30.0
_LAST_GRACE: Final = 5.0
_WATCHED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

Child = Callable[[Callable[[], None], int], bool]
"""What a child runs: given what to call when it is ready and the reading end of its lifeline.
Returns whether everything in flight was answered before the end."""


@dataclass(slots=True)
class Slot:
    """One of the processes: running, or waiting to be started again."""

    pid: int = 0
    started: float = 0.0
    again: float = 0.0
    deaths: int = 0


class Supervisor:
    """Starts ``count`` children, starts the dead again, and stops all of them together.

    A child that dies is replaced after 0.1 s, then 0.2 s … up to 10 s, until one lives for half
    a minute. SIGTERM and SIGINT stop everything: the children get SIGTERM and ``grace`` seconds
    (and five more to end), then SIGKILL. A second signal ends them at once.
    """

    def __init__(
        self,
        child: Child,
        count: int,
        *,
        grace: float,
        ready: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self.child = child
        self.slots = [Slot() for _ in range(count)]
        self.grace = grace
        self.ready = ready
        self.say = say
        self.stopping = False
        self.exit_code = 0
        self.deadline = float("inf")
        self.unready = count

    def run(self) -> int:
        """Returns the exit code: 0 after an orderly stop, 1 when a child failed or was killed."""
        self.lifeline, self.held = os.pipe()
        self.readiness, self.readiness_write = os.pipe()
        self.wakeup, self.wakeup_write = os.pipe()
        for descriptor in (self.readiness, self.wakeup, self.wakeup_write):
            os.set_blocking(descriptor, False)
        before = {number: signal.signal(number, _nothing) for number in _WATCHED}
        signal.set_wakeup_fd(self.wakeup_write, warn_on_full_buffer=False)
        try:
            for slot in self.slots:
                self.start(slot)
            while not self.stopping or any(slot.pid for slot in self.slots):
                self.turn()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
        return self.exit_code

    def turn(self) -> None:
        """Wait for the next thing to happen, and see to it."""
        waits = [self.deadline, *(slot.again for slot in self.slots if not slot.pid)]
        pause = min(waits) - time.monotonic()
        readable = [self.wakeup, self.readiness]
        timeout = None if pause == float("inf") else max(pause, 0.0)
        found, _, _ = select.select(readable, [], [], timeout)
        if self.readiness in found:
            self.count_ready(len(os.read(self.readiness, 4096)))
        if self.wakeup in found:
            for number in os.read(self.wakeup, 4096):
                if number != signal.SIGCHLD:
                    self.stop()
        self.reap()
        now = time.monotonic()
        if now >= self.deadline:
            self.kill()
        for slot in self.slots:
            if not self.stopping and not slot.pid and now >= slot.again:
                self.start(slot)

    def count_ready(self, count: int) -> None:
        if self.unready > 0:
            self.unready -= count
            if self.unready <= 0:
                self.ready()

    def start(self, slot: Slot) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        slot.pid = os.fork()
        slot.started = time.monotonic()
        if slot.pid == 0:
            self.be_child()

    def be_child(self) -> NoReturn:
        """The child's whole life. It never returns into the code of its parent."""
        code = NEVER_READY
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            # Ctrl-C reaches the whole group; the parent passes it on as SIGTERM.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for descriptor in (self.held, self.readiness, self.wakeup, self.wakeup_write):
                os.close(descriptor)
            began = False

            def ready() -> None:
                nonlocal began
                began = True
                os.write(self.readiness_write, b"r")

            try:
                code = 0 if self.child(ready, self.lifeline) else 1
            except Exception:
                traceback.print_exc()
                code = 1 if began else NEVER_READY
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def reap(self) -> None:
        for slot in self.slots:
            if slot.pid:
                pid, status = os.waitpid(slot.pid, os.WNOHANG)
                if pid:
                    self.ended(slot, status)

    def ended(self, slot: Slot, status: int) -> None:
        pid, slot.pid = slot.pid, 0
        code = os.waitstatus_to_exitcode(status)
        if self.stopping:
            # A child that was told to stop before it could listen to that ends by the signal.
            if code not in (0, -signal.SIGTERM):
                self.exit_code = 1
            return
        if code == NEVER_READY:
            self.say(f"process {pid} could not begin to serve: stopping")
            self.exit_code = 1
            self.stop()
            return
        lived = time.monotonic() - slot.started
        slot.deaths = 1 if lived >= _SETTLED else slot.deaths + 1
        pause = min(_SHORTEST * 2 ** (slot.deaths - 1), _LONGEST)
        slot.again = time.monotonic() + pause
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.say(f"process {pid} ended ({how}): another starts in {pause:g} s")

    def stop(self) -> None:
        """Ask the children to stop; the second time, tell them to."""
        if self.stopping:
            self.send(AT_ONCE)
            return
        self.stopping = True
        self.deadline = time.monotonic() + self.grace + _LAST_GRACE
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        self.exit_code = 1
        self.deadline = float("inf")
        self.say("some processes did not end in time: killing them")
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        for slot in self.slots:
            if slot.pid:
                os.kill(slot.pid, number)


def _nothing(number: int, frame: object) -> None:
    """Being there is enough: the number arrives through the wake-up pipe."""
