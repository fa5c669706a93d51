"""LimiterMiddleware over real HTTP and WebSocket, with time as a value."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.asgi.serving import serve_asgi
from tollway import ConfigError, Limiter, Policy
from tollway.asgi import LimiterMiddleware, client_ip, rate_limit_of
from tollway.testing import ManualClock

PING = Policy("ping", ["5/10s"])


class Echo:
    """A plain ASGI application that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept", "headers": [(b"x-own", b"1")]})
            await send({"type": "websocket.close", "code": 1000})
            return
        self.calls += 1
        if scope["path"] == "/broken":
            raise RuntimeError("the handler broke")
        headers = [(b"content-type", b"text/plain"), (b"X-RateLimit-Limit", b"own")]
        status = 404 if scope["path"] == "/missing" else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": client_ip(scope).encode()})


def limited(limiter: Limiter, policy: Any = PING, **options: Any) -> tuple[Echo, LimiterMiddleware]:
    echo = Echo()
    return echo, LimiterMiddleware(echo, limiter, policy, **options)


def statuses(address: str, times: int, path: str = "/", **options: Any) -> list[int]:
    with httpx.Client(base_url=f"http://{address}") as client:
        return [client.get(path, **options).status_code for _ in range(times)]


def test_five_of_seven_pass_and_after_the_wait_one_more(
    limiter: Limiter, clock: ManualClock
) -> None:
    echo, app = limited(limiter)
    with serve_asgi(app) as address, httpx.Client(base_url=f"http://{address}") as client:
        answers = [client.get("/") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        assert echo.calls == 5
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == list("4321000")
        refused = answers[-1]
        assert refused.headers["retry-after"] == "2"
        assert refused.headers["ratelimit"] == '"ping";r=0;t=10'
        assert refused.headers["ratelimit-policy"] == '"ping";q=5;w=10'
        assert refused.headers["content-type"] == "application/problem+json"
        problem = refused.json()
        assert problem["status"] == 429
        assert problem["retry_after_ms"] == 2000
        assert problem["violated-policies"] == ["ping"]

        clock.advance(0.5)
        assert client.get("/").headers["retry-after"] == "2"  # 1.5 s, rounded up
        clock.advance(1.5)
        assert [client.get("/").status_code for _ in range(2)] == [200, 429]


def test_headers_are_written_once_and_on_every_answer(limiter: Limiter) -> None:
    _, app = limited(limiter)
    with serve_asgi(app) as address, httpx.Client(base_url=f"http://{address}") as client:
        for path in ("/", "/missing"):
            answer = client.get(path)
            assert answer.headers.get_list("x-ratelimit-limit") == ["5"]
            assert len(answer.headers.get_list("ratelimit")) == 1
            assert "retry-after" not in answer.headers


def test_header_families_can_be_left_out(limiter: Limiter) -> None:
    _, app = limited(limiter, x_headers=False)
    with serve_asgi(app) as address:
        answer = httpx.get(f"http://{address}/")
    assert answer.headers["x-ratelimit-limit"] == "own"
    assert "ratelimit" in answer.headers


def test_a_handler_that_raises_runs_once(limiter: Limiter) -> None:
    echo, app = limited(limiter)
    with serve_asgi(app) as address:
        assert statuses(address, 1, "/broken") == [500]
    assert echo.calls == 1


def test_forwarded_headers_of_an_untrusted_peer_change_nothing(limiter: Limiter) -> None:
    _, app = limited(limiter)
    with serve_asgi(app) as address:
        seen = [
            statuses(
                address,
                1,
                headers={"X-Forwarded-For": f"203.0.113.{n}", "Forwarded": f"for=192.0.2.{n}"},
            )[0]
            for n in range(7)
        ]
    assert seen == [200] * 5 + [429] * 2


def test_a_trusted_proxy_is_believed(limiter: Limiter) -> None:
    _, app = limited(limiter, trusted_proxies=["127.0.0.0/8"])
    with serve_asgi(app) as address, httpx.Client(base_url=f"http://{address}") as client:
        for n in range(7):
            answer = client.get("/", headers={"X-Forwarded-For": f"8.8.8.8, 203.0.113.{n}"})
            assert (answer.status_code, answer.text) == (200, f"203.0.113.{n}")
        same = {"X-Forwarded-For": "198.51.100.1"}
        assert [client.get("/", headers=same).status_code for _ in range(6)] == [200] * 5 + [429]


@pytest.mark.parametrize(
    ("key", "first", "second"),
    [
        ("header:X-Key", {"headers": {"X-Key": "a"}}, {"headers": {"X-Key": "b"}}),
        ("param:who", {"params": {"who": "a b"}}, {"params": {"who": "b"}}),
        ("cookie:sid", {"headers": {"Cookie": "x=1; sid=a"}}, {"headers": {"Cookie": "sid=b"}}),
    ],
)
def test_keys_by_name(
    limiter: Limiter, key: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    _, app = limited(limiter, "1/h", key=key)
    with serve_asgi(app) as address:
        assert statuses(address, 2, **first) == [200, 429]
        assert statuses(address, 2, **second) == [200, 429]
        # Without it the address is counted: leaving it out is no way round.
        assert statuses(address, 2) == [200, 429]


async def who(scope: Any) -> str:
    return dict(scope["headers"])[b"x-who"].decode()


def test_functions_for_key_and_cost(limiter: Limiter) -> None:
    def cost(scope: Any) -> int:
        return int(scope["query_string"] or b"1")

    _, app = limited(limiter, PING, key=who, cost=cost)
    with serve_asgi(app) as address:
        assert statuses(address, 2, "/?3", headers={"X-Who": "ada"}) == [200, 429]
        assert statuses(address, 3, headers={"X-Who": "ada"}) == [200, 200, 429]
        assert statuses(address, 1, headers={"X-Who": "bob"}) == [200]


def test_several_policies_are_all_or_nothing(limiter: Limiter, clock: ManualClock) -> None:
    burst, daily = Policy("burst", ["2/10s"]), Policy("daily", ["100/d"])
    _, app = limited(limiter, [burst, daily])
    with serve_asgi(app) as address, httpx.Client(base_url=f"http://{address}") as client:
        answers = [client.get("/") for _ in range(20)]
        assert [answer.status_code for answer in answers] == [200] * 2 + [429] * 18
        assert answers[-1].headers["ratelimit-policy"] == '"burst";q=2;w=10, "daily";q=100;w=86400'
    assert limiter.peek(daily, "127.0.0.1").remaining in (97, 98)
    assert limiter.check(daily, "127.0.0.1", 98).allowed


def test_excluded_paths_and_methods(limiter: Limiter) -> None:
    _, app = limited(limiter, "1/h", exclude_paths=["/docs*", "/health"])
    with serve_asgi(app) as address, httpx.Client(base_url=f"http://{address}") as client:
        assert statuses(address, 3, "/docs/oauth2") == [200] * 3
        assert statuses(address, 3, "/health") == [200] * 3
        assert [client.options("/").status_code for _ in range(3)] == [200] * 3
        assert statuses(address, 2, "/healthy") == [200, 429]


def test_paths_are_excluded_below_a_root_path(limiter: Limiter) -> None:
    _, app = limited(limiter, "1/h", exclude_paths=["/docs*"])

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": "/v1"}, receive, send)

    with serve_asgi(mounted) as address:
        assert statuses(address, 3, "/v1/docs") == [200] * 3
        assert statuses(address, 2, "/v1/items") == [200, 429]


def test_a_path_that_only_begins_like_the_root_path_is_told_whole(limiter: Limiter) -> None:
    # A proxy has taken "/admin" off, and the application has a route that begins alike.
    _, app = limited(limiter, "1/h", exclude_paths=["/administrators"])

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": "/admin"}, receive, send)

    with serve_asgi(mounted) as address:
        assert statuses(address, 3, "/administrators") == [200] * 3
        assert statuses(address, 2, "/admin/administrators") == [200] * 2
        assert statuses(address, 2, "/admin") == [200, 429]


def test_a_refused_upgrade_is_a_429(limiter: Limiter) -> None:
    _, app = limited(limiter, "1/h")
    with serve_asgi(app) as address:
        with connect(f"ws://{address}/") as socket:
            assert socket.response is not None
            assert socket.response.headers["x-ratelimit-remaining"] == "0"
            assert socket.response.headers["x-own"] == "1"
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://{address}/")
    response = refused.value.response
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3600"
    assert json.loads(response.body)["status"] == 429


async def call(app: Any, scope: dict[str, Any], receive: Callable[[], Any]) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    base = {"path": "/", "headers": [], "query_string": b"", "client": ("192.0.2.1", 1)}
    await app({**base, **scope}, receive, send)
    return sent


async def test_a_server_without_denial_responses_gets_a_close(limiter: Limiter) -> None:
    _, app = limited(limiter, "1/h")
    received: list[str] = []

    async def receive() -> dict[str, str]:
        received.append("websocket.connect")
        return {"type": "websocket.connect"}

    assert (await call(app, {"type": "websocket"}, receive))[0]["type"] == "websocket.accept"
    received.clear()
    sent = await call(app, {"type": "websocket"}, receive)
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert sent[0]["code"] == 1008
    assert received == ["websocket.connect"]


async def test_other_scopes_pass_through(limiter: Limiter) -> None:
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    async def never() -> None:
        raise AssertionError("nothing reads")

    await call(LimiterMiddleware(inner, limiter, "1/h"), {"type": "lifespan"}, never)
    assert seen == ["lifespan"]


def test_nested_middleware_share_one_set_of_headers(limiter: Limiter) -> None:
    echo, inner = limited(limiter, Policy("inner", ["2/h"]))
    seen: list[Any] = []

    async def between(scope: Any, receive: Any, send: Any) -> None:
        seen.append(rate_limit_of(scope))
        await inner(scope, receive, send)

    outer = LimiterMiddleware(between, limiter, Policy("outer", ["100/h"]))
    with serve_asgi(outer) as address:
        answer = httpx.get(f"http://{address}/")
    assert seen[0].policy == "outer"
    assert answer.headers.get_list("x-ratelimit-limit") == ["2"]
    assert answer.headers.get_list("ratelimit") == ['"inner";r=1;t=1800']
    assert echo.calls == 1


def test_a_policy_comes_from_the_limiter_when_none_is_given(clock: ManualClock) -> None:
    limiter = Limiter("memory://", Policy("house", ["1/h"]), clock=clock)
    with serve_asgi(LimiterMiddleware(Echo(), limiter)) as address:
        assert statuses(address, 2) == [200, 429]


@pytest.mark.parametrize(
    ("fail_mode", "expected"),
    [("closed", [503] * 7), ("open", [200] * 7), ("local", [200] * 5 + [429] * 2)],
)
def test_a_dead_store(dead_store: str, fail_mode: str, expected: list[int]) -> None:
    limiter = Limiter(dead_store, fail_mode=fail_mode)
    echo, app = limited(limiter, Policy("ping", ["5/h"]))
    with serve_asgi(app) as address, httpx.Client(base_url=f"http://{address}") as client:
        answers = [client.get("/") for _ in range(7)]
    assert [answer.status_code for answer in answers] == expected
    assert echo.calls == expected.count(200)
    if fail_mode == "closed":
        assert answers[0].headers["retry-after"] == "1"
        assert answers[0].headers["content-type"] == "application/problem+json"
        assert answers[0].json()["status"] == 503
        assert "redis" not in answers[0].text


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"policy": "5/q"}, "5/q"),
        ({"policy": "5/s", "key": "ipp"}, "ipp"),
        ({"policy": "5/s", "key": "post:name"}, "body"),
        ({"policy": "5/s", "cost": 0}, "cost=0"),
        ({"policy": "5/s", "exclude_paths": "/docs"}, "exclude_paths"),
        ({"policy": "5/s", "trusted_proxies": ["10.0.0.0/99"]}, "10.0.0.0/99"),
        ({"policy": []}, "no policy"),
    ],
)
def test_what_cannot_work_is_named_when_it_is_built(
    limiter: Limiter, options: dict[str, Any], part: str
) -> None:
    with pytest.raises(ConfigError, match=part):
        LimiterMiddleware(Echo(), limiter, **options)


def test_a_key_by_user_wants_a_user(limiter: Limiter) -> None:
    class User:
        is_authenticated = True
        display_name = "ada"

        @property
        def identity(self) -> str:
            raise NotImplementedError

    _, app = limited(limiter, "1/h", key="user")

    async def authenticated(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "user": User()}, receive, send)

    with serve_asgi(app) as address:
        assert statuses(address, 1) == [500]
    with serve_asgi(authenticated) as address:
        assert statuses(address, 2) == [200, 429]
    assert limiter.peek(Policy("1/h", ["1/h"]), "user:ada").remaining == 0


def test_it_imports_no_framework() -> None:
    code = (
        "import sys, tollway.asgi;"
        "print(sorted({'django', 'fastapi', 'starlette', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
