"""Limits of the server that no attack of the other tests meets, each set to a small value."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.bolt.frames import INITIAL_WINDOW, SETTINGS, frames
from tests.bolt.project import Project, Served
from tests.bolt.wire import Wire, certificate, get, wire
from tests.programs import program

API = """
import asyncio
import threading

from tollway.bolt import BoltAPI, StreamingResponse, UploadFile

api = BoltAPI()
GATE = threading.Event()


@api.get("/ping")
async def ping():
    return {}


@api.get("/slow")
async def slow():
    await asyncio.sleep(0.3)
    return {}


@api.get("/stream")
async def stream():
    async def pieces():
        yield "begun"
        await asyncio.Event().wait()

    return StreamingResponse(pieces())


@api.get("/stream-plain")
async def stream_plain(name: str):
    def pieces():
        yield name
        GATE.wait(10)
        yield "over"

    return StreamingResponse(pieces())


@api.get("/open")
async def open_gate():
    GATE.set()


@api.post("/upload")
async def upload(file: UploadFile):
    return file.size
"""

SMALL = """
DATABASES = {}
BOLT_BACKLOG = 7
BOLT_MAX_HEADERS = 5
BOLT_MAX_HEAD_BYTES = 600
BOLT_MAX_TARGET_BYTES = 64
BOLT_MAX_PART_HEAD_BYTES = 100
BOLT_MAX_STREAMS = 1
BOLT_MAX_SYNC_STREAMING_THREADS = 1
BOLT_CANCEL_ON_HALF_CLOSE = False
BOLT_STREAM_WINDOW_BYTES = 20000
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    project = Project(tmp_path_factory.mktemp("limits"))
    project.write("shop/api.py", API)
    project.settings(SMALL)
    with project.serve() as served:
        yield served


@pytest.mark.parametrize(
    ("inside", "beyond", "status"),
    [
        (get("/ping", "X: y\r\n" * 4), get("/ping", "X: y\r\n" * 5), 431),
        (get("/ping", f"X: {'y' * 500}\r\n"), get("/ping", f"X: {'y' * 600}\r\n"), 431),
        (get("/ping?" + "x" * 58), get("/ping?" + "x" * 59), 414),
    ],
    ids=["headers", "head", "target"],
)
def test_to_the_byte(served: Served, inside: str, beyond: str, status: int) -> None:
    with wire(served.url) as client:
        assert client.send(inside).answer().status == 200
        assert client.send(beyond).answer().status == status


def test_the_queue_of_connections(served: Served) -> None:
    port = served.url.rpartition(":")[2]
    command = [program("ss", "iproute2"), "-ltnH", f"sport = :{port}"]
    told = subprocess.run(command, capture_output=True, text=True)
    # State, waiting, and how many may wait.
    assert told.stdout.split()[:3] == ["LISTEN", "0", "7"]


def test_the_head_of_a_part(served: Served) -> None:
    def form(name: str) -> str:
        lines = f'Content-Disposition: form-data; name="file"; filename="{name}"'
        body = f"--b\r\n{lines}\r\n\r\nabc\r\n--b--\r\n"
        more = "Content-Type: multipart/form-data; boundary=b\r\n"
        length = f"Content-Length: {len(body)}\r\n"
        return f"POST /upload HTTP/1.1\r\nHost: x\r\n{more}{length}\r\n{body}"

    with wire(served.url) as client:
        assert client.send(form("a" * 20)).answer().body == b"3"
        answer = client.send(form("a" * 100)).answer()
        assert answer.status == 422
        assert b"longer than 100 bytes" in answer.body


def begun(client: Wire, text: bytes) -> bool:
    while text not in client.received:
        client.received += client.peer.recv(4096)
    return b" 200 " in client.received


def test_streams(served: Served) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(wire(served.url)) for _ in range(2))
        assert begun(first.send(get("/stream")), b"begun")
        refused = second.send(get("/stream")).answer()
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")


def test_threads_of_plain_streams(served: Served) -> None:
    """The second waits for the one thread, and is served when the first is over."""
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(wire(served.url)) for _ in range(3))
        assert begun(first.send(get("/stream-plain?name=first")), b"first")
        second.send(get("/stream-plain?name=second"))
        second.peer.settimeout(0.3)
        with pytest.raises(TimeoutError):
            begun(second, b"second")
        second.peer.settimeout(15)
        assert third.send(get("/open")).answer().status == 200
        assert begun(first, b"over")
        assert begun(second, b"second")


def test_a_half_closed_client_may_be_waited_for(served: Served) -> None:
    with wire(served.url) as client:
        assert client.send(get("/slow")).half_close().answer().status == 200


def test_the_window_of_a_stream(project: Project) -> None:
    project.write("shop/api.py", API)
    project.settings(SMALL)
    files = certificate(project.folder)
    with (
        project.serve("--tls-cert", str(files[0]), "--tls-key", str(files[1])) as served,
        frames(served, files) as client,
    ):
        told = client.until(SETTINGS)
        assert told is not None
        pairs = dict(struct.iter_unpack(">HI", told))
        assert pairs[INITIAL_WINDOW] == 20_000
