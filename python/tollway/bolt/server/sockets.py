"""Listening sockets: opened once, kept by the first process, shared with those that serve.

A socket that stays open keeps the connections that wait in it, whichever process comes and goes.
"""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from tollway._tollway import listen as native_listen

__all__ = ["SOCKET_MODE", "Place", "allow_files", "opened"]

SOCKET_MODE: Final = 0o660
"""Who may connect to a Unix socket: its owner and its group."""

_OTHER_FILES: Final = 1000
"""What a process may have open beside the connections of its clients."""


def allow_files(connections: int) -> int | None:
    """Let this process and its children have that many connections, as far as the system does.

    Most systems begin with 1,024 open files and allow many more to who asks. Returns how many
    files they allow if those are too few.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most if most < wanted else None


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen: a port of a host, or the path of a Unix socket."""

    host: str = "127.0.0.1"
    port: int = 8000
    path: str | None = None
    mode: int = SOCKET_MODE
    secure: bool = False

    def url(self, listener: socket.socket) -> str:
        """What people open to get here."""
        scheme = "https" if self.secure else "http"
        if self.path is not None:
            return f"{scheme}+unix://{self.path}"
        host, port = listener.getsockname()[:2]
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@contextmanager
def opened(
    place: Place, count: int, backlog: int, inherited: list[int]
) -> Iterator[list[socket.socket]]:
    """A listening socket for each of ``count`` processes.

    They are ``inherited`` from the process that was here before, if there was one. The file of a
    Unix socket goes away with the block.

    Raises OSError with a sentence that says what to do.
    """
    if inherited:
        sockets = [socket.socket(fileno=descriptor) for descriptor in inherited]
        for listener in sockets:
            listener.set_inheritable(False)
    else:
        sockets = _unix(place) if place.path is not None else _tcp(place, count)
    try:
        for listener in sockets:
            listener.listen(backlog)
        # A Unix socket has one queue, from which all processes take.
        yield sockets * count if len(sockets) == 1 else sockets
    finally:
        for listener in sockets:
            listener.close()
        if place.path is not None:
            with suppress(OSError):  # what stays there the next server clears away
                os.unlink(place.path)


def _tcp(place: Place, count: int) -> list[socket.socket]:
    """With one socket for each process the kernel spreads connections over them."""
    # Finds out whether a stranger has the port, and which one when any will do.
    first = socket.socket(fileno=native_listen(place.host, place.port, False))
    if count == 1:
        return [first]
    port = first.getsockname()[1]
    first.close()
    return [socket.socket(fileno=native_listen(place.host, port, True)) for _ in range(count)]


def _unix(place: Place) -> list[socket.socket]:
    path = place.path or ""
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Nobody may connect before the mode is what it is to be.
    before = os.umask(0o177)
    try:
        listener.bind(path)
        os.chmod(path, place.mode)
    except OSError as error:
        listener.close()
        why = "the path is too long" if error.errno is None else error.strerror
        raise OSError(f"cannot listen on {path}: {why}") from error
    finally:
        os.umask(before)
    return [listener]


def _clear(path: str) -> None:
    """Remove what a server that was killed left behind, and nothing else."""
    try:
        kind = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(kind):
        raise OSError(f"cannot listen on {path}: there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            raise OSError(f"cannot listen on {path}: {error.strerror}") from error
    raise OSError(f"cannot listen on {path}: another server is listening there")
