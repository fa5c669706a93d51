"""Answers that are sent while they are made, over real sockets."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import resource
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bolt.native import Running, route, running
from tests.bolt.project import Project
from tollway.bolt import (
    EventSourceResponse,
    Response,
    ServerSentEvent,
    StreamingResponse,
    format_sse_event,
)

PIECE = b"x" * 65_536


class Watched:
    """What a generator lived through, for a test on another thread."""

    def __init__(self) -> None:
        self.asked = 0
        self.seen: list[str] = []
        self.over = threading.Event()

    def note(self, what: str) -> None:
        self.seen.append(what)

    def end(self) -> None:
        self.over.set()

    def ended(self) -> list[str]:
        assert self.over.wait(10), "the generator was never closed"
        return self.seen


def serving(*routes: dict[str, Any], **settings: Any) -> Any:
    return running(*routes, response_type=Response, **settings)


def client_of(served: Running) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{served.port}")


def returns(make: Callable[[], Any], mode: str = "async") -> dict[str, Any]:
    """A route `/` whose handler returns what `make` makes."""

    async def waiting() -> Any:
        return make()

    def plain() -> Any:
        return make()

    return route("/", waiting if mode == "async" else plain, mode=mode)


async def numbers() -> AsyncIterator[Any]:
    for piece in (b"one ", "two ", memoryview(b"three "), bytearray(b"four")):
        yield piece
        await asyncio.sleep(0)


def plain_numbers() -> Iterator[Any]:
    yield b"one "
    yield "two "
    yield memoryview(b"three ")
    yield bytearray(b"four")


@pytest.mark.parametrize("mode", ["async", "sync", "inline"])
@pytest.mark.parametrize(
    "content", [numbers, plain_numbers, lambda: numbers, lambda: ["one ", "two ", b"three four"]]
)
def test_sends_what_a_generator_gives(mode: str, content: Callable[[], Any]) -> None:
    made = returns(lambda: StreamingResponse(content(), 201, {"X-A": "b"}, "text/plain"), mode)
    with (
        serving(made) as served,
        httpx.Client(base_url=f"http://127.0.0.1:{served.port}") as client,
    ):
        for _ in range(3):
            answer = client.get("/")
            assert (answer.status_code, answer.text) == (201, "one two three four")
            assert answer.headers["content-type"] == "text/plain"
            assert answer.headers["x-a"] == "b"
            assert answer.headers["transfer-encoding"] == "chunked"
        assert client.head("/").status_code == 201
        assert served.on_loop(served.server.stats)["accepted"] == 1
        assert served.on_loop(served.server.stats)["streams"] == 0


def test_what_cannot_be_streamed() -> None:
    with pytest.raises(TypeError, match="a int cannot be streamed"):
        StreamingResponse(7)
    response = StreamingResponse([b"once"])
    with serving(returns(lambda: response)) as served:
        assert served.get("/").body == b"once"
        assert served.get("/").status == 500


def test_context_timeouts_and_task_are_those_of_one_task() -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    async def told() -> AsyncIterator[str]:
        first = asyncio.current_task()
        yield variable.get()
        try:
            async with asyncio.timeout(0.01):
                yield " inside "
                await asyncio.Event().wait()
        except TimeoutError:
            yield "timed out "
        async with asyncio.TaskGroup() as group:
            one = group.create_task(asyncio.sleep(0, "grouped "))
        yield one.result()
        yield str(asyncio.current_task() is first)

    async def handler() -> StreamingResponse:
        variable.set("set")
        return StreamingResponse(told())

    with serving(route("/", handler)) as served:
        assert served.get("/").body == b"set inside timed out grouped True"


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_failure_in_mid_stream_ends_the_connection(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails() -> AsyncIterator[bytes]:
        yield b"before"
        raise ValueError("on purpose")

    def plain() -> Iterator[bytes]:
        yield b"before"
        raise ValueError("on purpose")

    content = fails if kind == "async" else plain
    with serving(returns(lambda: StreamingResponse(content()))) as served:
        with caplog.at_level(logging.ERROR, "tollway.bolt"), served.open() as client:
            received = b""
            while piece := client.recv(65_536):
                received += piece
        assert received.endswith(b"6\r\nbefore\r\n")
        assert [record.message for record in caplog.records].count(
            "the stream of waiting failed"
        ) == 1
        assert "on purpose" in caplog.text


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_slow_client_slows_the_generator_down(kind: str) -> None:
    watched = Watched()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            watched.asked += 1
            yield PIECE

    def plain() -> Iterator[bytes]:
        while True:
            watched.asked += 1
            yield PIECE

    content = endless if kind == "async" else plain
    big = returns(lambda: StreamingResponse(content()))

    async def small() -> str:
        return "small"

    with serving(big, route("/small", small)) as served:
        client = served.open()
        client.recv(1000)
        before = -1
        while before != watched.asked:
            before = watched.asked
            for _ in range(30):
                assert served.get("/small").body == b"small"
        # What the kernel holds for the two sockets, and little else.
        assert watched.asked * len(PIECE) < 16 * 1024 * 1024
        client.close()
        served.wait_for("cancelled", 1)


@pytest.mark.parametrize("piece", [b"", ""])
def test_pieces_without_a_byte_hold_nobody_up(piece: Any) -> None:
    watched = Watched()

    async def endless() -> AsyncIterator[Any]:
        try:
            while not watched.over.is_set():
                watched.asked += 1
                yield piece
            watched.note("told to end")
        finally:
            watched.note("closed")

    async def small() -> str:
        return "small"

    routes = returns(lambda: StreamingResponse(endless())), route("/small", small)
    with serving(*routes) as served:
        client = served.open()
        try:
            assert [served.get("/small").body for _ in range(5)] == [b"small"] * 5
            assert watched.asked > 256, "the stream has its turns too"
            client.close()
            served.wait_for("cancelled", 1)
        finally:
            watched.end()
    assert watched.seen == ["closed"]


def test_a_large_stream_takes_no_memory() -> None:
    count = 200 * 1024 * 1024 // len(PIECE)

    async def large() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield PIECE

    with serving(returns(lambda: StreamingResponse(large()))) as served:
        served.get("/")  # with everything that is made once
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        client = served.open()
        total = 0
        buffer = bytearray(1024 * 1024)
        while total < count * len(PIECE):
            got = client.recv_into(buffer)
            assert got
            total += got
        client.close()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 8 * 1024, f"{grown} KiB more at the peak"


@pytest.mark.parametrize("where", ["waiting", "yielding", "stubborn"])
def test_an_async_generator_is_cancelled_when_the_client_goes(where: str) -> None:
    watched = Watched()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            while where == "yielding":
                yield PIECE
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            watched.note("cancelled")
            while where == "stubborn":
                yield b"more"
            raise
        except GeneratorExit:
            watched.note("closed")
            raise
        finally:
            watched.end()

    with serving(returns(lambda: StreamingResponse(endless()))) as served:
        client = served.open()
        client.recv(1000)
        client.close()
        expected = {"waiting": ["cancelled"], "yielding": ["closed"]}
        assert watched.ended() == expected.get(where, ["cancelled"])
        served.wait_for("cancelled", 1)


def test_a_plain_generator_is_closed_on_its_own_thread() -> None:
    watched = Watched()
    threads: list[int] = []

    def endless() -> Iterator[bytes]:
        threads.append(threading.get_ident())
        try:
            while True:
                yield PIECE
        finally:
            threads.append(threading.get_ident())
            watched.end()

    with serving(returns(lambda: StreamingResponse(endless()))) as served:
        client = served.open()
        received = b""
        # The head comes before the first piece, which is made on another thread.
        while PIECE[:1] * 10 not in received:
            received += client.recv(1000)
        client.close()
        watched.ended()
    assert threads[0] == threads[1]


class Held:
    """An iterable with something to close, as a file or a cursor is."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched

    def __iter__(self) -> Iterator[bytes]:
        self.watched.note("asked")
        yield b"first"

    def close(self) -> None:
        self.watched.note(threading.current_thread().name)
        self.watched.end()


