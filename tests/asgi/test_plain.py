"""Limits in which nothing of a project has a say are asked without waiting, and answer the same."""

from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tollway import Limiter, Policy
from tollway.asgi import LimiterMiddleware, compose
from tollway.asgi.limits import RouteLimit, plain
from tollway.fastapi import limit
from tollway.rules import Rules
from tollway.starlette import rate_limit
from tollway.testing import ManualClock

TIGHT, WIDE = Policy("tight", "2/m"), Policy("wide", "5/h", key="header:X-Team")
BUCKET = Policy("bucket", "3/m", algorithm="token_bucket")


def never(argument: Any) -> bool:
    """Skips nothing, but has to be asked."""
    return False


def scope(
    client: str | None = "192.0.2.1", path: str = "/", method: str = "GET", **headers: str
) -> dict[str, Any]:
    """A request as a server hands it on."""
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"who=ada",
        "client": client and (client, 1),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }


def requests() -> list[dict[str, Any]]:
    """Several clients, some of them too often."""
    return [
        *(scope() for _ in range(4)),
        *(scope("2001:db8::1", x_team="a") for _ in range(2)),
        *(scope("2001:db8::2", x_team="b", x_forwarded_for="198.51.100.7") for _ in range(2)),
        *(scope(None, x_team="a", cookie="session=1") for _ in range(3)),
        scope(method="OPTIONS"),
        scope(method="POST", host="shop"),
        scope(path="/missing"),
    ]


async def answers(app: Any) -> list[Any]:
    """All that is sent for these requests, but for the time of day."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        headers = [item for item in message.get("headers", ()) if item[0] != b"x-ratelimit-reset"]
        sent.append({**message, "headers": headers})

    for item in requests():
        await app(item, receive, send)
    return sent


async def echo(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"X-RateLimit-Limit", b"own"), [b"x-own", b"1"], (b"ratelimit", b"own")]
    status = 404 if scope["path"] == "/missing" else 200
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


def middleware(limiter: Limiter, policy: Any, **options: Any) -> Any:
    return LimiterMiddleware(echo, limiter, policy, **options)


def dependency(limiter: Limiter, policy: Any, **options: Any) -> Any:
    app = FastAPI(dependencies=[Depends(limit("4/h", limiter, **options))])

    @app.get("/", dependencies=[Depends(limit(policy, limiter, **options))])
    @app.post("/", dependencies=[Depends(limit(policy, limiter, **options))])
    async def home() -> str:
        return "hello"

    return app


def decorator(limiter: Limiter, policy: Any, **options: Any) -> Any:
    @rate_limit(policy, limiter, **options)
    @rate_limit("4/h", limiter, **options)
    async def home(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello", headers={"RateLimit": "own"})

    return Starlette(routes=[Route("/", home, methods=["GET", "POST"])])


ASKED: list[tuple[Any, dict[str, Any]]] = [
    (TIGHT, {}),
    ([TIGHT, WIDE], {}),
    ([TIGHT, TIGHT], {}),
    (BUCKET, {"cost": 2}),
    ("2/m", {"key": "header:X-Team"}),
    ("2/m", {"key": "cookie:session"}),
    ("2/m", {"key": "param:who"}),
    ("2/m", {"key": "global"}),
]


@pytest.mark.parametrize("door", [middleware, dependency, decorator])
@pytest.mark.parametrize(("policy", "options"), ASKED)
async def test_all_doors_answer_the_same_on_both_ways(
    door: Any, policy: Any, options: dict[str, Any], clock: ManualClock
) -> None:
    assert plain([RouteLimit(policy, None, share="route", body=None, **_whole(options))], "r")
    at_once = await answers(door(Limiter("memory://", clock=clock), policy, **options))
    waiting = door(Limiter("memory://", clock=clock), policy, skip_if=never, **options)
    assert at_once == await answers(waiting)
    assert {200, 429} <= {item.get("status") for item in at_once}


def _whole(options: dict[str, Any]) -> dict[str, Any]:
    return {"cost": 1, "key": None, **options}


@pytest.mark.parametrize(
    "options",
    [
        {"trusted_proxies": ["2001:db8::/32"]},
        {"proxy_hops": 1, "ipv6_prefix": 128},
        {"exclude_paths": ["/mis*"], "exclude_methods": []},
        {"x_headers": False},
        {"ietf_headers": False, "body": "pacer"},
        {"rules": Rules({"deny": ["192.0.2.1"], "skip": ["/missing"]})},
    ],
)
async def test_the_middleware_answers_the_same_however_it_is_set_up(
    options: dict[str, Any], clock: ManualClock
) -> None:
    both = [
        middleware(Limiter("memory://", clock=clock), [TIGHT, WIDE], **options, **more)
        for more in ({}, {"skip_if": never})
    ]
    at_once, waiting = [await answers(app) for app in both]
    assert at_once == waiting
    assert {200, 429} <= {item.get("status") for item in at_once}


@pytest.mark.parametrize(
    "options",
    [
        {"skip_if": never},
        {"cost": lambda request: 1},
        {"key": lambda request: "ada"},
        {"key": "user"},
        {"key": "api_key"},
        {"key": "composite(ip, header:X-Team)"},
        {"key": compose("ip", "global")},
    ],
)
def test_whatever_may_have_to_wait_is_waited_for(options: dict[str, Any]) -> None:
    item = RouteLimit("1/m", None, share="route", body=None, **_whole(options))
    assert plain([item], "r") is None


def test_limits_of_two_limiters_are_asked_apart(limiter: Limiter) -> None:
    made = [
        RouteLimit("1/m", where, 1, None, "route", None)
        for where in (limiter, Limiter("memory://"))
    ]
    assert plain(made[:1], "r")
    assert plain(made, "r") is None
