"""Several processes on one address, and the one that watches over them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NoReturn

from tollway.bolt.server.recycling import (
    Heritage,
    check_command,
    last_words,
    release_signals,
    take_over,
)
from tollway.bolt.server.serving import AT_ONCE, Link

__all__ = ["NEVER_READY", "Child", "Supervisor", "Terms"]

NEVER_READY: Final = 3
"""The exit code of a child that could not begin to serve: starting it again would not help."""

MOST_DEATHS: Final = 7
"""A place whose processes die that often in a row, with none that has settled, is given up."""

_SHORTEST: Final = 0.1
_LONGEST: Final = 10.0
_NO_ROOM: Final = 2.0
_SETTLED: Final = 30.0
_LAST_GRACE: Final = 5.0
_NEVER: Final = float("inf")
_WATCHED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

Child = Callable[[int, Link], bool]
"""What a child runs, given the number of its place. Returns whether everything in flight was
answered before the end."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How the processes are treated. Times in seconds."""

    grace: float = 30.0
    kill_timeout: float | None = None
    """What a process gets to end before it is killed; None: the grace and five seconds."""
    respawn: bool = True
    """Whether a process that dies is started again."""

    @property
    def patience(self) -> float:
        return self.grace + _LAST_GRACE if self.kill_timeout is None else self.kill_timeout


@dataclass(slots=True)
class Worker:
    """One process."""

    pid: int
    started: float = field(default_factory=time.monotonic)
    kill_at: float = _NEVER


@dataclass(slots=True)
class Slot:
    """A place for a process: the one that serves, and the one that is to take over from it."""

    index: int
    serving: Worker | None = None
    coming: Worker | None = None
    again: float = 0.0
    """When the next one is started, if none serves."""
    deaths: int = 0
    worn: bool = False

    def workers(self) -> list[Worker]:
        return [worker for worker in (self.serving, self.coming) if worker is not None]


