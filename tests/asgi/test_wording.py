"""How refusals are worded: the same from the middleware and from a route, over real HTTP."""

from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI

from tests.asgi.serving import serve_asgi
from tollway import ConfigError, Decision, Limiter, Policy
from tollway.asgi import set_limiter
from tollway.fastapi import LimiterMiddleware, limit, rate_limit
from tollway.rules import Rules

pytestmark = pytest.mark.usefixtures("default_limiter")

PACER = {"detail": {"detail": "rate_limited", "retry_after_ms": 3_600_000}}


def in_french(decision: Decision, scope: Any) -> dict[str, Any]:
    return {"erreur": "trop", "attendez": decision.retry_after_seconds, "chemin": scope["path"]}


def guarded(limiter: Limiter, **options: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(LimiterMiddleware, limiter=limiter, policy="1/h", **options)

    @app.get("/")
    async def home() -> str:
        return "home"

    return app


def routed(limiter: Limiter, **options: Any) -> FastAPI:
    app = FastAPI()

    @app.get("/", dependencies=[Depends(limit("1/h", limiter, **options))])
    async def home() -> str:
        return "home"

    return app


def decorated(limiter: Limiter, **options: Any) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    @rate_limit("1/h", limiter, **options)
    def home() -> str:
        return "home"

    return app


def refused(app: FastAPI) -> httpx.Response:
    with serve_asgi(app) as address:
        answers = [httpx.get(f"http://{address}/") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[1].headers["retry-after"] == "3600"
    assert answers[1].headers["x-ratelimit-limit"] == "1"
    assert answers[1].headers["content-length"] == str(len(answers[1].content))
    return answers[1]


@pytest.mark.parametrize("door", [guarded, routed, decorated])
@pytest.mark.parametrize(
    ("body", "media_type", "text"),
    [
        (
            "pacer",
            "application/json",
            '{"detail":{"detail":"rate_limited","retry_after_ms":3600000}}',
        ),
        (in_french, "application/json", '{"erreur":"trop","attendez":3600,"chemin":"/"}'),
        (lambda decision, scope: "wait", "text/plain; charset=utf-8", "wait"),
        (lambda decision, scope: ("text/html", "<b>wait</b>"), "text/html", "<b>wait</b>"),
        (lambda decision, scope: b"\x00", "application/octet-stream", "\x00"),
    ],
)
def test_every_door_words_it_alike(
    limiter: Limiter, door: Any, body: Any, media_type: str, text: str
) -> None:
    answer = refused(door(limiter, body=body))
    assert answer.headers["content-type"] == media_type
    assert answer.text == text


def test_a_default_is_said_once_and_a_limit_may_differ(limiter: Limiter) -> None:
    set_limiter(limiter, body="pacer")
    assert refused(routed(limiter)).json() == PACER
    assert refused(guarded(Limiter(), body="problem")).json()["status"] == 429


def test_no_wait_is_told_where_waiting_does_not_help(limiter: Limiter) -> None:
    app = guarded(limiter, cost=2, body="pacer")
    with serve_asgi(app) as address:
        answer = httpx.get(f"http://{address}/")
    assert answer.json() == {"detail": {"detail": "rate_limited"}}
    assert "retry-after" not in answer.headers


def test_the_middleware_words_what_lies_further_in(limiter: Limiter) -> None:
    app = routed(limiter)
    app.add_middleware(LimiterMiddleware, body="pacer")
    answer = refused(app)
    assert answer.json() == PACER
    assert answer.headers.get_list("content-type") == ["application/json"]


def test_a_denied_client_is_not_told_to_come_back(limiter: Limiter) -> None:
    app = guarded(limiter, body="pacer", rules=Rules({"deny": ["127.0.0.1"]}))
    with serve_asgi(app) as address:
        answer = httpx.get(f"http://{address}/")
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"


def test_bodies_that_cannot_work_are_named() -> None:
    with pytest.raises(ConfigError, match="body='html'"):
        limit("1/h", body="html")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="body='html'"):
        LimiterMiddleware(FastAPI(), None, Policy("a", "1/h"), body="html")  # type: ignore[arg-type]
