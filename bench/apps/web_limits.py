"""One contender in front of a route of FastAPI: how much its limit adds to a request.

`python web_limits.py CONTENDER DOOR STORE`, then a line on standard input for each measurement.
Each answers with a line of JSON: microseconds of processor time that a request costs more with the
limit than without, and how often the process read from Redis for it.
"""

import asyncio
import gc
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import redis as plain_redis
import redis.asyncio as redis
from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse

BLOCK, BLOCKS, AT_ONCE = 256, 16, 64
CLIENTS = 2_000
RATE = 100_000  # an hour: nobody is refused

App = Callable[[Any, Any, Any], Awaitable[None]]


async def pong(request: Request) -> PlainTextResponse:
    return PlainTextResponse("pong")


def bare() -> FastAPI:
    app = FastAPI()
    app.get("/ping")(pong)
    return app


def tollway(store: str) -> Any:
    from tollway import Limiter

    return Limiter(store, command_timeout=5.0, near_cache=0)


def our_middleware(store: str) -> App:
    from tollway.asgi import LimiterMiddleware

    app = bare()
    app.add_middleware(LimiterMiddleware, limiter=tollway(store), policy=f"{RATE}/h")
    return app


def our_dependency(store: str) -> App:
    from tollway.fastapi import limit

    app = FastAPI()
    app.get("/ping", dependencies=[Depends(limit(f"{RATE}/h", tollway(store)))])(pong)
    return app


def slow_limiter(store: str, **options: Any) -> Any:
    from slowapi import Limiter
    from slowapi.util import get_remote_address

    return Limiter(get_remote_address, storage_uri=store, headers_enabled=True, **options)


def slow_middleware(store: str) -> App:
    from slowapi.middleware import SlowAPIASGIMiddleware

    app = bare()
    app.state.limiter = slow_limiter(store, default_limits=[f"{RATE}/hour"])
    app.add_middleware(SlowAPIASGIMiddleware)
    return app


def slow_decorator(store: str) -> App:
    app = FastAPI()
    app.state.limiter = slow_limiter(store)
    app.get("/ping")(app.state.limiter.limit(f"{RATE}/hour")(pong))
    return app


def asgi_middleware(store: str) -> App:
    from ratelimit import RateLimitMiddleware, Rule
    from ratelimit.backends.redis import RedisBackend
    from ratelimit.backends.simple import MemoryBackend

    async def who(scope: Any) -> tuple[str, str]:
        return scope["client"][0], "default"

    remote = store.startswith("redis:")
    backend = RedisBackend(redis.from_url(store)) if remote else MemoryBackend()
    app = bare()
    app.add_middleware(
        RateLimitMiddleware,
        authenticate=who,
        backend=backend,
        config={r"^/ping": [Rule(hour=RATE)]},
    )
    return app


async def fastapi_dependency(store: str) -> App:
    from fastapi_limiter.depends import RateLimiter
    from pyrate_limiter import Duration, Limiter, Rate, RedisBucket

    rates = [Rate(RATE, Duration.HOUR)]
    bucket: Any = rates
    if store.startswith("redis:"):
        bucket = await RedisBucket.init(rates, redis.from_url(store), "ping")
    app = FastAPI()
    app.get("/ping", dependencies=[Depends(RateLimiter(limiter=Limiter(bucket)))])(pong)
    return app


DOORS: dict[str, dict[str, Callable[[str], Any]]] = {
    "middleware": {
        "tollway": our_middleware,
        "slowapi": slow_middleware,
        "asgi-ratelimit": asgi_middleware,
    },
    "dependency": {
        "tollway": our_dependency,
        "slowapi": slow_decorator,
        "fastapi-limiter": fastapi_dependency,
    },
}


def scopes() -> Iterator[dict[str, Any]]:
    for number in itertools.cycle(range(CLIENTS)):
        yield {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/ping",
            "raw_path": b"/ping",
            "root_path": "",
            "query_string": b"",
            "client": (f"10.0.{number >> 8}.{number & 255}", 50_000),
            "server": ("127.0.0.1", 8000),
            "headers": [
                (b"host", b"127.0.0.1:8000"),
                (b"user-agent", b"wrk/4.1.0"),
                (b"accept", b"*/*"),
                (b"accept-encoding", b"gzip, br"),
            ],
        }


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def answer(app: App, scope: dict[str, Any]) -> None:
    async def send(message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise RuntimeError(f"a request was answered with {message['status']}")

    await app(scope, receive, send)


async def client(app: App, stream: Iterator[dict[str, Any]]) -> None:
    for scope in stream:
        await answer(app, scope)


async def block(app: App, stream: Iterator[dict[str, Any]]) -> int:
    """Nanoseconds of processor time for one block of requests, all of which must pass."""
    requests = iter(list(itertools.islice(stream, BLOCK)))
    began = time.process_time_ns()
    await asyncio.gather(*(client(app, requests) for _ in range(AT_ONCE)))
    return time.process_time_ns() - began


async def main() -> None:
    contender, door, store = sys.argv[1:]
    made = DOORS[door][contender](store)
    limited: App = await made if asyncio.iscoroutine(made) else made
    plain, stream = bare(), scopes()
    asked = plain_redis.Redis.from_url(store) if store.startswith("redis:") else None

    def reads() -> int:
        return 0 if asked is None else int(asked.info("stats")["total_reads_processed"])

    for _ in range(CLIENTS // BLOCK + 1):  # lets everybody in
        await block(plain, scopes())
        await block(limited, stream)
    # What lives on is not looked through again: a whole collection takes as long as a block of
    # requests, and would be put down to whichever block it fell into.
    gc.collect()
    gc.freeze()
    for _ in sys.stdin:
        before, spent = reads(), 0
        for _ in range(BLOCKS):
            spent -= await block(plain, stream)
            spent += await block(limited, stream)
        requests = BLOCK * BLOCKS
        own = 2 if asked is not None else 0  # the questions of `reads` themselves
        told = {"us": spent / requests / 1000, "reads": (reads() - before - own) / requests}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
