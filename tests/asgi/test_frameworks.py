"""Starlette, Litestar, Quart and Flask: one story, each over real HTTP with the real framework."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.asgi.serving import serve_asgi, serve_wsgi
from tollway import ConfigError, Limiter, Policy
from tollway.asgi import LimiterMiddleware, set_limiter
from tollway.rules import Rules
from tollway.testing import ManualClock

pytestmark = pytest.mark.usefixtures("default_limiter")


@dataclass
class Shop:
    """An application: what serves it, and which handlers ran."""

    app: Any
    serve: Callable[[Any], AbstractContextManager[str]] = serve_asgi
    ran: list[str] = field(default_factory=list)

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        with self.serve(self.app) as address, httpx.Client(base_url=f"http://{address}") as client:
            yield client


def starlette_shop() -> Shop:
    from starlette.applications import Starlette
    from starlette.endpoints import HTTPEndpoint
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Mount, Route, WebSocketRoute
    from starlette.websockets import WebSocket

    from tollway.starlette import rate_limit

    shop = Shop(None)

    @rate_limit("5/10s")
    async def ping(request: Request) -> Response:
        shop.ran.append("ping")
        return PlainTextResponse("pong")

    @rate_limit("2/h")
    def item(request: Request) -> Response:
        return PlainTextResponse(request.path_params["item"])

    @rate_limit(Policy("many", "10/h"))
    @rate_limit(Policy("few", "2/h"))
    async def stacked(request: Request) -> Response:
        return PlainTextResponse("ok")

    @rate_limit("5/h")
    async def broken(request: Request) -> Response:
        shop.ran.append("broken")
        raise RuntimeError("the handler broke")

    class Worded(HTTPEndpoint):
        @rate_limit("1/h", key="header:X-Key", body="pacer")
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("ok")

    @rate_limit("1/h")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    inner = Mount("/shops/{shop}", routes=[Route("/items/{item}", item)])
    shop.app = Starlette(
        routes=[
            Route("/ping", ping),
            inner,
            Route("/stacked", stacked),
            Route("/broken", broken),
            Route("/worded", Worded),
            WebSocketRoute("/socket", socket),
            WebSocketRoute("/echo", echo),
        ]
    )
    return shop


def litestar_shop() -> Shop:
    from litestar import Litestar, Router, get, websocket
    from litestar.connection import WebSocket
    from litestar.params import PathParameter

    from tollway.litestar import LimiterPlugin, limit

    shop = Shop(None)

    @get("/ping", guards=[limit("5/10s")])
    async def ping() -> str:
        shop.ran.append("ping")
        return "pong"

    @get("/items/{item:str}", guards=[limit("2/h")], sync_to_thread=True)
    def item(item: Annotated[str, PathParameter()]) -> str:
        return item

    @get("/", guards=[limit(Policy("few", "2/h"))])
    async def stacked() -> str:
        return "ok"

    @get("/broken", guards=[limit("5/h")])
    async def broken() -> str:
        shop.ran.append("broken")
        raise RuntimeError("the handler broke")

    @get("/worded", guards=[limit("1/h", key="header:X-Key", body="pacer")])
    async def worded() -> str:
        return "ok"

    @websocket("/socket", guards=[limit("1/h")])
    async def socket(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.close()

    @websocket("/echo")
    async def echo(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        async for text in socket.iter_data():
            await socket.send_text(text)

    shops = Router("/shops/{shop_name:str}", route_handlers=[item])
    both = Router("/stacked", route_handlers=[stacked], guards=[limit(Policy("many", "10/h"))])
    shop.app = Litestar(
        [ping, shops, both, broken, worded, socket, echo],
        plugins=[LimiterPlugin()],
        openapi_config=None,
    )
    return shop


def quart_shop() -> Shop:
    from quart import Quart, websocket

    from tollway.quart import rate_limit

    shop = Shop(Quart("shop"))

    @shop.app.get("/ping")
    @rate_limit("5/10s")
    async def ping() -> str:
        shop.ran.append("ping")
        return "pong"

    @shop.app.get("/shops/<name>/items/<item>")
    @rate_limit("2/h")
    def item(name: str, item: str) -> str:
        return item

    @shop.app.get("/stacked")
    @rate_limit(Policy("many", "10/h"))
    @rate_limit(Policy("few", "2/h"))
    async def stacked() -> str:
        return "ok"

    @shop.app.get("/broken")
    @rate_limit("5/h")
    async def broken() -> str:
        shop.ran.append("broken")
        raise RuntimeError("the handler broke")

    @shop.app.get("/worded")
    @rate_limit("1/h", key="header:X-Key", body="pacer")
    async def worded() -> str:
        return "ok"

    @shop.app.websocket("/socket")
    @rate_limit("1/h")
    async def socket() -> None:
        await websocket.accept()
        await websocket.close(1000)

    @shop.app.websocket("/echo")
    async def echo() -> None:
        await websocket.accept()
        while True:
            await websocket.send(await websocket.receive())

    return shop


def flask_shop() -> Shop:
    from flask import Flask

    from tollway.flask import rate_limit

    shop = Shop(Flask("shop"), serve_wsgi)

    @shop.app.get("/ping")
    @rate_limit("5/10s")
    def ping() -> str:
        shop.ran.append("ping")
        return "pong"

    @shop.app.get("/shops/<name>/items/<item>")
    @rate_limit("2/h")
    def item(name: str, item: str) -> str:
        return item

    @shop.app.get("/stacked")
    @rate_limit(Policy("many", "10/h"))
    @rate_limit(Policy("few", "2/h"))
    def stacked() -> str:
        return "ok"

    @shop.app.get("/broken")
    @rate_limit("5/h")
    def broken() -> str:
        shop.ran.append("broken")
        raise RuntimeError("the handler broke")

    @shop.app.get("/worded")
    @rate_limit("1/h", key="header:X-Key", body="pacer")
    def worded() -> str:
        return "ok"

    return shop


WITH_SOCKETS = [starlette_shop, litestar_shop, quart_shop]
"""Those that serve WebSockets: WSGI knows none."""


@pytest.fixture(params=[*WITH_SOCKETS, flask_shop])
def shop(request: pytest.FixtureRequest) -> Shop:
    made: Shop = request.param()
    return made


def test_five_of_seven_pass_with_the_same_headers(shop: Shop, clock: ManualClock) -> None:
    with shop.client() as client:
        answers = [client.get("/ping") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        assert shop.ran == ["ping"] * 5
        remaining = [answer.headers.get_list("x-ratelimit-remaining") for answer in answers]
        assert remaining == [["4"], ["3"], ["2"], ["1"], ["0"], ["0"], ["0"]]
        assert all(
            answer.headers["ratelimit-policy"] == '"5/10s/GET/ping";q=5;w=10' for answer in answers
        )
        assert not any("retry-after" in answer.headers for answer in answers[:5])
        refused = answers[-1]
        assert refused.headers.get_list("retry-after") == ["2"]
        assert refused.headers.get_list("content-type") == ["application/problem+json"]
        assert refused.json()["retry_after_ms"] == 2000
        clock.advance(2)
        assert [client.get("/ping").status_code for _ in range(2)] == [200, 429]


def test_routes_are_counted_by_their_template(shop: Shop) -> None:
    with shop.client() as client:
        paths = [f"/shops/{n}/items/{n}" for n in range(3)]
        assert [client.get(path).status_code for path in paths] == [200, 200, 429]


def test_several_limits_are_one_check(shop: Shop, limiter: Limiter) -> None:
    with shop.client() as client:
        answers = [client.get("/stacked") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429, 429]
    assert answers[0].headers.get_list("x-ratelimit-remaining") == ["1"]
    assert answers[-1].json()["violated-policies"] == ["few/GET/stacked"]
    # What was refused by one is charged on none.
    assert limiter.peek(Policy("many/GET/stacked", "10/h"), "127.0.0.1", 0).remaining == 8


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_handler_that_raises_runs_once(shop: Shop) -> None:
    with shop.client() as client:
        assert client.get("/broken").status_code == 500
    assert shop.ran == ["broken"]


def test_keys_and_bodies(shop: Shop) -> None:
    with shop.client() as client:
        for key in "ab":
            codes = [client.get("/worded", headers={"X-Key": key}).status_code for _ in range(2)]
            assert codes == [200, 429]
        refused = client.get("/worded", headers={"X-Key": "a"})
    assert refused.headers["content-type"] == "application/json"
    assert refused.json() == {"detail": {"detail": "rate_limited", "retry_after_ms": 3_600_000}}


@pytest.mark.parametrize("shop", WITH_SOCKETS, indirect=True)
def test_an_upgrade_is_refused(shop: Shop) -> None:
    with shop.serve(shop.app) as address:
        with connect(f"ws://{address}/socket"):
            pass
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://{address}/socket")
    assert refused.value.response.status_code in (403, 429)


@pytest.mark.parametrize("shop", WITH_SOCKETS, indirect=True)
def test_messages_are_counted_in_front_of_it(shop: Shop, limiter: Limiter) -> None:
    limited = LimiterMiddleware(shop.app, limiter, messages="3/h")
    with shop.serve(limited) as address, connect(f"ws://{address}/echo") as client:
        for text in ("one", "two", "three"):
            client.send(text)
            assert client.recv() == text
        client.send("too many")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008


def test_a_crowd_is_admitted_exactly(shop: Shop) -> None:
    with shop.client() as client, ThreadPoolExecutor(20) as crowd:
        codes = list(crowd.map(lambda _: client.get("/ping").status_code, range(60)))
    assert (codes.count(200), codes.count(429)) == (5, 55)


def test_a_dead_store_is_a_503(shop: Shop, dead_store: str) -> None:
    set_limiter(Limiter(dead_store, fail_mode="closed"))
    with shop.client() as client:
        answer = client.get("/ping")
    assert (answer.status_code, answer.headers["retry-after"], shop.ran) == (503, "1", [])


def test_rules_hold_and_forged_addresses_do_not(shop: Shop) -> None:
    set_limiter(Limiter(), rules=Rules({"deny": ["203.0.113.0/24"]}))
    forged = {"X-Forwarded-For": "203.0.113.7"}
    with shop.client() as client:
        assert client.get("/ping", headers=forged).status_code == 200
        set_limiter(
            Limiter(), trusted_proxies=["127.0.0.1"], rules=Rules({"deny": ["203.0.113.0/24"]})
        )
        assert client.get("/ping", headers=forged).status_code == 403


async def test_the_methods_of_an_endpoint_are_counted_apart(limiter: Limiter) -> None:
    from starlette.applications import Starlette
    from starlette.endpoints import HTTPEndpoint
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    from tollway.starlette import rate_limit

    class Items(HTTPEndpoint):
        @rate_limit(Policy("items", "3/h"), limiter)
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("read")

        @rate_limit(Policy("items", "1/h"), limiter)
        def post(self, request: Request) -> Response:
            return PlainTextResponse("written")

    transport = httpx.ASGITransport(Starlette(routes=[Route("/items", Items)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        asked = [await client.request(m, "/items") for m in ("GET", "HEAD", "POST", "GET", "GET")]
    assert [answer.status_code for answer in asked] == [200, 200, 200, 200, 429]
    assert asked[-1].json()["violated-policies"] == ["items/GET/items"]


async def test_an_answer_that_two_endpoints_return_tells_each_its_own(limiter: Limiter) -> None:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    from tollway.starlette import rate_limit

    pong = PlainTextResponse("pong")
    assert pong.headers["content-length"] == "4"

    @rate_limit("5/h", limiter)
    async def ping(request: Request) -> Response:
        return pong

    async def free(request: Request) -> Response:
        return pong

    app = Starlette(routes=[Route("/ping", ping), Route("/free", free)])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        told = [(await client.get("/ping")).headers["x-ratelimit-remaining"] for _ in range(2)]
        assert told == ["4", "3"]
        assert "x-ratelimit-remaining" not in (await client.get("/free")).headers


def test_the_middleware_around_them(limiter: Limiter) -> None:
    shop = quart_shop()
    shop.app.asgi_app = LimiterMiddleware(shop.app.asgi_app, limiter, Policy("site", "3/h"))
    with shop.client() as client:
        answers = [client.get("/ping") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 3 + [429]
    assert answers[0].headers.get_list("x-ratelimit-limit") == ["3"]


def test_a_litestar_application_limited_as_a_whole(limiter: Limiter) -> None:
    from litestar import Litestar, get

    from tollway.litestar import LimiterPlugin

    @get("/")
    async def home() -> str:
        return "home"

    plugin = LimiterPlugin(limiter, "2/h", body="pacer")
    with Shop(Litestar([home], plugins=[plugin], openapi_config=None)).client() as client:
        answers = [client.get("/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].json()["detail"]["detail"] == "rate_limited"


def test_a_flask_application_limited_as_a_whole(limiter: Limiter) -> None:
    from tollway.flask import limit_app, rate_limit

    shop = flask_shop()
    limit_app(shop.app, Policy("site", "3/h"), limiter, exclude_paths=["/broken*"])

    async def late(request: Any) -> str:
        await asyncio.sleep(0)
        return "a"

    @shop.app.get("/late")
    @rate_limit("1/h", key=late)
    def never() -> str:
        return "never"

    with shop.client() as client:
        answers = [client.get(path) for path in ("/ping", "/missing", "/stacked", "/ping")]
        assert [answer.status_code for answer in answers] == [200, 404, 200, 429]
        assert answers[0].headers["x-ratelimit-limit"] == "3"
        assert answers[1].headers["x-ratelimit-remaining"] == "1"
        assert client.get("/broken").status_code == 500
    shop.app.testing = True
    limiter.reset(Policy("site", "3/h"), "127.0.0.1")
    with pytest.raises(ConfigError, match="no event loop"):
        shop.app.test_client().get("/late")