def test_what_a_stream_holds_is_closed_in_every_case() -> None:
    gate = threading.Event()
    begun = threading.Event()

    def blocks() -> Iterator[bytes]:
        begun.set()
        gate.wait(10)
        yield b"last"

    watched = [Watched() for _ in range(3)]
    left = iter(watched)
    streams = [
        route("/", lambda: StreamingResponse(Held(next(left))), mode="inline"),
        route("/blocks", lambda: StreamingResponse(blocks()), mode="inline"),
    ]
    with serving(*streams, max_sync_streaming_threads=1) as served:
        assert served.get("/").body == b"first"
        assert served.get("/", "HEAD").status == 200
        blocking = served.open("/blocks")
        assert begun.wait(10)
        # A client that has the head and leaves before anything was asked for.
        client = served.open()
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        client.close()
        served.wait_for("cancelled", 1)
        gate.set()
        seen = [each.ended() for each in watched]
        blocking.close()
    thread = seen[0][1]
    assert seen == [["asked", thread], [thread], [thread]]
    assert thread != threading.current_thread().name


def test_more_plain_generators_than_threads_take_turns() -> None:
    gate = threading.Event()

    def waits() -> Iterator[bytes]:
        yield b"first"
        yield b"second"

    def blocks() -> Iterator[bytes]:
        yield b"first"
        gate.wait(10)
        yield b"last"

    streams = [
        route("/waits", lambda: StreamingResponse(waits()), mode="inline"),
        route("/blocks", lambda: StreamingResponse(blocks()), mode="inline"),
    ]
    with serving(*streams, max_sync_streaming_threads=2) as served:
        client = served.open("/blocks")
        while not client.recv(1000).endswith(b"first\r\n"):
            pass
        assert [served.get("/waits").body for _ in range(5)] == [b"firstsecond"] * 5
        gate.set()
        assert client.recv(1000).startswith(b"4\r\nlast")
        client.close()


