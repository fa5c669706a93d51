"""When a process has served for long enough, and how a new one takes over from an old one."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Final, NoReturn

__all__ = [
    "Heritage",
    "Wear",
    "check_command",
    "hold_signals",
    "last_words",
    "own_rss",
    "release_signals",
    "start_beside",
    "take_over",
]

_VARIABLE: Final = "TOLLWAY_BOLT_HERITAGE"
_ERROR: Final = re.compile(r"[A-Za-z_][\w.]*(: |$)")
"""How the line of a traceback begins that names the error."""
_HELD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(frozen=True, slots=True)
class Wear:
    """What a process may do before another takes its place. None: as much as it likes."""

    requests: int | None = None
    seconds: float | None = None
    rss: int | None = None
    """In bytes."""

    def reason(self, requests: int, age: float, rss: int) -> str | None:
        """Why the process is to be replaced, if it is."""
        if self.requests is not None and requests >= self.requests:
            return f"{requests} requests served"
        if self.seconds is not None and age >= self.seconds:
            return f"{age:.0f} s old"
        if self.rss is not None and rss >= self.rss:
            return f"{rss // 1_048_576} MiB of memory"
        return None

    def __bool__(self) -> bool:
        return any(bound is not None for bound in (self.requests, self.seconds, self.rss))


def own_rss() -> int:
    """Bytes of memory that this process has now, or had at most where that is not told."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(slots=True)
class Heritage:
    """What a process leaves to the program that takes its place."""

    listeners: list[int] = field(default_factory=list)
    workers: list[int] = field(default_factory=list)
    """The process that serves in each place; 0 where none does."""
    retired: list[int] = field(default_factory=list)
    """The processes that were told to stop."""
    pipes: list[int] = field(default_factory=list)

    @classmethod
    def taken(cls) -> Heritage:
        """What was left to this process; nothing if it is the first."""
        left = os.environ.pop(_VARIABLE, None)
        return cls(**json.loads(left)) if left else cls()

    def environment(self) -> dict[str, str]:
        """The environment for a program that is to inherit."""
        return {**os.environ, _VARIABLE: json.dumps(asdict(self))}

    def descriptors(self) -> list[int]:
        return sorted({*self.listeners, *self.pipes})


def _command() -> list[str]:
    """The command line this process was started with."""
    return [sys.executable, *sys.orig_argv[1:]]


def check_command() -> list[str]:
    """A command that finds out whether the program would start."""
    return [*_command(), "--check"]


def take_over(heritage: Heritage) -> NoReturn:
    """Become the program anew, with the same process id, arguments and sockets.

    Raises OSError when there is no program to become.
    """
    descriptors = heritage.descriptors()
    _inheritable(descriptors, True)
    hold_signals()
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(sys.executable, _command(), heritage.environment())
    except OSError:
        _inheritable(descriptors, False)
        release_signals()
        raise


def start_beside(heritage: Heritage, **more: str) -> subprocess.Popen[bytes]:
    """Start the program beside this process, with the same arguments and sockets."""
    environment = {**heritage.environment(), **more}
    return subprocess.Popen(_command(), env=environment, pass_fds=heritage.descriptors())


def hold_signals() -> None:
    """Keep the signals that come while nobody listens for the program that takes over."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def release_signals() -> None:
    """Somebody listens: deliver the signals that were kept."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)


def last_words(text: str) -> str:
    """What a program said in the end about why it does not start: its error, and the notes."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return "it ended without a word"
    errors = [place for place, line in enumerate(lines) if _ERROR.match(line)]
    error, *notes = lines[errors[-1] if errors else -1 :]
    return ", ".join([error.removeprefix("CommandError: "), *notes])


def _inheritable(descriptors: Iterable[int], value: bool) -> None:
    for descriptor in descriptors:
        os.set_inheritable(descriptor, value)
