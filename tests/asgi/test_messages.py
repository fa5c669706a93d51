"""Messages of WebSockets, mounts with parameters, and crowds: over real connections."""

import asyncio
import threading
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.asgi.serving import serve_asgi
from tollway import ConfigError, Limiter, Policy
from tollway.asgi import ASGIApp
from tollway.fastapi import LimiterMiddleware, limit
from tollway.rules import Rules
from tollway.starlette import rate_limit
from tollway.testing import ManualClock

pytestmark = pytest.mark.usefixtures("default_limiter")


def echoing() -> tuple[FastAPI, list[str]]:
    app, heard = FastAPI(), []

    @app.websocket("/echo")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            heard.append(text)
            await websocket.send_text(text)
        heard.append("gone")

    return app, heard


def test_the_middleware_closes_at_the_first_message_too_many(
    limiter: Limiter, clock: ManualClock
) -> None:
    app, heard = echoing()
    app.add_middleware(LimiterMiddleware, limiter=limiter, messages="3/h")
    with serve_asgi(app) as address:
        with connect(f"ws://{address}/echo") as client:
            for number in range(3):
                client.send(str(number))
                assert client.recv() == str(number)
            client.send("too many")
            with pytest.raises(ConnectionClosed) as closed:
                client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        assert closed.value.rcvd.reason == "rate limited, try again in 1200 s"
        clock.advance(1200)
        with connect(f"ws://{address}/echo") as client:
            client.send("again")
            assert client.recv() == "again"
    assert heard[:4] == ["0", "1", "2", "gone"] and "too many" not in heard


def test_messages_have_a_count_of_their_own(limiter: Limiter) -> None:
    app, _ = echoing()
    app.add_middleware(LimiterMiddleware, limiter=limiter, policy="3/h", messages="3/h")
    with serve_asgi(app) as address, connect(f"ws://{address}/echo") as client:
        for text in ("one", "two", "three"):
            client.send(text)
            assert client.recv() == text
    assert limiter.peek(Policy("3/h", "3/h"), "127.0.0.1", 0).remaining == 2


def test_two_policies_of_one_name_for_messages_are_refused(limiter: Limiter) -> None:
    app, _ = echoing()
    twins = [Policy("chat", rate) for rate in ("3/h", "9/d")]
    with pytest.raises(ConfigError, match="both named 'chat'"):
        LimiterMiddleware(app, limiter, messages=twins)


def test_who_is_denied_meanwhile_is_told_so(limiter: Limiter) -> None:
    app, heard = echoing()
    rules = Rules({})
    app.add_middleware(LimiterMiddleware, limiter=limiter, messages="3/h", rules=rules)
    with serve_asgi(app) as address, connect(f"ws://{address}/echo") as client:
        client.send("one")
        assert client.recv() == "one"
        rules.replace({"deny": ["127.0.0.1"]})
        client.send("two")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "denied")
    assert "two" not in heard


def test_an_application_hears_of_a_client_that_left_while_it_was_counted(limiter: Limiter) -> None:
    app, heard = echoing()
    counting, gone = threading.Event(), threading.Event()

    async def key(scope: Any) -> str:
        counting.set()
        await asyncio.to_thread(gone.wait, 20)
        return "ada"

    app.add_middleware(LimiterMiddleware, limiter=limiter, messages="1/h", key=key)
    assert limiter.check(Policy("1/h/messages", "1/h"), "ada").allowed
    ended = threading.Event()

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def told_send(message: Any) -> None:
            try:
                await send(message)
            except OSError:
                heard.append("nobody hears a close")
                raise

        try:
            await app(scope, receive, told_send)
        finally:
            ended.set()

    with serve_asgi(watched) as address:
        with connect(f"ws://{address}/echo") as client:
            client.send("too many")
            assert counting.wait(20)
        gone.set()
        assert ended.wait(20)
    assert heard == ["nobody hears a close", "gone"]


def test_messages_that_nobody_can_count_close_the_connection(dead_store: str) -> None:
    app, heard = echoing()
    app.add_middleware(
        LimiterMiddleware, limiter=Limiter(dead_store, fail_mode="closed"), messages="3/h"
    )
    with serve_asgi(app) as address, connect(f"ws://{address}/echo") as client:
        client.send("hello")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013
    assert "hello" not in heard


