"""Clients that leave, files that are not theirs, and the end of a server under load."""

from __future__ import annotations

import json
import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.bolt.project import Project, Served
from tests.bolt.wire import Wire, get, wire
from tests.waiting import wait

API = """
import asyncio
from pathlib import Path

from tollway.bolt import BoltAPI, FileResponse, StreamingResponse

api = BoltAPI()
MARKS = Path(__file__).parent
FILES = MARKS.parent / "files"
LEFT = {"streams": 0, "generators": 0}


@api.get("/ping")
async def ping():
    return {"ok": True}


@api.get("/left")
async def left():
    return LEFT


@api.get("/endless")
async def endless():
    async def pieces():
        held = bytearray(1_000_000)
        try:
            while True:
                yield bytes(held[:100_000])
                await asyncio.sleep(0)
        finally:
            LEFT["streams"] += 1

    return StreamingResponse(pieces())


@api.get("/endless-plain")
async def endless_plain():
    def pieces():
        try:
            while True:
                yield b"x" * 100_000
        finally:
            LEFT["generators"] += 1

    return StreamingResponse(pieces())


@api.get("/slow/{number}")
async def slow(number: int):
    await asyncio.sleep(0.02)
    return number


@api.get("/files/{path:path}")
async def files(path: str):
    return FileResponse(FILES / path)
"""


def build(project: Project) -> Project:
    project.write("shop/api.py", API)
    project.write("files/open.txt", "open")
    project.write("files-of-others/near.txt", "secret")
    project.write("secret.txt", "secret")
    folder = project.folder / "files"
    (folder / "way-out").symlink_to(project.folder / "secret.txt")
    project.settings(f"DATABASES = {{}}\nBOLT_ALLOWED_FILE_PATHS = [{str(folder)!r}]")
    return project


@pytest.fixture
def shop(project: Project) -> Project:
    return build(project)


@pytest.fixture(scope="module")
def files_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with build(Project(tmp_path_factory.mktemp("files"))).serve() as served:
        yield served


def left(served: Served) -> dict[str, int]:
    with wire(served.url) as client:
        found: dict[str, int] = json.loads(client.send(get("/left")).answer().body)
        return found


def have_left(served: Served, count: int) -> bool:
    return sum(left(served).values()) >= count


@pytest.mark.parametrize("path", ["/endless", "/endless-plain"])
def test_streams_end_when_their_clients_go(shop: Project, path: str) -> None:
    """Half of them in the middle of reading, half without having read anything."""
    count = 24
    with shop.serve() as served:
        before, sockets = served.memory(), served.open_sockets()
        for round_ in range(1, 4):
            with ExitStack() as stack:
                clients = [stack.enter_context(wire(served.url)) for _ in range(count)]
                for client in clients:
                    client.send(get(path))
                for client in clients[::2]:
                    received = 0
                    while received < 300_000:
                        received += len(client.peer.recv(65_536))
            wait("all have ended", partial(have_left, served, round_ * count), 15)
        wait("no connection is kept", lambda: served.open_sockets() <= sockets, 15)
        # One such round holds 24 MB; three that were kept would be seen.
        assert served.memory() < before + 40 * 1_048_576


@pytest.mark.parametrize(
    "path",
    [
        "/files/../secret.txt",
        "/files/..%2fsecret.txt",
        "/files/%2e%2e/secret.txt",
        "/files/%2e%2e%2fsecret.txt",
        "/files/..%5csecret.txt",
        "/files/%252e%252e%252fsecret.txt",
        "/files/./../secret.txt",
        "/files//../secret.txt",
        "/files/../files-of-others/near.txt",
        "/files/way-out",
        "/files/way-out/",
        "/files/open.txt/../../secret.txt",
        "/files/%2fetc%2fpasswd",
        "/files//etc/passwd",
        "/files/..%c0%afsecret.txt",
        "/files/%00/../secret.txt",
        "/files/secret.txt%00open.txt",
        "/files/",
        "/files/.",
        "/files/" + "../" * 40 + "etc/passwd",
    ],
)
def test_no_path_leads_out_of_a_folder(files_server: Served, path: str) -> None:
    with wire(files_server.url) as client:
        answer = client.send(get(path)).answer()
        assert 400 <= answer.status < 500, answer
        assert b"secret\n" not in answer.body
        assert b"root:" not in answer.body
        assert client.send(get("/files/open.txt")).answer().body == b"open"


class Asking:
    """A client that asks until the server says that this was the last answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answered = 0
        self.lost: list[str] = []

    def run(self, warm: threading.Barrier) -> None:
        with wire(self.url) as client:
            self.ask(client)
            warm.wait()
            while self.ask(client):
                pass

    def ask(self, client: Wire) -> bool:
        number = self.answered + 1
        try:
            answer = client.send(get(f"/slow/{number}")).answer()
        except (OSError, EOFError) as error:
            self.lost.append(repr(error))
            return False
        if (answer.status, answer.body) != (200, str(number).encode()):
            self.lost.append(f"{answer.status} {answer.body!r}")
        self.answered = number
        return not answer.closes


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sigterm_under_load_loses_no_request(shop: Project, processes: str) -> None:
    count = 16
    with shop.serve("--processes", processes) as served, ThreadPoolExecutor(count) as threads:
        warm = threading.Barrier(count + 1)
        clients = [Asking(served.url) for _ in range(count)]
        running = [threads.submit(client.run, warm) for client in clients]
        warm.wait()
        while sum(client.answered for client in clients) < 10 * count:
            time.sleep(0.01)
        assert served.stop() == 0
        for one in running:
            one.result(timeout=20)
    assert [lost for client in clients for lost in client.lost] == []


def test_the_server_may_open_as_many_files_as_it_needs(shop: Project) -> None:
    """Systems begin with 1,024 files for a process; connections alone need more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 40 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with shop.serve("--processes", "2") as served:
            limits = Path(f"/proc/{served.process.pid}/limits").read_text()
            line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
            assert int(line.split()[3]) == min(most, 11_000)
        shop.settings(f"DATABASES = {{}}\nBOLT_MAX_CONNECTIONS = {min(most, 1_000_000)}")
        with shop.serve() as served:
            assert any("too few for" in line for line in served.lines) == (most < 1_001_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
