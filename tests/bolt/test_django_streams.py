"""Streams, events and files on their way through Django's middleware, over real HTTP."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.bolt.project import Project, Served

OWN = """
from django.http import StreamingHttpResponse
from django.utils.deprecation import MiddlewareMixin


def shouts(request, response):
    content = response.streaming_content
    if response.is_async:
        async def later():
            async for piece in content:
                yield piece.upper()

        response.streaming_content = later()
    else:
        response.streaming_content = (piece.upper() for piece in content)


def forgets_async(request, response):
    response.streaming_content = (piece.upper() for piece in response.streaming_content)


def reads_at_once(request, response):
    response["X-Length"] = str(len(b"".join(response.streaming_content)))


async def own_pieces():
    yield b"of "
    yield b"its own"


class Own(MiddlewareMixin):
    ways = {"shouts": shouts, "forgets": forgets_async, "reads": reads_at_once}

    def process_response(self, request, response):
        way = request.GET.get("way")
        if way == "replaces":
            closed = request.GET["kind"] == "async"
            return StreamingHttpResponse(own_pieces() if closed else iter([b"of ", b"its own"]))
        if way in self.ways and response.streaming:
            self.ways[way](request, response)
        return response
"""

API = """
import asyncio
from pathlib import Path

from tollway.bolt import (
    BoltAPI, EventSourceResponse, FileResponse, StreamingResponse, skip_middleware,
)

api = BoltAPI(
    compression=False,
    django_middleware=[
        "django.middleware.gzip.GZipMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
        "shop.own.Own",
    ],
)
closed = []
gate = asyncio.Event()


class Rows:
    def __init__(self, name):
        self.name = name

    def __iter__(self):
        yield "line 1\\n"
        yield bytearray(b"line 2\\n")

    def close(self):
        closed.append(self.name)


async def rows():
    try:
        yield "line 1\\n"
        await asyncio.sleep(0)
        yield memoryview(b"line 2\\n")
    finally:
        closed.append("async")


@api.get("/async")
async def on_loop():
    return StreamingResponse(rows(), media_type="text/plain").set_cookie("own", "1")


@api.get("/sync")
def on_thread():
    made = StreamingResponse(Rows("sync"), headers={"ETag": '"1"'}, media_type="text/plain")
    return made.set_cookie("own", "2")


@api.get("/mixed")
async def plain_from_loop():
    return StreamingResponse(Rows("mixed"), media_type="text/plain")


@api.get("/events/{kind}")
async def events(kind: str):
    async def ticks():
        yield {"n": 1}
        await gate.wait()
        gate.clear()
        yield "last"

    return EventSourceResponse(ticks() if kind == "async" else iter([{"n": 1}, "last"]), ping=0.05)


@api.get("/file/{name}")
def file(name: str):
    return FileResponse(Path(__file__).parent / name, media_type="text/plain")


@api.get("/unpacked")
@skip_middleware("GZipMiddleware")
async def unpacked():
    return StreamingResponse(rows())


@api.get("/open")
async def open_gate():
    gate.set()


@api.get("/closed")
@skip_middleware("*")
async def who_closed():
    told, closed[:] = list(closed), []
    return told
"""
LINES = "line 1\nline 2\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    project = Project(folder)
    project.settings(f"BOLT_ALLOWED_FILE_PATHS = [{str(folder / 'shop')!r}]")
    project.write("shop/own.py", OWN)
    project.write("shop/api.py", API)
    project.write("shop/data.txt", "word " * 100_000)
    (folder / "shop" / "out.txt").symlink_to(folder / "site_of_tests" / "settings.py")
    with project.serve() as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, headers={"Accept-Encoding": "identity"}) as client:
        client.get("/closed")
        yield client


PACKED = {"Accept-Encoding": "gzip"}


def unpacked(client: httpx.Client, path: str) -> str:
    """What comes out of an answer that Django has compressed, each piece for itself."""
    with client.stream("GET", path, headers=PACKED) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["transfer-encoding"] == "chunked"
        return gzip.decompress(b"".join(answer.iter_raw())).decode()


def closed(client: httpx.Client, *expected: str) -> None:
    """Wait until these have been closed, each once. A thread closes after its stream's end."""
    seen: list[str] = []
    deadline = time.monotonic() + 15
    while len(seen) < len(expected):
        assert time.monotonic() < deadline, seen
        seen += client.get("/closed").json()
    assert seen == list(expected)


