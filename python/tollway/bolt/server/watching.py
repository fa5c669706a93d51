"""``runbolt --dev``: the server starts again whenever a Python file of the project changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from tollway.bolt.server.recycling import Heritage, start_beside

__all__ = ["MOST_FILES", "Watcher", "is_watched", "roots", "snapshot"]

MOST_FILES: Final = 10_000
"""Files that are watched at most; further ones are not looked at."""

_VARIABLE: Final = "TOLLWAY_BOLT_WATCHED"
_PAUSE: Final = 0.3
_PATIENCE: Final = 5.0
_SKIPPED: Final = {"node_modules", "__pycache__", "site-packages"}

Snapshot = dict[str, int]


def is_watched() -> bool:
    """Whether this process is started again by another one when files change."""
    return _VARIABLE in os.environ


def roots(paths: Iterable[Path]) -> list[Path]:
    """The folders to watch: none that is inside another, or that belongs to an installation."""
    installed = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    kept: list[Path] = []
    for path in sorted({path.resolve() for path in paths}, key=lambda path: len(path.parts)):
        inside = any(path.is_relative_to(other) for other in [*kept, *installed])
        if not inside and "site-packages" not in path.parts and path != Path(path.anchor):
            kept.append(path)
    return kept


def snapshot(folders: Iterable[Path]) -> Snapshot:
    """When each Python file was changed last."""
    found: Snapshot = {}
    for folder in folders:
        for path, changed in _files(str(folder)):
            found[path] = changed
            if len(found) >= MOST_FILES:
                return found
    return found


def _files(folder: str) -> Iterator[tuple[str, int]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # it has gone away meanwhile, or is not ours to read
        return
    if any(entry.name == "pyvenv.cfg" for entry in entries):
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _SKIPPED and not entry.name.startswith("."):
                    yield from _files(entry.path)
            elif entry.name.endswith(".py"):
                yield entry.path, entry.stat().st_mtime_ns
        except OSError:
            continue  # it has gone away meanwhile


class Watcher:
    """Runs the server in a process of its own, which ends and starts anew on a change.

    The listening sockets stay open meanwhile. A server that ends by itself, because the code
    cannot be loaded, is started again after the next change.
    """

    def __init__(
        self, folders: list[Path], listeners: list[int], say: Callable[[str], None]
    ) -> None:
        self.folders = folders
        self.listeners = listeners
        self.say = say
        self.stopping = False
        self.child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Returns the exit code, after SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stopped)
        seen = snapshot(self.folders)
        while not self.stopping:
            self.child = start_beside(Heritage(listeners=self.listeners), **{_VARIABLE: "1"})
            seen = self.wait_for_change(seen)
            self.end(self.child)
        return 0

    def wait_for_change(self, seen: Snapshot) -> Snapshot:
        told = False
        while not self.stopping:
            time.sleep(_PAUSE)
            now = snapshot(self.folders)
            if now != seen:
                changed = sorted({path for path, _ in now.items() ^ seen.items()})
                self.say(f"{changed[0]} changed: starting again")
                return now
            if self.child is not None and self.child.poll() is not None and not told:
                told = True
                self.say("the server ended: it starts again when a file changes")
        return seen

    def end(self, child: subprocess.Popen[bytes]) -> None:
        if child.poll() is None:
            child.terminate()
        try:
            child.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def stopped(self, number: int, frame: object) -> None:
        self.stopping = True
