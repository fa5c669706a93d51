"""Messages of WebSockets, mounts with parameters, and crowds: over real connections."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.asgi.serving import serve_asgi
from tollway import ConfigError, Limiter, Policy
from tollway.fastapi import LimiterMiddleware, limit
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