@pytest.mark.parametrize("path", ["/async", "/sync", "/mixed"])
def test_streams_pass_and_may_be_changed(client: httpx.Client, path: str) -> None:
    name = path.strip("/")
    plain = client.get(path)
    assert (plain.text, plain.headers["content-type"]) == (LINES, "text/plain")
    assert plain.headers["vary"] == "Accept-Encoding"
    assert unpacked(client, path) == LINES
    shouted = client.get(f"{path}?way=shouts")
    assert shouted.text == LINES.upper()
    if path == "/async":
        assert shouted.headers["set-cookie"].startswith("own=1")
    assert unpacked(client, f"{path}?way=shouts") == LINES.upper()
    closed(client, *[name] * 4)
    # Nobody reads it, and what is there is closed.
    head = client.head(f"{path}?way=shouts")
    assert (head.status_code, head.content) == (200, b"")
    closed(client, *[name] * (path != "/async"))


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_middleware_may_answer_with_a_stream_of_its_own(client: httpx.Client, kind: str) -> None:
    for path in ("/async", "/sync"):
        answer = client.get(f"{path}?way=replaces&kind={kind}")
        assert answer.text == "of its own"
        assert answer.headers["transfer-encoding"] == "chunked"


def test_a_condition_that_holds_sends_no_stream(client: httpx.Client) -> None:
    answer = client.get("/sync", headers={"If-None-Match": '"1"'})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["set-cookie"].startswith("own=2")
    assert client.get("/sync", headers={"If-None-Match": '"2"'}).text == LINES


def test_a_middleware_that_cannot_read_a_stream_is_told(
    client: httpx.Client, served: Served
) -> None:
    assert client.get("/sync?way=forgets").text == LINES.upper()
    assert client.get("/async?way=forgets").status_code == 500
    assert client.get("/async?way=reads").status_code == 500
    told = "RuntimeError: this answer is streamed by an async generator: a middleware that reads"
    served.wait_for_line(told, 2)
    # One that reads and puts nothing in its place has taken it.
    assert client.get("/sync?way=reads").status_code == 500
    served.wait_for_line("this stream was sent already")


SAID = 'data: {"n":1}\n\ndata: last\n\n'


@pytest.mark.parametrize("query", ["", "?way=shouts"])
def test_events_keep_their_form_and_their_pings(client: httpx.Client, query: str) -> None:
    expected = SAID.upper() if query else SAID
    with client.stream("GET", f"/events/async{query}") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        pieces = answer.iter_text()
        text = ""
        while ": ping\n\n" not in text:
            text += next(pieces)
        client.get("/open")
        text += "".join(pieces)
    assert text.replace(": ping\n\n", "") == expected
    assert client.get(f"/events/sync{query}").text == expected


def test_events_that_are_compressed_have_no_pings_in_between(client: httpx.Client) -> None:
    client.get("/open")
    for kind in ("async", "sync"):
        assert unpacked(client, f"/events/{kind}") == SAID


def test_files_pass_as_they_are_or_are_read_for_the_middleware(client: httpx.Client) -> None:
    text = "word " * 100_000
    whole = client.get("/file/data.txt")
    assert (whole.text, whole.headers["content-length"]) == (text, "500000")
    tag = whole.headers["etag"]
    assert client.get("/file/data.txt", headers={"If-None-Match": tag}).status_code == 304
    part = client.get("/file/data.txt", headers={"Range": "bytes=5-8"})
    assert (part.status_code, part.text) == (206, "word")
    assert unpacked(client, "/file/data.txt") == text
    assert "etag" not in client.head("/file/data.txt", headers=PACKED).headers
    assert client.get("/file/data.txt?way=shouts").text == text.upper()


@pytest.mark.parametrize("name", ["missing.txt", "out.txt"])
def test_a_file_that_may_not_be_sent_is_not_read_either(client: httpx.Client, name: str) -> None:
    for query in ("", "?way=shouts"):
        for headers in ({}, PACKED):
            answer = client.get(f"/file/{name}{query}", headers=headers)
            assert answer.status_code == 404
            assert "SECRET_KEY" not in answer.text


def test_a_handler_may_leave_the_compression_of_django_out(client: httpx.Client) -> None:
    answer = client.get("/unpacked", headers=PACKED)
    assert "content-encoding" not in answer.headers
    assert answer.text == LINES
