"""The three servers of the demonstration: started, waited for, and always stopped."""

import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
HOST = "127.0.0.1"
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 10.0
PR_SET_PDEATHSIG = 1


class Unready(Exception):
    """A server cannot start or does not answer; the text is one for people."""


@dataclass(frozen=True)
class Door:
    """One way in: its name, where it listens, how it starts, and a page without a limit."""

    name: str
    port: int
    command: tuple[str, ...]
    free_path: str

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


def doors(first_port: int) -> list[Door]:
    """Bolt, Django and FastAPI on three ports in a row."""
    bolt, django, fastapi = (str(first_port + offset) for offset in range(3))
    python = sys.executable
    return [
        Door(
            "Bolt",
            int(bolt),
            (python, "manage.py", "runbolt", "--host", HOST, "--port", bolt, "--processes", "1"),
            "/items",
        ),
        Door(
            "Django",
            int(django),
            (
                *(python, "-m", "gunicorn", "project.wsgi", "--bind", f"{HOST}:{django}"),
                *("--workers", "1", "--threads", "4", "--log-level", "warning"),
            ),
            "/items",
        ),
        Door(
            "FastAPI",
            int(fastapi),
            (
                *(python, "-m", "uvicorn", "fastapi_app:app", "--host", HOST, "--port", fastapi),
                # uvicorn believes X-Forwarded-For from 127.0.0.1 unless told not to
                *("--no-proxy-headers", "--no-access-log", "--log-level", "warning"),
            ),
            "/openapi.json",
        ),
    ]


def claim(ports: Sequence[int]) -> None:
    """Raise Unready, naming the port, when one of them is taken."""
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise Unready(
                    f"port {port} on {HOST} cannot be used ({error.strerror.lower()}): stop what "
                    f"listens there, or choose three others with `make demo PORT={port + 1000}`"
                ) from None


def migrate() -> None:
    """Bring the SQLite database up to date; the last migration seeds the table."""
    done = subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise Unready(f"the database could not be migrated:\n{done.stderr.strip()}")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def _running(door: Door, logs: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (logs / f"{door.name.lower()}.log").open("wb") as log:
        child = subprocess.Popen(
            door.command,
            cwd=FOLDER,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        try:
            yield child
        finally:
            _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS_MAX)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _answers(door: Door) -> bool:
    connection = http.client.HTTPConnection(HOST, door.port, timeout=2)
    try:
        connection.request("GET", door.free_path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _await(door: Door, child: subprocess.Popen[bytes], logs: Path) -> None:
    log = logs / f"{door.name.lower()}.log"
    deadline = time.monotonic() + START_SECONDS_MAX
    while not _answers(door):
        if child.poll() is not None or time.monotonic() > deadline:
            state = "stopped at once" if child.poll() is not None else "does not answer"
            last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise Unready(f"the {door.name} server {state}; the end of {log}:\n{last}")
        time.sleep(0.05)


@contextmanager
def serving(wanted: Sequence[Door], logs: Path) -> Iterator[None]:
    """All of `wanted` answering; all of them stopped at the end, however it comes."""
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        children = [stack.enter_context(_running(door, logs)) for door in wanted]
        for door, child in zip(wanted, children, strict=True):
            _await(door, child, logs)
        yield
