"""Streams, events and files over HTTP/2, to clients that take their time or go away."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h2.events
import httpx
import pytest

from tests.bolt.http2 import Http2
from tests.bolt.project import Project, Served
from tests.bolt.wire import certificate, trusting
from tests.waiting import wait

API = """
import asyncio
from pathlib import Path
from typing import Annotated

from tollway.bolt import (
    BoltAPI, EventSourceResponse, FileResponse, ServerSentEvent, StreamingResponse,
)
from tollway.bolt.params import Header

api = BoltAPI()
gate = asyncio.Event()
PIECE = b"x" * 16_384
made = {"async": 0, "sync": 0}
closed = []


@api.get("/endless/{kind}")
async def endless(kind: str):
    async def later():
        try:
            while True:
                made["async"] += 1
                yield PIECE
        finally:
            closed.append("async")

    def now():
        try:
            while True:
                made["sync"] += 1
                yield PIECE
        finally:
            closed.append("sync")

    return StreamingResponse(later() if kind == "async" else now())


@api.get("/waits")
async def waits():
    async def pieces():
        try:
            yield b"first"
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            closed.append("cancelled")
            raise

    return StreamingResponse(pieces())


@api.get("/told")
async def told():
    return {"made": made, "closed": closed}


@api.get("/fails")
async def fails():
    async def pieces():
        yield b"before"
        raise ValueError("on purpose")

    return StreamingResponse(pieces())


@api.get("/events")
async def events(last_event_id: Annotated[int, Header()] = 0):
    async def ticks():
        yield ServerSentEvent("first", id=last_event_id + 1)
        await gate.wait()
        yield ServerSentEvent("last", id=last_event_id + 2)

    return EventSourceResponse(ticks(), ping=0.05)


@api.get("/open")
async def open_gate():
    gate.set()


@api.get("/shut")
async def shut_gate():
    gate.clear()


@api.get("/words")
def words():
    return StreamingResponse((f"word {n}\\n" for n in range(5000)), media_type="text/plain")


@api.get("/file")
async def file():
    return FileResponse(Path(__file__).parent / "data.bin")
