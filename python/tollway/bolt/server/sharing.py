"""Where several processes of one server count together when nobody said where."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["segment", "shared_url"]

_FOLDER: Final = Path("/dev/shm")
_LEAST_ROOM: Final = 16 * 1024 * 1024
"""Bytes: a few limits of the usual size."""


def shared_url() -> str | None:
    """A segment of shared memory for this server and its processes; None where that cannot be.

    Its name is this process's number, which stays the same when the program is loaded again, among
    those of its container: containers may share the memory, and each begins to number at 1.
    """
    if sys.platform != "linux" or not os.access(_FOLDER, os.W_OK):
        return None
    room = os.statvfs(_FOLDER)
    if room.f_bavail * room.f_frsize < _LEAST_ROOM:
        return None
    try:
        container = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None
    return f"shm://bolt-{container}-{os.getpid()}"


@contextmanager
def segment(url: str | None, fresh: bool) -> Iterator[None]:
    """Removes the counts with the server; before it too, where it is a ``fresh`` one."""
    if url is None:
        yield
        return
    file = _FOLDER / f"tollway-{url.removeprefix('shm://')}"
    if fresh:
        with suppress(FileNotFoundError):
            file.unlink()
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            file.unlink()
