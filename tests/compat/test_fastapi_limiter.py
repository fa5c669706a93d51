"""Code written for fastapi-limiter, both forms, with changed imports, over real HTTP."""

from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import redis.asyncio as redis
from fastapi import Depends, FastAPI, HTTPException, Request, Response, WebSocket
from websockets.sync.client import connect

from tests.asgi.serving import dead_port, serve_asgi
from tollway import ConfigError
from tollway import Limiter as Engine
from tollway.compat.fastapi_limiter import Duration, FastAPILimiter, Limiter, Rate, _url_of
from tollway.compat.fastapi_limiter.decorators import skip_limiter
from tollway.compat.fastapi_limiter.depends import RateLimiter, WebSocketRateLimiter
from tollway.testing import ManualClock


@pytest.fixture(autouse=True)
async def started(clock: ManualClock) -> Any:
    await FastAPILimiter.init(Engine("memory://", clock=clock))
    yield
    await FastAPILimiter.init("memory://")
    await FastAPILimiter.close()


async def ask(app: Any, *paths: str, ip: str = "192.0.2.1", **options: Any) -> list[httpx.Response]:
    transport = httpx.ASGITransport(app, client=(ip, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        return [await client.get(path, **options) for path in paths]


async def statuses(app: Any, *paths: str, **options: Any) -> list[int]:
    return [answer.status_code for answer in await ask(app, *paths, **options)]


async def test_the_first_page_of_its_manual(clock: ManualClock) -> None:
    app = FastAPI()

    @app.get("/", dependencies=[Depends(RateLimiter(times=2, seconds=5))])
    async def index() -> dict[str, str]:
        return {"msg": "Hello World"}

    answers = await ask(app, "/", "/", "/")
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json() == {"detail": "Too Many Requests"}
    assert answers[2].headers["retry-after"] == "5"
    assert await statuses(app, "/", ip="192.0.2.2") == [200]  # another client, another count
    clock.advance(5)
    assert await statuses(app, "/", "/", "/") == [200, 200, 429]


async def test_several_on_one_route_in_any_order(clock: ManualClock) -> None:
    app = FastAPI()
    both = [RateLimiter(times=3, seconds=15), RateLimiter(times=1, seconds=5)]

    @app.get("/multiple", dependencies=[Depends(item) for item in both])
    @app.get("/other", dependencies=[Depends(item) for item in reversed(both)])
    async def multiple() -> None: ...

    for path in ("/multiple", "/other"):
        assert await statuses(app, path, path, ip=path) == [200, 429]
    clock.advance(5)
    assert await statuses(app, "/multiple", ip="/multiple") == [200]


async def test_routes_and_paths_count_apart_and_spans_add_up() -> None:
    app = FastAPI()
    one = Depends(RateLimiter(times=1, milliseconds=500, seconds=1, minutes=1, hours=1))

    @app.get("/a", dependencies=[one])
    @app.get("/b/{item}", dependencies=[one])
    async def read(item: int = 0) -> None: ...

    assert await statuses(app, "/a", "/b/1", "/b/2", "/a") == [200, 200, 200, 429]
    assert (await ask(app, "/a"))[0].headers["retry-after"] == "3662"


async def test_identifiers_and_callbacks_of_the_project() -> None:
    app = FastAPI()
    told: list[int] = []

    async def by_key(request: Request) -> str:
        return request.headers.get("x-key", "nobody")

    async def own(request: Request, response: Response, pexpire: int) -> None:
        told.append(pexpire)
        raise HTTPException(503, "come back")

    def lets_pass(request: Request, response: Response) -> None:
        response.headers["x-too-many"] = "yes"

    @app.get("/key", dependencies=[Depends(RateLimiter(1, seconds=5, identifier=by_key))])
    async def key() -> None: ...

    @app.get("/own", dependencies=[Depends(RateLimiter(times=1, seconds=5, callback=own))])
    async def called() -> None: ...

    @app.get("/pass", dependencies=[Depends(RateLimiter(times=1, seconds=5, callback=lets_pass))])
    async def passes() -> None: ...

    assert await statuses(app, "/key", "/key", headers={"X-Key": "a"}) == [200, 429]
    assert await statuses(app, "/key", headers={"X-Key": "b"}) == [200]
    assert await statuses(app, "/own", "/own") == [200, 503] and told == [5000]
    answers = await ask(app, "/pass", "/pass")
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[1].headers["x-too-many"] == "yes"
    await FastAPILimiter.init("memory://", identifier=by_key, http_callback=own)
    plain = FastAPI()

    @plain.get("/", dependencies=[Depends(RateLimiter(times=1, minutes=1))])
    async def home() -> None: ...

    assert await statuses(plain, "/", "/", headers={"X-Key": "a"}) == [200, 503]


def socket_app(limiter: WebSocketRateLimiter) -> FastAPI:
    app = FastAPI()

    @app.websocket("/ws")
    async def answer(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            try:
                await limiter(websocket, context_key=text)
                await websocket.send_text("Hello, world")
            except HTTPException as error:
                await websocket.send_text(f"Hello again {error.status_code}")

    return app


@pytest.mark.parametrize(
    "limiter",
    [
        WebSocketRateLimiter(times=1, seconds=5),
        WebSocketRateLimiter(limiter=Limiter(Rate(1, Duration.SECOND * 5))),
    ],
    ids=["0.1", "0.2"],
)
def test_messages_of_a_websocket(limiter: WebSocketRateLimiter) -> None:
    with serve_asgi(socket_app(limiter)) as address, connect(f"ws://{address}/ws") as socket:
        said = []
        for text in ("a", "a", "b"):
            socket.send(text)
            said.append(socket.recv())
    assert said == ["Hello, world", "Hello again 429", "Hello, world"]


async def test_the_newer_form_and_one_count_for_each_client(clock: ManualClock) -> None:
    app = FastAPI()
    rates = [Rate(2, Duration.SECOND * 5), Rate(3, Duration.MINUTE)]

    @app.get("/", dependencies=[Depends(RateLimiter(limiter=Limiter(rates)))])
    async def index() -> None: ...

    @app.get("/skip", dependencies=[Depends(RateLimiter(limiter=Limiter(rates[0])))])
    @skip_limiter
    async def skip() -> None: ...

    assert await statuses(app, "/", "/", "/") == [200, 200, 429]
    assert await statuses(app, "/", ip="192.0.2.2") == [200]
    clock.advance(5)
    assert await statuses(app, "/", "/") == [200, 429]
    assert await statuses(app, *["/skip"] * 5) == [200] * 5


async def test_blocking_waits_for_a_place() -> None:
    app = FastAPI()
    await FastAPILimiter.init("memory://")
    waits = RateLimiter(limiter=Limiter(Rate(1, 100)), blocking=True)

    @app.get("/", dependencies=[Depends(waits)])
    async def index() -> None: ...

    assert await statuses(app, "/", "/", "/") == [200, 200, 200]


async def test_blocking_without_a_store_is_a_503() -> None:
    app = FastAPI()
    with dead_port() as port:
        engine = Engine(f"redis://127.0.0.1:{port}/0", fail_mode="closed")
        await FastAPILimiter.init(engine)
        once = RateLimiter(limiter=Limiter(Rate(1, Duration.HOUR), engine=engine), blocking=True)

        @app.get("/", dependencies=[Depends(once)])
        async def index() -> str:
            return "index"

        (answer,) = await ask(app, "/")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_a_client_of_ipv6_is_its_network() -> None:
    app = FastAPI()

    @app.get("/", dependencies=[Depends(RateLimiter(times=2, hours=1))])
    async def index() -> str:
        return "index"

    addresses = [f"2001:db8::{n}" for n in range(1, 4)]
    assert [await statuses(app, "/", ip=ip) for ip in addresses] == [[200], [200], [429]]


async def test_it_counts_in_the_redis_of_the_client(redis_url: str) -> None:
    client = redis.from_url(f"{redis_url}/3", encoding="utf-8", decode_responses=True)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        await FastAPILimiter.init(client, prefix="shop", command_timeout=20, connect_timeout=20)
        yield
        await FastAPILimiter.close()
        await client.aclose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/", dependencies=[Depends(RateLimiter(times=2, minutes=5))])
    async def index() -> None: ...

    async with lifespan(app):
        assert await statuses(app, "/", "/", "/") == [200, 200, 429]
        assert [key async for key in client.scan_iter("shop:*")]
    assert FastAPILimiter.engine is None
    with pytest.raises(ConfigError, match="nothing says where"):
        await ask(app, "/")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://10.0.0.5/2", "redis://10.0.0.5:6379/2"),
        ("rediss://ada:p%40ss@cache:6380", "rediss://ada:p%40ss@cache:6380/0"),
        ("unix:///run/redis.sock?db=1", "redis+unix:///run/redis.sock?db=1"),
        ("redis://[::1]:7000", "redis://[::1]:7000/0"),
    ],
)
def test_the_address_of_a_client_is_read(url: str, wanted: str) -> None:
    assert _url_of(redis.from_url(url)) == wanted


async def test_what_cannot_work_is_named() -> None:
    with pytest.raises(ConfigError):
        RateLimiter(times=2)
    with pytest.raises(ConfigError):
        RateLimiter(times=0, seconds=1)
    with pytest.raises(ConfigError, match="takes a Rate"):
        Limiter([])
    with pytest.raises(ConfigError, match="no client of redis-py"):
        await FastAPILimiter.init(object())
