"""Rules at the ASGI and FastAPI doors, over real HTTP."""

from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI

from tests.asgi.serving import serve_asgi
from tollway import Decision, Limiter, Policy
from tollway.asgi import LimiterMiddleware, passage
from tollway.fastapi import limit, set_limiter
from tollway.rules import Rules, TierCache


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passage, "_default", None)


def of_headers(scope: Any) -> dict[str, Any]:
    headers = dict(scope["headers"])
    told = {"user": headers.get(b"x-user"), "org": headers.get(b"x-org")}
    return {name: value.decode() for name, value in told.items() if value}


def test_lists_skips_and_overrides_at_the_middleware(limiter: Limiter) -> None:
    rules = Rules(
        {
            "deny": ["203.0.113.0/24", "user:mallory"],
            "allow": ["203.0.113.7"],
            "skip": ["/health"],
            "overrides": [{"who": "user:vip", "rate": "5/h"}],
        }
    )
    app = LimiterMiddleware(
        hello, limiter, "2/h", trusted_proxies=["127.0.0.1"], rules=rules, facts=of_headers
    )
    with serve_asgi(app) as address, httpx.Client(base_url=f"http://{address}") as client:

        def get(path: str = "/", ip: str = "198.51.100.1", **headers: str) -> httpx.Response:
            return client.get(path, headers={"X-Forwarded-For": ip, **headers})

        denied = get(ip="203.0.113.9")
        assert denied.status_code == 403
        assert denied.headers["content-type"] == "application/problem+json"
        assert denied.json()["title"] == "Forbidden" and "retry-after" not in denied.headers
        assert get(ip="::ffff:203.0.113.9").status_code == 403
        assert get(**{"X-User": "mallory"}).status_code == 403

        assert [get(ip="203.0.113.7").status_code for _ in range(5)] == [200] * 5
        assert "ratelimit" not in get(ip="203.0.113.7").headers
        assert [get("/health").status_code for _ in range(5)] == [200] * 5
        assert [get().status_code for _ in range(3)] == [200, 200, 429]
        vip = [get(ip="198.51.100.2", **{"X-User": "vip"}) for _ in range(6)]
        assert [answer.status_code for answer in vip] == [200] * 5 + [429]
        assert vip[0].headers["x-ratelimit-limit"] == "5"


def test_a_change_is_in_force_at_the_next_request(limiter: Limiter) -> None:
    rules = Rules()
    app = LimiterMiddleware(hello, limiter, rules=rules)
    with serve_asgi(app) as address, httpx.Client(base_url=f"http://{address}") as client:
        assert [client.get("/api/x").status_code for _ in range(5)] == [200] * 5
        rules.replace({"limits": {"api": {"paths": ["/api/"], "by": "ip", "rate": "1/h"}}})
        assert [client.get("/api/x").status_code for _ in range(2)] == [200, 429]
        assert client.get("/").status_code == 200
        rules.replace({"deny": ["127.0.0.1"]})
        assert client.get("/").status_code == 403
        rules.replace({})
        assert client.get("/api/x").status_code == 200


def test_routes_go_through_the_rules_of_the_default_limiter(
    limiter: Limiter, defaults: None
) -> None:
    tiers = TierCache(lambda user: "pro" if user == "anna" else None)

    async def facts(scope: Any) -> dict[str, Any]:
        told = of_headers(scope)
        return {**told, "tier": await tiers.aget(told.get("user"))}

    rules = Rules(
        {
            "deny": ["user:mallory"],
            "limits": {
                "items": {
                    "name": "user",
                    "tiers": {"pro": "4/h"},
                    "levels": [{"by": "org", "rate": "5/h"}],
                }
            },
        }
    )
    set_limiter(limiter, rules=rules, facts=facts)
    app = FastAPI()
    items = limit(Policy("items", "1/h", key="header:X-User"), share="policy")

    @app.get("/items")
    async def read(decision: Annotated[Decision, Depends(items)]) -> dict[str, Any]:
        return {"level": decision.level, "rule": decision.rule}

    with serve_asgi(app) as address, httpx.Client(base_url=f"http://{address}") as client:

        def get(user: str, org: str = "acme") -> httpx.Response:
            return client.get("/items", headers={"X-User": user, "X-Org": org})

        assert get("mallory").status_code == 403
        assert get("anna").json() == {"level": "user", "rule": "tier pro"}
        assert [get("anna").status_code for _ in range(4)] == [200, 200, 200, 429]
        assert get("ben").json()["level"] == "user"
        refused = get("carl")
        assert refused.status_code == 429 and refused.json()["violated-policies"] == ["items/org"]
        assert get("carl", org="other").status_code == 200


def test_a_path_is_charged_once_a_request(limiter: Limiter, defaults: None) -> None:
    rules = Rules({"limits": {"api": {"paths": ["/"], "by": "ip", "rate": "3/h"}}})
    inner = FastAPI()

    @inner.get("/", dependencies=[Depends(limit("100/h", limiter))])
    async def read() -> str:
        return "read"

    app = LimiterMiddleware(inner, limiter, rules=rules)
    with serve_asgi(app) as address, httpx.Client(base_url=f"http://{address}") as client:
        assert [client.get("/").status_code for _ in range(4)] == [200, 200, 200, 429]


def test_a_shadow_shows_clients_nothing(limiter: Limiter) -> None:
    rules = Rules({"limits": {"*": {"shadow": True}}})
    app = LimiterMiddleware(hello, limiter, "1/h", rules=rules)
    with serve_asgi(app) as address, httpx.Client(base_url=f"http://{address}") as client:
        answers = [client.get("/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert not any("ratelimit" in name for answer in answers for name in answer.headers)
    assert rules.shadows() == {"*": (3, 2)}