def test_too_many_streams_are_refused() -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    with serving(returns(lambda: StreamingResponse(endless())), max_streams=2) as served:
        clients = [served.open() for _ in range(2)]
        for client in clients:
            client.recv(1000)
        answer = served.get("/")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        for client in clients:
            client.close()
        served.wait_for("cancelled", 2)
        with served.open() as client:
            assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_the_grace_of_a_shutdown_ends_streams() -> None:
    watched = Watched()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            watched.end()

    with serving(returns(lambda: StreamingResponse(endless())), grace=0.0) as served:
        client = served.open()
        client.recv(1000)
    watched.ended()
    client.close()


def test_the_end_of_the_server_closes_plain_streams_on_their_thread() -> None:
    watched = Watched()
    threads: list[int] = []

    class Endless(Held):
        def __iter__(self) -> Iterator[bytes]:
            threads.append(threading.get_ident())
            while True:
                yield PIECE

        def close(self) -> None:
            threads.append(threading.get_ident())
            self.watched.end()

    with serving(returns(lambda: StreamingResponse(Endless(watched))), grace=0.0) as served:
        client = served.open()
        while PIECE[:10] not in client.recv(1000):
            pass
    watched.ended()
    assert threads[0] == threads[1]
    client.close()


def test_how_events_are_written() -> None:
    event = ServerSentEvent({"n": 1}, event="tick", id=7, retry=1500, comment="a\nb")
    assert format_sse_event(event) == (
        b': a\n: b\nevent: tick\nid: 7\nretry: 1500\ndata: {"n":1}\n\n'
    )
    assert format_sse_event("two\r\nlines\rmore") == b"data: two\ndata: lines\ndata: more\n\n"
    assert format_sse_event(ServerSentEvent(comment="ping")) == b": ping\n\n"
    assert format_sse_event([1, 2]) == b"data: [1,2]\n\n"
    assert format_sse_event("") == b"data: \n\n"
    with pytest.raises(ValueError, match="the event of an event is one line"):
        ServerSentEvent("x", event="a\ndata: forged")


def test_events_come_when_they_are_there_and_pings_meanwhile() -> None:
    gate = asyncio.Event()

    async def ticks() -> AsyncIterator[Any]:
        yield {"n": 1}
        await gate.wait()
        yield ServerSentEvent("last", event="end")

    made = returns(lambda: EventSourceResponse(ticks(), ping=0.05))
    with (
        serving(made) as served,
        client_of(served) as client,
        client.stream("GET", "/") as answer,
    ):
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-cache"
        lines = answer.iter_lines()
        assert next(lines) == 'data: {"n":1}'
        assert [next(lines), next(lines), next(lines)] == ["", ": ping", ""]
        served.loop.call_soon_threadsafe(gate.set)
        rest = [line for line in lines if line and line != ": ping"]
        assert rest == ["event: end", "data: last"]
    with pytest.raises(ValueError, match="ping is a number of seconds above 0"):
        EventSourceResponse(ticks(), ping=0)