"""
CONTENT = bytes(range(256)) * 2000  # 512 000 bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("http2")


@pytest.fixture(scope="module")
def files(folder: Path) -> tuple[Path, Path]:
    return certificate(folder)


@pytest.fixture(scope="module")
def served(folder: Path, files: tuple[Path, Path]) -> Iterator[Served]:
    project = Project(folder)
    project.settings("DATABASES = {}")
    project.write("shop/api.py", API)
    (folder / "shop" / "data.bin").write_bytes(CONTENT)
    with project.serve("--tls-cert", str(files[0]), "--tls-key", str(files[1])) as served:
        yield served


@pytest.fixture
def client(served: Served, files: tuple[Path, Path]) -> Iterator[httpx.Client]:
    trust = trusting(files[0])
    with httpx.Client(base_url=served.url, verify=trust, http2=True) as client:
        client.get("/shut")
        yield client


@pytest.fixture
def raw(served: Served, files: tuple[Path, Path]) -> Iterator[Http2]:
    """Takes as much as it is sent on all streams together, and 64 KiB on each."""
    client = Http2(served, files)
    client.state.increment_flow_control_window(2**30)
    client.flush()
    yield client
    client.socket.close()


def told(client: httpx.Client) -> Any:
    return client.get("/told").json()


def wait_closed(client: httpx.Client, what: str, count: int) -> None:
    wait(f"{what} is closed", lambda: told(client)["closed"].count(what) >= count, 15)


def body_of(raw: Http2, stream: int, window: bool) -> bytes:
    """A whole body; with `window` the server is told that there is room again."""
    body = b""
    while True:
        event: Any = raw.until(h2.events.Event, stream)
        if isinstance(event, h2.events.DataReceived):
            body += event.data
            if window:
                raw.state.acknowledge_received_data(event.flow_controlled_length, stream)
                raw.flush()
        elif isinstance(event, h2.events.StreamEnded):
            return body


def test_streams_and_files_arrive_as_over_http1(client: httpx.Client) -> None:
    words = "".join(f"word {number}\n" for number in range(5000))
    plain = client.get("/words", headers={"Accept-Encoding": "identity"})
    assert (plain.http_version, plain.text) == ("HTTP/2", words)
    with client.stream("GET", "/words", headers={"Accept-Encoding": "gzip"}) as packed:
        assert packed.headers["content-encoding"] == "gzip"
        assert "transfer-encoding" not in packed.headers
        assert gzip.decompress(b"".join(packed.iter_raw())).decode() == words
    file = client.get("/file")
    assert (file.content, file.headers["content-length"]) == (CONTENT, str(len(CONTENT)))
    head = client.head("/file")
    assert (head.content, head.headers["content-length"]) == (b"", str(len(CONTENT)))
    assert client.head("/words").status_code == 200
    for value, status, content in (
        ("bytes=100-199", 206, CONTENT[100:200]),
        ("bytes=-300", 206, CONTENT[-300:]),
        ("bytes=512000-", 416, b""),
    ):
        part = client.get("/file", headers={"Range": value})
        assert (part.status_code, part.content) == (status, content)
    several = client.get("/file", headers={"Range": "bytes=0-0,-1"})
    assert several.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert several.headers["content-length"] == str(len(several.content))
    tag = {"If-None-Match": file.headers["etag"]}
    assert (client.get("/file", headers=tag).status_code, client.get("/told").status_code) == (
        304,
        200,
    )


def test_events_come_one_by_one_and_go_on_where_they_were(client: httpx.Client) -> None:
    with client.stream("GET", "/events") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        pieces = answer.iter_text()
        text = ""
        while ": ping\n\n" not in text:
            text += next(pieces)
        assert client.get("/open").status_code == 200  # on the same connection
        text += "".join(pieces)
    assert text.replace(": ping\n\n", "") == "id: 1\ndata: first\n\nid: 2\ndata: last\n\n"
    again = client.get("/events", headers={"Last-Event-ID": "2"}).text
    assert again == "id: 3\ndata: first\n\nid: 4\ndata: last\n\n"


def test_many_streams_of_events_on_one_connection(
    client: httpx.Client, served: Served, files: tuple[Path, Path]
) -> None:
    async def run() -> list[str]:
        limits = httpx.Limits(max_connections=1)
        verify = trusting(files[0])
        options: Any = {"verify": verify, "http2": True, "limits": limits, "timeout": 20}
        async with httpx.AsyncClient(base_url=served.url, **options) as many:
            begun = asyncio.Semaphore(0)

            async def follow() -> str:
                async with many.stream("GET", "/events") as answer:
                    text = ""
                    async for piece in answer.aiter_text():
                        if not text:
                            begun.release()
                        text += piece
                return text.replace(": ping\n\n", "")

            async with asyncio.TaskGroup() as group:
                following = [group.create_task(follow()) for _ in range(50)]
                for _ in following:
                    await begun.acquire()
                await many.get("/open")
            return [task.result() for task in following]

    assert asyncio.run(run()) == ["id: 1\ndata: first\n\nid: 2\ndata: last\n\n"] * 50


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_client_that_takes_nothing_holds_the_generator_up(
    client: httpx.Client, raw: Http2, kind: str
) -> None:
    before = told(client)
    stream = raw.open(raw.headers(f"/endless/{kind}"))
    taken = 0
    while taken < 65_535:  # all that its window has room for
        event: Any = raw.until(h2.events.DataReceived, stream)
        taken += len(event.data)
    # Other streams of the connection go on, and the generator does not.
    seen = -1
    while seen != (seen := told(client)["made"][kind]):
        for _ in range(20):
            assert raw.status(raw.open(raw.headers("/told"))) == 200
    assert (seen - before["made"][kind]) * 16_384 < 1024 * 1024
    raw.state.increment_flow_control_window(200_000, stream)
    raw.flush()
    while taken < 265_000:
        event = raw.until(h2.events.DataReceived, stream)
        taken += len(event.data)
    raw.reset(stream)
    wait_closed(client, kind, before["closed"].count(kind) + 1)
    assert raw.status(raw.open(raw.headers("/told"))) == 200


def test_a_file_waits_for_its_client(raw: Http2) -> None:
    stream = raw.open(raw.headers("/file"))
    assert raw.status(stream) == 200
    other = raw.open(raw.headers("/told"))
    assert raw.status(other) == 200
    # What came of the file meanwhile was taken from its window, which is given back now.
    assert len(body_of(raw, raw.open(raw.headers("/file", ("range", "bytes=0-999"))), True)) == 1000
    again = raw.open(raw.headers("/file"))
    assert body_of(raw, again, True) == CONTENT


def test_a_reset_cancels_the_generator_and_nothing_else(client: httpx.Client, raw: Http2) -> None:
    before = told(client)["closed"].count("cancelled")
    streams = [raw.open(raw.headers("/waits")) for _ in range(3)]
    for stream in streams:
        event: Any = raw.until(h2.events.DataReceived, stream)
        assert event.data == b"first"
    raw.reset(streams[0])
    wait_closed(client, "cancelled", before + 1)
    assert raw.status(raw.open(raw.headers("/told"))) == 200
    assert told(client)["closed"].count("cancelled") == before + 1
    # The end of the connection is that of all its streams.
    raw.socket.close()
    wait_closed(client, "cancelled", before + 3)


def test_a_failure_in_mid_stream_ends_that_stream_only(raw: Http2, served: Served) -> None:
    stream = raw.open(raw.headers("/fails"))
    event: Any = raw.until(h2.events.DataReceived, stream)
    assert event.data == b"before"
    raw.until(h2.events.StreamReset, stream)
    assert raw.status(raw.open(raw.headers("/told"))) == 200
    served.wait_for_line("the stream of shop.api.fails failed")
