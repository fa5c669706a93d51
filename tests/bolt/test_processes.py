"""Processes that come and go under `manage.py runbolt`: reload, wear, deaths, sockets."""

from __future__ import annotations

import json
import resource
import signal
import socket
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.bolt.load import load
from tests.bolt.project import Project
from tests.bolt.wire import get, wire
from tests.waiting import wait

VERSION = "VERSION = {}\n"

API = """
import asyncio
import os

from shop.version import VERSION
from tollway.bolt import BoltAPI, rate_limit

api = BoltAPI()
HELD = []


@api.get("/version")
async def version():
    return {"version": VERSION, "pid": os.getpid()}


@api.get("/slow")
async def slow(seconds: float = 1.0):
    await asyncio.sleep(seconds)
    return VERSION


@api.get("/limited")
@rate_limit("50/h")
async def limited():
    return os.getpid()


@api.get("/grow")
async def grow():
    HELD.append(b"x" * 40_000_000)
    return len(HELD)


@api.get("/die")
async def die():
    os._exit(9)
"""


@pytest.fixture
def shop(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    # Files change more often here than the time in their compiled form can tell.
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    project.write("shop/api.py", API)
    project.write("shop/version.py", VERSION.format(1))
    project.settings("DATABASES = {}")
    return project


def version(url: str) -> dict[str, int]:
    """Who answers, over a connection of its own."""
    with suppress(OSError, EOFError), wire(url) as client:
        answer = client.send(get("/version", "Connection: close\r\n")).answer()
        found: dict[str, int] = json.loads(answer.body)
        return found
    return {"version": 0, "pid": 0}


def comes(url: str, number: int) -> None:
    """Wait for the code of that version to answer."""
    wait(f"version {number} answers", lambda: version(url)["version"] == number, 30)


def pids(url: str) -> set[int]:
    return {version(url)["pid"] for _ in range(30)} - {0}


@pytest.mark.parametrize(("processes", "reloads"), [("2", 10), ("1", 2)])
def test_no_request_is_lost_over_reloads(shop: Project, processes: str, reloads: int) -> None:
    with shop.serve("--processes", processes) as served, load(served.url) as clients:
        for number in range(2, 2 + reloads):
            shop.write("shop/version.py", VERSION.format(number))
            served.process.send_signal(signal.SIGHUP)
            comes(served.url, number)
            assert not clients.failures
        wait("the clients are answered", lambda: clients.answered > 100, 30)
    assert clients.failures == []
    assert served.process.returncode == 0


def test_a_reload_lets_the_old_finish(shop: Project) -> None:
    with shop.serve("--processes", "2") as served, ThreadPoolExecutor() as threads:
        pending = threads.submit(httpx.get, f"{served.url}/slow?seconds=3", timeout=30)
        time.sleep(0.5)  # it arrives before the signal
        shop.write("shop/version.py", VERSION.format(2))
        served.process.send_signal(signal.SIGHUP)
        comes(served.url, 2)
        assert pending.result().json() == 1
        assert served.stop() == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_code_that_does_not_load_changes_nothing(shop: Project, processes: str) -> None:
    with shop.serve("--processes", processes) as served:
        before = pids(served.url)
        shop.write("shop/version.py", "VERSION = (\n")
        served.process.send_signal(signal.SIGHUP)
        wait("something is said", lambda: any("goes on" in line for line in served.lines), 30)
        assert pids(served.url) == before
        assert any("was never closed" in line for line in served.lines), served.lines
        assert served.stop() == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_reload_that_cannot_be_tried_changes_nothing(shop: Project, processes: str) -> None:
    """The process has all the files open that it may have."""
    with shop.serve("--processes", processes) as served:
        before, pid = pids(served.url), served.process.pid
        usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, usual[1]))
        served.process.send_signal(signal.SIGHUP)
        served.wait_for_line("not loaded again, the old program goes on: ")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        assert pids(served.url) == before
        shop.write("shop/version.py", VERSION.format(2))
        served.process.send_signal(signal.SIGHUP)
        comes(served.url, 2)
        assert served.stop() == 0


FULL = """
import os
from pathlib import Path

DATABASES = {}
fork = os.fork


def fork_if_there_is_room():
    if Path(__file__).with_name("full").exists():
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()


os.fork = fork_if_there_is_room
"""


def test_a_process_that_cannot_be_started_now_is_started_later(shop: Project) -> None:
    shop.settings(FULL)
    full = shop.folder / "site_of_tests" / "full"
    with shop.serve("--processes", "2") as served:
        wait("both processes answer", lambda: len(pids(served.url)) == 2, 30)
        full.touch()
        with suppress(httpx.TransportError):
            httpx.get(f"{served.url}/die")
        served.wait_for_line("no process can be started: Resource temporarily unavailable")
        pid = served.process.pid
        left = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert len(left) == 1, "the other one goes on"
        full.unlink()
        wait("both processes answer again", lambda: len(pids(served.url)) == 2, 30)
        assert served.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "path", "reason"),
    [
        (["--max-requests", "20"], "/version", "requests served"),
        (["--workers-lifetime", "0.5"], "/version", "s old"),
        (["--max-rss", "150"], "/grow", "MiB of memory"),
    ],
)
def test_a_worn_process_is_replaced(
    shop: Project, arguments: list[str], path: str, reason: str
) -> None:
    with shop.serve(*arguments) as served, load(served.url) as clients:
        first = version(served.url)["pid"]
        for _ in range(4):
            with wire(served.url) as client:
                client.send(get(path)).answer()
        wait("it is replaced", lambda: version(served.url)["pid"] not in (0, first), 30)
    assert clients.failures == []
    assert any(reason in line for line in served.lines), served.lines