def test_a_thousand_open_streams() -> None:
    gate = asyncio.Event()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))

    async def ticks() -> AsyncIterator[str]:
        yield "open"
        await gate.wait()
        yield "all"

    async def small() -> str:
        return "small"

    routes = returns(lambda: EventSourceResponse(ticks())), route("/small", small)
    with serving(*routes) as served:
        clients = [served.open() for _ in range(1000)]
        for client in clients:
            client.recv(1000)
        assert served.on_loop(served.server.stats)["streams"] == 1000
        assert served.get("/small").body == b"small"
        served.loop.call_soon_threadsafe(gate.set)
        for client in clients:
            received = b""
            while b"data: all" not in received:
                received += client.recv(1000)
            client.close()
        served.wait_for("accepted", 1001)


def test_handlers_that_yield_are_streams_of_events(project: Project, tmp_path: Path) -> None:
    project.write(
        "shop/api.py",
        """
        import asyncio
        from collections.abc import AsyncIterable, Iterable
        from typing import Annotated

        from shop.models import Item
        from tollway.bolt import BoltAPI, Depends, ServerSentEvent, StreamingResponse
        from tollway.bolt.params import Header

        api = BoltAPI()

        async def user(name: str = "nobody"):
            return name

        @api.get("/ticks/{count}")
        async def ticks(count: int, name=Depends(user)) -> AsyncIterable[ServerSentEvent]:
            for number in range(count):
                yield ServerSentEvent({"n": number, "name": name}, id=number)

        @api.get("/resumed")
        async def resumed(last_event_id: Annotated[int, Header()] = 0):
            for number in range(last_event_id + 1, 4):
                yield ServerSentEvent("tick", id=number)

        @api.get("/rows")
        async def rows():
            return StreamingResponse(f"{item.name};" async for item in Item.objects.order_by("id"))

        left = asyncio.Event()

        @api.get("/leaves")
        async def leaves():
            async def pieces():
                try:
                    async for item in Item.objects.all():
                        yield item.name
                    await asyncio.Event().wait()
                finally:
                    # The clean-up of a stream whose client is gone may still ask the database.
                    if await Item.objects.acount() == 1:
                        left.set()

            return StreamingResponse(pieces())

        @api.get("/left")
        async def has_left():
            async with asyncio.timeout(10):
                return await left.wait()

        @api.get("/plain")
        def plain() -> Iterable[dict]:
            for item in Item.objects.order_by("id").iterator():
                yield {"name": item.name}

        @api.get("/export")
        def export():
            rows = (f"{item.name}\\n" for item in Item.objects.iterator())
            return StreamingResponse(rows, media_type="text/csv").set_cookie("a", "b")
        """,
    )
    project.run("migrate", "-v0")
    with project.serve() as served, httpx.Client(base_url=served.url) as client:
        answer = client.get("/ticks/2?name=ann")
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.text == (
            'id: 0\ndata: {"n":0,"name":"ann"}\n\nid: 1\ndata: {"n":1,"name":"ann"}\n\n'
        )
        assert client.get("/ticks/x").status_code == 422
        told = client.get("/resumed", headers={"Last-Event-ID": "1"}).text
        assert told == "id: 2\ndata: tick\n\nid: 3\ndata: tick\n\n"
        head = client.head("/ticks/2")
        assert (head.headers["content-type"], head.content) == ("text/event-stream", b"")
        assert client.get("/rows").text == "lantern;"
        with client.stream("GET", "/leaves") as answer:
            assert next(answer.iter_text()) == "lantern"
        assert client.get("/left").json() is True
        assert client.get("/plain").text == 'data: {"name":"lantern"}\n\n'
        answer = client.get("/export")
        assert (answer.text, answer.cookies["a"]) == ("lantern\n", "b")
        assert json.loads(client.get("/nowhere").text)["status"] == 404