class Supervisor:
    """Starts a child in each place, starts the dead again, and stops all of them together.

    A child that dies is replaced after 0.1 s, then 0.2 s … up to 10 s, until one lives for half
    a minute; after seven deaths in a row with no child left that has lived that long, everything
    stops with exit code 1. A child that says it is worn is replaced by one that serves already.

    SIGHUP puts a new program in place of this one, if it would start: its children take over
    from the old ones once they serve. SIGTERM and SIGINT stop everything: the children get
    SIGTERM, the grace and five more seconds, then SIGKILL. A second signal ends them at once.
    """

    def __init__(
        self,
        child: Child,
        listeners: list[int],
        terms: Terms,
        *,
        ready: Callable[[], None],
        say: Callable[[str], None],
        heritage: Heritage | None = None,
    ) -> None:
        self.child = child
        self.listeners = listeners
        self.terms = terms
        self.slots = [Slot(index) for index in range(len(listeners))]
        self.ready = ready
        self.say = say
        self.heritage = heritage or Heritage()
        self.retired: list[Worker] = []
        self.checking: subprocess.Popen[str] | None = None
        self.told = -1
        self.stopping = False
        self.announced = False
        self.exit_code = 0

    def run(self) -> int:
        """Returns the exit code: 0 after an orderly stop, 1 when a child failed or was killed."""
        pipes = self.heritage.pipes or [*os.pipe(), *os.pipe()]
        self.lifeline, self.held, self.messages, self.messages_write = pipes
        self.wakeup, self.wakeup_write = os.pipe()
        for descriptor in (self.messages, self.wakeup, self.wakeup_write):
            os.set_blocking(descriptor, False)
        for descriptor in pipes:
            os.set_inheritable(descriptor, False)
        for slot, pid in zip(self.slots, self.heritage.workers, strict=False):
            slot.serving = Worker(pid) if pid else None
        for pid in self.heritage.retired:
            self.retire(Worker(pid))
        before = {number: signal.signal(number, _nothing) for number in _WATCHED}
        signal.set_wakeup_fd(self.wakeup_write, warn_on_full_buffer=False)
        release_signals()
        try:
            for slot in self.slots:
                slot.coming = self.start(slot)
            while not self.stopping or any(self.alive()):
                self.turn()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
        return self.exit_code

    def alive(self) -> list[Worker]:
        return [*self.retired, *(worker for slot in self.slots for worker in slot.workers())]

    def turn(self) -> None:
        """Wait for the next thing to happen, and see to it."""
        now = time.monotonic()
        waits = [worker.kill_at for worker in self.alive()]
        if not self.stopping:
            waits += [slot.again for slot in self.slots if slot.again > now or not slot.workers()]
        pause = min(waits, default=_NEVER) - now
        timeout = None if pause == _NEVER else max(pause, 0.0)
        found, _, _ = select.select([self.wakeup, self.messages], [], [], timeout)
        if self.messages in found:
            for line in os.read(self.messages, 65_536).decode().splitlines():
                self.heard(line)
        if self.wakeup in found:
            for number in os.read(self.wakeup, 4096):
                self.signalled(number)
        self.reap()
        self.look_after(time.monotonic())

    def signalled(self, number: int) -> None:
        if number == signal.SIGHUP:
            self.check()
        elif number != signal.SIGCHLD:
            self.stop()

    def look_after(self, now: float) -> None:
        """Start what is missing, kill what does not end."""
        self.finish_check()
        for worker in self.alive():
            if now >= worker.kill_at:
                worker.kill_at = _NEVER
                self.exit_code = 1 if self.stopping else self.exit_code
                self.say(f"process {worker.pid} did not end in time: killing it")
                _send(worker, signal.SIGKILL)
        if self.stopping:
            return
        for slot in self.slots:
            if not slot.workers() and now >= slot.again:
                slot.coming = self.start(slot)
        # One at a time: the others go on serving meanwhile.
        if not any(slot.coming for slot in self.slots):
            worn = (slot for slot in self.slots if slot.worn and slot.serving and now >= slot.again)
            for slot in islice(worn, 1):
                slot.coming = self.start(slot)
                slot.worn = slot.coming is None

    def heard(self, line: str) -> None:
        """What a child has to say: that it serves, or that it has served for long enough."""
        pid, _, text = line.partition(" ")
        for slot in self.slots:
            if slot.coming is not None and str(slot.coming.pid) == pid and text == "ready":
                before, slot.serving, slot.coming = slot.serving, slot.coming, None
                slot.worn = False
                if before is not None:
                    self.retire(before)
            elif slot.serving is not None and str(slot.serving.pid) == pid and text != "ready":
                self.say(f"process {pid} is replaced: {text}")
                slot.worn = True
        if not self.announced and all(slot.serving and not slot.coming for slot in self.slots):
            self.announced = True
            self.ready()

    def retire(self, worker: Worker) -> None:
        """Ask a child to stop."""
        worker.kill_at = time.monotonic() + self.terms.patience
        if worker not in self.retired:
            self.retired.append(worker)
        _send(worker, signal.SIGTERM)

    def start(self, slot: Slot) -> Worker | None:
        """A child in a place; None when the system has no room, which is tried again soon."""
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:
            self.say(f"no process can be started: {error.strerror}")
            slot.again = time.monotonic() + _NO_ROOM
            return None
        if pid == 0:
            self.be_child(slot.index)
        return Worker(pid)

    def be_child(self, index: int) -> NoReturn:
        """The child's whole life. It never returns into the code of its parent."""
        code = NEVER_READY
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            # Ctrl-C reaches the whole group; the parent passes it on as SIGTERM.
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            for descriptor in (self.held, self.messages, self.wakeup, self.wakeup_write):
                os.close(descriptor)
            mine = self.listeners[index]
            for descriptor in {*self.listeners} - {mine}:
                # Connections must not wait at a socket that only this process keeps open.
                os.close(descriptor)
            link = Link(self.lifeline, self.messages_write)
            try:
                code = 0 if self.child(index, link) else 1
            except Exception:
                traceback.print_exc()
                code = 1 if link.began else NEVER_READY
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def reap(self) -> None:
        for worker in self.alive():
            try:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = worker.pid, 0
            if pid:
                self.ended(worker, os.waitstatus_to_exitcode(status))

    def ended(self, worker: Worker, code: int) -> None:
        if worker in self.retired:
            self.retired.remove(worker)
            # A child that was told to stop before it could listen to that ends by the signal.
            if self.stopping and code not in (0, -signal.SIGTERM):
                self.exit_code = 1
            return
        slot = next(slot for slot in self.slots if worker in slot.workers())
        was_coming = worker is slot.coming
        if was_coming:
            slot.coming = None
        else:
            slot.serving = None
        if was_coming and slot.serving is not None:
            self.say(f"process {worker.pid} could not take over: the one before it goes on")
        elif code == NEVER_READY:
            self.give_up(f"process {worker.pid} could not begin to serve: stopping")
        elif not self.terms.respawn:
            self.give_up(f"process {worker.pid} ended ({_how(code)}): stopping, as was asked for")
        else:
            self.mourn(slot, worker, code)

    def mourn(self, slot: Slot, worker: Worker, code: int) -> None:
        """Plan for another one, unless that has proved to be hopeless."""
        now = time.monotonic()
        lived = now - worker.started
        slot.deaths = 1 if lived >= _SETTLED else slot.deaths + 1
        settled = any(
            other.serving and now - other.serving.started >= _SETTLED for other in self.slots
        )
        if slot.deaths >= MOST_DEATHS and not settled:
            self.give_up(
                f"process {worker.pid} ended ({_how(code)}), and so did the {slot.deaths - 1} "
                "before it: stopping"
            )
            return
        pause = min(_SHORTEST * 2 ** (slot.deaths - 1), _LONGEST)
        slot.again = now + pause
        if slot.coming is None:
            self.say(f"process {worker.pid} ended ({_how(code)}): another starts in {pause:g} s")

    def give_up(self, why: str) -> None:
        self.say(why)
        self.exit_code = 1
        self.stop()

    def check(self) -> None:
        """Find out, beside everything else, whether the new program would start."""
        if self.stopping or self.checking is not None:
            return
        self.say("checking the program before it is loaded again")
        try:
            self.told, path = tempfile.mkstemp()
            os.unlink(path)
            self.checking = subprocess.Popen(
                check_command(), stdout=subprocess.DEVNULL, stderr=self.told, text=True
            )
        except OSError as error:
            self.say(f"not loaded again, the old program goes on: {error.strerror}")

    def finish_check(self) -> None:
        if self.checking is None or self.checking.poll() is None:
            return
        code, self.checking = self.checking.returncode, None
        with os.fdopen(self.told, errors="replace") as told:
            told.seek(0)
            said = last_words(told.read())
        if self.stopping:
            return
        if code != 0:
            self.say(f"not loaded again, the old program goes on: {said}")
            return
        self.hand_over()

    def hand_over(self) -> None:
        """Become the new program. It starts its own processes beside those there are."""
        for slot in self.slots:
            if slot.coming is not None:
                self.retire(slot.coming)
        heritage = Heritage(
            listeners=self.listeners,
            workers=[slot.serving.pid if slot.serving else 0 for slot in self.slots],
            retired=[worker.pid for worker in self.retired],
            pipes=[self.lifeline, self.held, self.messages, self.messages_write],
        )
        try:
            take_over(heritage)
        except OSError as error:
            self.say(f"not loaded again, the old program goes on: {error}")

    def stop(self) -> None:
        """Ask the children to stop; the second time, tell them to."""
        if self.stopping:
            for worker in self.alive():
                _send(worker, AT_ONCE)
            return
        self.stopping = True
        for slot in self.slots:
            for worker in slot.workers():
                self.retire(worker)
            slot.serving = slot.coming = None


def _send(worker: Worker, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has ended, and will be reaped
        os.kill(worker.pid, number)


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _nothing(number: int, frame: object) -> None:
    """Being there is enough: the number arrives through the wake-up pipe."""
