"""Who is counted at the ASGI doors: keys by name, composed, told by facts, read from tokens."""

import time
from typing import Annotated, Any

import httpx
import jwt
import litestar
import pytest
from fastapi import Depends, FastAPI, Request

from tollway import ConfigError, Decision, Limiter, Policy
from tollway.asgi import LimiterMiddleware, compose
from tollway.fastapi import limit, set_limiter
from tollway.litestar import LimiterPlugin
from tollway.litestar import limit as litestar_limit
from tollway.tokens import Verifier

SECRET = "a shared secret of 32 bytes or so"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def statuses(app: Any, *requests: dict[str, Any], ip: str = "192.0.2.1") -> list[int]:
    """What requests with these headers, parameters and so on are answered with, in turn."""
    transport = httpx.ASGITransport(app, client=(ip, 1), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        return [
            (await client.request(**{"method": "GET", "url": "/", **item})).status_code
            for item in requests
        ]


def key(value: str) -> dict[str, Any]:
    return {"headers": {"X-API-Key": value}}


async def test_api_key_is_the_header_and_never_kept_in_clear(limiter: Limiter) -> None:
    asked: list[str] = []
    policy = Policy("keys", "1/h")
    app = LimiterMiddleware(hello, limiter, policy, key="api_key")
    assert await statuses(app, key("a"), key("a"), key("b"), {}, {}) == [200, 429, 200, 200, 429]

    async def spy(scope: Any) -> dict[str, str]:
        asked.append(scope["path"])
        return {"key": "told"}

    told = LimiterMiddleware(hello, limiter, policy, key="api_key", facts=spy)
    assert await statuses(told, key("c"), key("d")) == [200, 429]
    assert asked == ["/", "/"]


async def test_the_organisation_and_the_user_are_told_by_facts(limiter: Limiter) -> None:
    def facts(scope: Any) -> dict[str, str]:
        headers = dict(scope["headers"])
        return {
            name: headers[f"x-{name}".encode()].decode()
            for name in ("org", "user")
            if f"x-{name}".encode() in headers
        }

    def of(**names: str) -> dict[str, Any]:
        return {"headers": {f"X-{name}": value for name, value in names.items()}}

    by_org = LimiterMiddleware(hello, limiter, "1/h", key="org", facts=facts)
    seen = await statuses(by_org, of(org="acme"), of(org="acme"), of(org="bolt"), {}, {})
    assert seen == [200, 429, 200, 200, 429]
    by_user = LimiterMiddleware(hello, limiter, "1/h", key="user", facts=facts)
    seen = await statuses(by_user, of(user="ada"), of(user="ada"), of(user="bob"))
    assert seen == [200, 429, 200]
    untold = LimiterMiddleware(hello, limiter, "1/h", key="org")
    with pytest.raises(ConfigError, match="facts="):
        await untold({"type": "http", "headers": [], "path": "/"}, None, None)  # type: ignore[arg-type]


async def test_a_claim_counts_when_its_token_verifies(limiter: Limiter) -> None:
    def token(subject: str, secret: str = SECRET) -> dict[str, Any]:
        claims = {"sub": subject, "exp": time.time() + 600}
        return {"headers": {"Authorization": f"Bearer {jwt.encode(claims, secret, 'HS256')}"}}

    app = LimiterMiddleware(
        hello, limiter, "1/h", key="jwt:sub", verifier=Verifier(SECRET, ["HS256"])
    )
    assert await statuses(app, token("ada"), token("ada"), token("bob")) == [200, 429, 200]
    forged = [token(str(n), "another secret of that length...") for n in range(3)]
    assert await statuses(app, *forged) == [200, 429, 429]  # one address, whoever they say they are
    bare = LimiterMiddleware(hello, limiter, "1/h", key="jwt:sub")
    with pytest.raises(ConfigError, match="verifier="):
        await bare({"type": "http", "headers": [], "path": "/"}, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "by", [compose("api_key", "ip"), "composite(api_key, ip)", "{api_key}/{ip}"]
)
async def test_a_composed_key_is_each_of_its_parts(limiter: Limiter, by: Any) -> None:
    app = LimiterMiddleware(hello, limiter, "1/h", key=by)
    assert await statuses(app, key("a"), key("a"), key("b")) == [200, 429, 200]
    assert await statuses(app, key("a"), key("a"), ip="192.0.2.2") == [200, 429]


async def test_functions_compose_sync_and_async_alike(limiter: Limiter) -> None:
    async def plan(request: Any) -> str | None:
        return dict(request["headers"]).get(b"x-plan", b"").decode() or None

    def path(request: Any) -> str:
        return str(request["path"])

    app = LimiterMiddleware(hello, limiter, "1/h", key=compose(plan, path, "ip"))
    gold = {"headers": {"X-Plan": "gold"}}
    assert await statuses(app, gold, gold, {**gold, "url": "/b"}, {}, {}) == [
        200,
        429,
        200,
        200,
        429,
    ]


async def test_texts_with_separators_in_them_stay_apart(limiter: Limiter) -> None:
    def first(request: Any) -> str:
        return dict(request["headers"])[b"x-one"].decode()

    def second(request: Any) -> str:
        return dict(request["headers"])[b"x-two"].decode()

    app = LimiterMiddleware(hello, limiter, "1/h", key=compose(first, second))
    requests = [{"headers": {"X-One": a, "X-Two": b}} for a, b in (("a|b", "c"), ("a", "b|c"))]
    assert await statuses(app, *requests) == [200, 200]


async def test_a_composed_key_on_a_route_waits_for_what_is_left_in_the_request(
    default_limiter: Limiter,
) -> None:
    app = FastAPI()

    def login(request: Request) -> None:
        request.state.tenant = request.headers["x-org"]

    by_tenant = limit("1/h", key=compose(lambda request: request.state.tenant, "ip"))

    @app.get("/", dependencies=[Depends(limit("9/h")), Depends(login)])
    async def read(decision: Annotated[Decision, Depends(by_tenant)]) -> int:
        return decision.limit

    acme, bolt = ({"headers": {"X-Org": name}} for name in ("acme", "bolt"))
    assert await statuses(app, acme, acme, bolt) == [200, 429, 200]


async def test_a_template_may_name_the_route(default_limiter: Limiter) -> None:
    app = FastAPI()
    shared = limit(Policy("shared", "1/h"), key="{ip}/{route}", share="policy")

    @app.get("/items/{item}", dependencies=[Depends(shared)])
    @app.get("/other", dependencies=[Depends(shared)])
    async def read(item: int = 0) -> int:
        return item

    wanted = [{"url": "/items/1"}, {"url": "/items/2"}, {"url": "/other"}]
    assert await statuses(app, *wanted) == [200, 429, 200]
    early = LimiterMiddleware(app, default_limiter, "1/h", key="{ip}/{route}")
    with pytest.raises(ConfigError, match="before any routing"):
        await early({"type": "http", "headers": [], "path": "/"}, None, None)  # type: ignore[arg-type]


async def test_spellings_and_invented_methods_are_no_way_round_a_template(limiter: Limiter) -> None:
    async def answered(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    by_host = LimiterMiddleware(answered, limiter, "1/h", key="{ip}{host}{method}")
    hosts = ["shop.example", "SHOP.example", "shop.example:8000", "shop.example.", "other.example"]
    wanted = [{"headers": {"Host": host}} for host in hosts]
    assert await statuses(by_host, *wanted) == [200, 429, 429, 429, 200]
    invented = [{"method": method, "headers": {"Host": "a"}} for method in ("GETT", "GETTT")]
    assert await statuses(by_host, *invented) == [200, 429]


async def test_set_limiter_tells_routes_what_the_middleware_would(
    limiter: Limiter, default_limiter: Limiter
) -> None:
    set_limiter(limiter, facts=lambda scope: {"org": "acme"}, verifier=Verifier(SECRET, ["HS256"]))
    app = FastAPI()

    @app.get("/", dependencies=[Depends(limit("1/h", key=compose("org", "jwt:sub")))])
    async def read() -> None: ...

    assert await statuses(app, {}, {}) == [200, 429]


@pytest.mark.parametrize("keys", [(), ("ip",), ("ip", "ipp"), ("ip", "post:name")])
def test_what_does_not_compose_is_named(keys: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        compose(*keys)


async def test_a_policy_of_a_route_keeps_all_that_it_says(
    default_limiter: Limiter, dead_store: str
) -> None:
    # A route counts under a name of its own; the fail mode and the bucket are the policy's.
    strict = Policy("strict", "10/m", fail_mode="closed")
    bucket = Policy(
        "bucket", "10/m", algorithm="token_bucket", initial_tokens=1, refill_every="30s"
    )
    away = Limiter(dead_store, fail_mode="open")
    app = FastAPI()

    @app.get("/strict", dependencies=[Depends(limit(strict, away))])
    @app.get("/bucket", dependencies=[Depends(limit(bucket))])
    async def read() -> None: ...

    paths = [{"url": "/strict"}, {"url": "/bucket"}, {"url": "/bucket"}]
    assert await statuses(app, *paths) == [503, 200, 429]


@pytest.mark.parametrize(
    "spelled",
    ["session=  ada", "session = ada", 'session="ada"', r'session="a\144a"', "x=1;session=ada "],
)
async def test_a_cookie_that_the_application_reads_alike_is_one_count(
    default_limiter: Limiter, spelled: str
) -> None:
    read: list[str] = []
    app = FastAPI()

    @app.get("/", dependencies=[Depends(limit("1/h", key="cookie:session"))])
    async def home(request: Request) -> None:
        read.append(request.cookies["session"])

    def sent(line: str) -> dict[str, Any]:
        return {"headers": {"Cookie": line}}

    assert await statuses(app, sent(spelled), sent("session=ada")) == [200, 429]
    assert read == ["ada"]


async def test_a_cookie_with_percents_is_counted_as_litestar_reads_it(
    default_limiter: Limiter,
) -> None:
    @litestar.get("/", guards=[litestar_limit("1/h", key="cookie:session")])
    async def home(request: litestar.Request[Any, Any, Any]) -> str:
        return request.cookies["session"]

    app = litestar.Litestar([home], plugins=[LimiterPlugin()])
    lines = [{"headers": {"Cookie": f"session={name}"}} for name in ("%61da", "ada")]
    assert await statuses(app, *lines) == [200, 429]


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("cookie:session", lambda n: {"headers": {"Cookie": f"session={n}; session=ada"}}),
        ("cookie:session", lambda n: {"headers": {"Cookie": f"session=ada; session={n}"}}),
        ("param:session", lambda n: {"url": f"/?session={n}&session=ada"}),
        ("param:session", lambda n: {"url": f"/?session=ada&session={n}"}),
    ],
    ids=["cookie first", "cookie last", "parameter first", "parameter last"],
)
async def test_who_says_two_things_of_themselves_is_counted_by_address(
    limiter: Limiter, by: str, said: Any
) -> None:
    # The application takes one of them, the first or the last: the other must not choose a count.
    app = LimiterMiddleware(hello, limiter, "2/h", key=by)
    assert await statuses(app, *(said(n) for n in range(4))) == [200, 200, 429, 429]


async def test_a_claim_and_a_function_may_tell_what_is_no_unicode(limiter: Limiter) -> None:
    # JSON has a spelling for half a pair of surrogates, and clients write JSON.
    half = "\ud83d"
    token = jwt.encode({"name": half, "exp": time.time() + 600}, SECRET, "HS256")
    signed = {"headers": {"Authorization": f"Bearer {token}"}}
    verifier = Verifier(SECRET, ["HS256"])
    by_claim = LimiterMiddleware(hello, limiter, "1/h", key="jwt:name", verifier=verifier)
    assert await statuses(by_claim, signed, signed, {}) == [200, 429, 200]
    by_function = LimiterMiddleware(hello, limiter, Policy("f", "1/h"), key=lambda scope: half)
    assert await statuses(by_function, {}, {}) == [200, 429]


async def test_a_function_that_tells_nothing_in_bytes_means_the_address(limiter: Limiter) -> None:
    app = LimiterMiddleware(hello, limiter, "1/h", key=lambda scope: b"")
    assert await statuses(app, {}, {}) == [200, 429]
    assert await statuses(app, {}, ip="192.0.2.2") == [200]


async def test_what_is_skipped_is_neither_counted_nor_refused(default_limiter: Limiter) -> None:
    async def staff(request: Any) -> bool:
        return dict(request["headers"]).get(b"x-staff") == b"yes"

    app = FastAPI()

    @app.get("/", dependencies=[Depends(limit("1/h", skip_if=staff))])
    async def read() -> None: ...

    @app.get("/both", dependencies=[Depends(limit("2/h", skip_if=staff)), Depends(limit("3/h"))])
    async def both() -> None: ...

    yes = {"headers": {"X-Staff": "yes"}}
    assert await statuses(app, yes, yes, {}, {}, yes) == [200, 200, 200, 429, 200]
    wanted = [{**yes, "url": "/both"}] * 2 + [{"url": "/both"}] * 2
    assert await statuses(app, *wanted) == [200, 200, 200, 429]
    early = LimiterMiddleware(hello, default_limiter, Policy("early", "1/h"), skip_if=staff)
    assert await statuses(early, yes, yes, {}, {}) == [200, 200, 200, 429]
    with pytest.raises(ConfigError, match="skip_if"):
        limit("1/h", skip_if="staff")  # type: ignore[arg-type]