def test_a_process_that_hangs_is_killed(shop: Project) -> None:
    arguments = ("--processes", "2", "--grace", "60", "--workers-kill-timeout", "0.5")
    with shop.serve(*arguments) as served, ThreadPoolExecutor() as threads:
        pending = threads.submit(httpx.get, f"{served.url}/slow?seconds=50", timeout=60)
        time.sleep(0.5)  # it arrives before the signal
        assert served.stop() == 1
        assert pending.exception() is not None
    assert any("did not end in time" in line for line in served.lines)


def test_a_crash_loop_is_given_up(shop: Project) -> None:
    shop.write(
        "shop/api.py",
        """
        import os
        import threading

        from tollway.bolt import BoltAPI

        api = BoltAPI()

        @api.get("/")
        async def index():
            return None

        os.register_at_fork(after_in_child=lambda: threading.Timer(0.1, os._exit, [7]).start())
        """,
    )
    told = shop.manage("runbolt", "--port", "0", "--processes", "2")
    assert told.returncode == 1
    last = told.stderr.strip().splitlines()[-1]
    assert "(exit code 7), and so did the 6 before it: stopping" in last


def test_the_dead_may_be_left_alone(shop: Project) -> None:
    with shop.serve("--processes", "2", "--no-respawn-failed-workers") as served:
        with suppress(httpx.TransportError):
            httpx.get(f"{served.url}/die")
        assert served.process.wait(timeout=20) == 1
    assert any("exit code 9" in line and "stopping" in line for line in served.lines)


def test_four_processes_admit_exactly_the_limit(shop: Project) -> None:
    with shop.serve("--workers", "4") as served:
        assert len(pids(served.url)) > 1

        def ask(_: int) -> int:
            with wire(served.url) as client:
                return client.send(get("/limited")).answer().status

        with ThreadPoolExecutor(16) as threads:
            codes = list(threads.map(ask, range(200)))
        assert (codes.count(200), codes.count(429)) == (50, 150)
        # Containers that share this memory have the same numbers of processes.
        container = Path("/proc/self/ns/pid").stat().st_ino
        segment = Path(f"/dev/shm/tollway-bolt-{container}-{served.process.pid}")
        assert segment.exists()
        # A reload forgets nothing.
        before = pids(served.url)
        served.process.send_signal(signal.SIGHUP)
        wait("the processes are replaced", lambda: not before & pids(served.url), 30)
        assert ask(0) == 429
        assert served.stop() == 0
    assert not segment.exists()


@pytest.mark.parametrize(
    "arguments",
    [["--unix", "bolt.sock"], ["--bind", "unix:bolt.sock", "--processes", "2"]],
)
def test_a_unix_socket(shop: Project, arguments: list[str]) -> None:
    path = shop.folder / "bolt.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))  # what a server that was killed leaves behind
    stale.close()
    with shop.serve(*arguments, "--unix-mode", "600") as served:
        assert served.url == f"http+unix://{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://shop/version").json()["version"] == 1
            assert client.get("http://shop/limited").status_code == 200
        told = shop.manage("runbolt", *arguments)
        assert told.returncode == 1
        assert f"cannot listen on {path}: another server is listening there" in told.stderr
        assert served.stop() == 0
    assert not path.exists()
    path.write_text("mine")
    told = shop.manage("runbolt", *arguments)
    assert "there is a file that is no socket" in told.stderr
    assert path.read_text() == "mine"


def test_dev_follows_the_files(shop: Project) -> None:
    with shop.serve("--dev") as served:
        assert version(served.url)["version"] == 1
        shop.write("shop/version.py", VERSION.format(2))
        comes(served.url, 2)
        shop.write("shop/version.py", "VERSION = (\n")
        wait(
            "the server has ended",
            lambda: any("the server ended" in line for line in served.lines),
            30,
        )
        with wire(served.url) as patient:
            # Who comes meanwhile waits until the code can be loaded again.
            patient.send(get("/version"))
            shop.write("shop/version.py", VERSION.format(3))
            assert b'"version":3' in patient.answer().body
        assert served.stop() == 0
    assert any("SyntaxError" in line for line in served.lines)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--bind", "8000"], "write it as HOST:PORT or unix:PATH"),
        (["--bind", "a:b"], "write it as HOST:PORT or unix:PATH"),
        (["--bind", "127.0.0.1:0", "--unix", "x"], "give one of them"),
        (["--dev", "--processes", "2"], "leave --processes out"),
        (["--unix", "/nowhere/at/all.sock"], "cannot listen on /nowhere/at/all.sock"),
        (["--unix", "x" * 200], "cannot listen on"),
    ],
)
def test_options_that_cannot_be(shop: Project, arguments: list[str], part: str) -> None:
    told = shop.manage("runbolt", *arguments)
    assert told.returncode == 1
    assert "Traceback" not in told.stderr
    assert part in told.stderr.strip().splitlines()[-1]


def test_bind_and_keep_alive(shop: Project) -> None:
    with (
        shop.serve("--bind", "127.0.0.2:0", "--keep-alive", "0.3", "--backlog", "7") as served,
        wire(served.url) as client,
    ):
        assert served.url.startswith("http://127.0.0.2:")
        assert client.send(get("/version")).answer().status == 200
        assert client.rest() == b""