def test_a_handler_may_ask_for_each_message_and_answer_itself() -> None:
    app = FastAPI()
    each = limit("2/h")

    @app.websocket("/rooms/{room}")
    async def talk(websocket: WebSocket, room: str) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            decision = await each.check(websocket)
            await websocket.send_json([decision.allowed, decision.retry_after_seconds])

    with serve_asgi(app) as address:
        told = []
        for room in "ab":
            with connect(f"ws://{address}/rooms/{room}") as client:
                for _ in range(2):
                    client.send("hi")
                    told.append(client.recv())
    assert told == ["[true,0]", "[true,0]", "[false,1800]", "[false,1800]"]


def test_a_mount_with_parameters_is_one_route() -> None:
    inner = FastAPI()

    @inner.get("/items/{item}", dependencies=[Depends(limit("3/h"))])
    async def item(item: str) -> str:
        return item

    middle = FastAPI()
    middle.mount("/shops/{shop}", inner)
    app = FastAPI()
    app.mount("/tenants/{tenant}", middle)
    app.mount("/plain", inner)
    with serve_asgi(app) as address, httpx.Client(base_url=f"http://{address}") as client:
        paths = [f"/tenants/{n}/shops/{n}/items/{n}" for n in range(4)]
        answers = [client.get(path) for path in paths]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        name = "3/h/GET/tenants/<tenant>/shops/<shop>/items/<item>"
        assert answers[-1].json()["violated-policies"] == [name]
        assert client.get("/plain/items/0").status_code == 200


def below_host(inner: ASGIApp) -> ASGIApp:
    return Starlette(routes=[Host("{name}.shop", app=Router([Mount("/{tenant}", app=inner)]))])


def below_everything(inner: ASGIApp) -> ASGIApp:
    return Starlette(routes=[Mount("/", routes=[Mount("/{tenant}", app=inner)])])


def behind_middleware(inner: ASGIApp) -> ASGIApp:
    deeper = LimiterMiddleware(Starlette(routes=[Mount("/{tenant}", app=inner)]))
    return Starlette(routes=[Mount("/{area:int}", app=deeper)])


def behind_a_function(inner: ASGIApp) -> ASGIApp:
    deeper = Starlette(routes=[Mount("/{tenant}", app=inner)])

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        await deeper(scope, receive, send)

    return Starlette(routes=[Mount("/{area:int}", app=wrapped)])


@pytest.mark.parametrize(
    ("around", "above", "name"),
    [
        (below_host, "", "<tenant>/"),
        (below_everything, "", "<tenant>/"),
        (behind_middleware, "/007", "<area.int>/<tenant>/"),
        (behind_a_function, "/007", "<area.int>/"),
    ],
)
async def test_who_chooses_a_mount_chooses_no_count(around: Any, above: str, name: str) -> None:
    @rate_limit("2/h")
    async def item(request: Request) -> PlainTextResponse:
        return PlainTextResponse("item")

    transport = httpx.ASGITransport(around(Starlette(routes=[Route("/items/{item}", item)])))
    async with httpx.AsyncClient(transport=transport, base_url="http://a.shop") as client:
        answers = [await client.get(f"{above}/{n}/items/1") for n in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].json()["violated-policies"] == [f"2/h/GET/{name}items/<item>"]


@pytest.mark.parametrize("door", ["middleware", "dependency"])
async def test_of_400_at_once_exactly_five_pass(redis_url: str, door: str) -> None:
    limiter = Limiter(redis_url, prefix=f"crowd-{door}", command_timeout=30, connect_timeout=30)
    app = FastAPI()
    calls = 0
    dependencies: list[Any] = []
    if door == "middleware":
        app.add_middleware(LimiterMiddleware, limiter=limiter, policy="5/h")
    else:
        dependencies = [Depends(limit("5/h", limiter))]

    @app.get("/", dependencies=dependencies)
    async def home() -> str:
        nonlocal calls
        calls += 1
        return "home"

    with serve_asgi(app) as address:
        bounds = httpx.Limits(max_connections=400)
        async with httpx.AsyncClient(limits=bounds, timeout=60) as client:
            answers = await asyncio.gather(*(client.get(f"http://{address}/") for _ in range(400)))
    codes = [answer.status_code for answer in answers]
    assert (codes.count(200), codes.count(429), calls) == (5, 395, 5)
    limiter.close()
