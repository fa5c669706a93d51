"""A folder in which processes keep their numbers, so that each can answer for all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tollway.observe.beat import Beat

#: The sums of processes that are gone.
_GONE = "gone.prom"
#: What says how things stand, and not how often something happened.
_GAUGES = ("tollway_store_waiting", "tollway_breaker_state")


#: What this process has written; a file of its number from before is another's.
_written: set[Path] = set()


class Sharing:
    """This process' part in a folder of numbers."""

    def __init__(self, folder: Path, own: Callable[[], str], every: float) -> None:
        self._folder = folder
        self._own = own
        folder.mkdir(parents=True, exist_ok=True)
        self._beat = Beat(self._write, every)
        self._beat.now()

    def text(self) -> str:
        """The numbers of all processes, this one's as they are now."""
        with self._locked():
            texts = [path.read_text() for path in self._others()]
        return merged([self._own(), *texts])

    def stop(self) -> None:
        """Write the last numbers and no more."""
        self._beat.stop()

    def _write(self) -> None:
        path = self._folder / f"{os.getpid()}.prom"
        new = path.with_suffix(".new")
        new.write_text(self._own())
        with self._locked():
            self._fold()
            new.replace(path)
            _written.add(path)

    def _others(self) -> list[Path]:
        own = f"{os.getpid()}.prom"
        return [path for path in sorted(self._folder.glob("*.prom")) if path.name != own]

    def _fold(self) -> None:
        """Add up what processes left that are gone, so that the folder stays small."""
        gone = [path for path in self._others() if path.name != _GONE and not _lives(path)]
        before_us = self._folder / f"{os.getpid()}.prom"
        if before_us.exists() and before_us not in _written:
            gone.append(before_us)
        if not gone:
            return
        sums = self._folder / _GONE
        texts = [without_gauges(path.read_text()) for path in gone]
        before = [sums.read_text()] if sums.exists() else []
        new = sums.with_suffix(".new")
        new.write_text(merged([*before, *texts]))
        new.replace(sums)
        for path in gone:
            path.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _lives(path: Path) -> bool:
    with suppress(ProcessLookupError, ValueError):
        try:
            os.kill(int(path.stem), 0)
        except PermissionError:
            return True
        return True
    return False


def without_gauges(text: str) -> str:
    """The counters of a text: how things stood with a process that is gone matters no more."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith("#") or not line.startswith(_GAUGES))


def merged(texts: list[str]) -> str:
    """One text of many: counts are added up, and of states the highest is told."""
    families: dict[str, str] = {}
    samples: dict[str, dict[str, float]] = {}
    for text in texts:
        family = ""
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = line.split(" ", 3)[2]
                families.setdefault(family, line)
            elif line.startswith("# TYPE "):
                if line not in families[family]:
                    families[family] += f"\n{line}"
            elif line:
                name, _, number = line.rpartition(" ")
                known = samples.setdefault(family, {})
                if family == "tollway_breaker_state":
                    known[name] = max(known.get(name, 0.0), float(number))
                else:
                    known[name] = known.get(name, 0.0) + float(number)
    lines = []
    for family, head in families.items():
        lines.append(head)
        lines += [f"{name} {_shown(value)}" for name, value in samples.get(family, {}).items()]
    return "\n".join(lines) + "\n"


def _shown(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
