"""Code written for slowapi, with changed imports, over real HTTP."""

import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tests.asgi.serving import dead_port, serve_asgi
from tollway import ConfigError
from tollway.compat.slowapi import Limiter, _rate_limit_exceeded_handler
from tollway.compat.slowapi.errors import RateLimitExceeded
from tollway.compat.slowapi.middleware import SlowAPIASGIMiddleware, SlowAPIMiddleware
from tollway.compat.slowapi.util import get_ipaddr, get_remote_address


def service(limiter: Limiter, middleware: bool = False) -> FastAPI:
    app = FastAPI()
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]
    if middleware:
        app.add_middleware(SlowAPIMiddleware)  # type: ignore[arg-type]
    return app


async def ask(app: Any, *requests: Any, ip: str = "192.0.2.1") -> list[httpx.Response]:
    """The answers to paths, or to methods and paths with options."""
    transport = httpx.ASGITransport(app, client=(ip, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        answers = []
        for item in requests:
            told = {"url": item} if isinstance(item, str) else item
            answers.append(await client.request(**{"method": "GET", **told}))
        return answers


async def statuses(app: Any, *requests: Any, **options: Any) -> list[int]:
    return [answer.status_code for answer in await ask(app, *requests, **options)]


def test_the_first_page_of_its_manual_under_a_server() -> None:
    limiter = Limiter(key_func=get_remote_address)
    app = service(limiter)

    @app.get("/home")
    @limiter.limit("5/minute")
    async def homepage(request: Request) -> Response:
        return PlainTextResponse("test")

    @app.get("/mars")
    @limiter.limit("2/minute")
    def mars(request: Request, response: Response) -> dict[str, str]:
        return {"key": "value"}

    with serve_asgi(app) as address, httpx.Client(base_url=f"http://{address}") as client:
        answers = [client.get("/home") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        assert answers[-1].json() == {"error": "Rate limit exceeded: 5 per 1 minute"}
        assert "x-ratelimit-limit" not in answers[0].headers
        assert [client.get("/mars").status_code for _ in range(3)] == [200, 200, 429]


async def test_it_serves_starlette() -> None:
    limiter = Limiter(key_func=get_remote_address)

    @limiter.limit("1/minute")
    def home(request: Request) -> Response:
        return PlainTextResponse("test")

    app = Starlette(routes=[Route("/home", home)])
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]
    assert await statuses(app, "/home", "/home") == [200, 429]
    assert await statuses(app, "/home", ip="192.0.2.2") == [200]


async def test_stacked_and_listed_limits_are_one_check() -> None:
    limiter = Limiter(key_func=get_remote_address)
    app = service(limiter)

    @app.get("/both")
    @limiter.limit("100/day|50/hour")
    @limiter.limit("2/minute")
    async def both(request: Request) -> None: ...

    answers = await ask(app, *["/both"] * 10)
    assert [answer.status_code for answer in answers] == [200, 200] + [429] * 8
    assert answers[-1].json()["error"] == "Rate limit exceeded: 2 per 1 minute"
    decision = limiter.engine.peek(next(p for p in limiter._counted if "d" in p.name), "x")
    assert decision.limit == 100


async def test_headers_where_something_can_write_them() -> None:
    limiter = Limiter(key_func=get_remote_address, headers_enabled=True)
    app = service(limiter)

    @app.get("/own")
    @limiter.limit("1/minute")
    async def own(request: Request) -> Response:
        return PlainTextResponse("own")

    @app.get("/dict")
    @limiter.limit("5/minute")
    async def by_response(request: Request, response: Response) -> dict[str, str]:
        return {}

    @app.get("/bare")
    @limiter.limit("5/minute")
    async def bare(request: Request) -> dict[str, str]:
        return {}

    first, refused = await ask(app, "/own", "/own")
    assert first.headers["x-ratelimit-limit"] == "1"
    assert first.headers["x-ratelimit-remaining"] == "0"
    assert 0 < int(first.headers["x-ratelimit-reset"]) - time.time() <= 61
    assert "retry-after" not in first.headers
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert (await ask(app, "/dict"))[0].headers["x-ratelimit-remaining"] == "4"
    assert (await ask(app, "/bare"))[0].status_code == 200
    outer = service(limiter)
    outer.add_middleware(SlowAPIASGIMiddleware)  # type: ignore[arg-type]
    outer.include_router(app.router)
    assert (await ask(outer, "/bare"))[0].headers.get_list("x-ratelimit-remaining") == ["3"]


async def test_retry_after_may_be_a_date() -> None:
    limiter = Limiter(get_remote_address, ["1/hour"], headers_enabled=True, retry_after="http-date")
    app = service(limiter, middleware=True)

    @app.get("/")
    async def home() -> None: ...

    refused = (await ask(app, "/", "/"))[1]
    when = parsedate_to_datetime(refused.headers["retry-after"]).timestamp()
    assert refused.status_code == 429 and 3500 < when - time.time() < 3602


async def test_defaults_application_limits_and_exemptions() -> None:
    limiter = Limiter(get_remote_address, ["2/minute"], ["6/minute"])
    app = service(limiter, middleware=True)
    router = APIRouter(prefix="/v1")

    @app.get("/plain/{item}")
    @router.get("/plain")
    async def plain(item: int = 0) -> None: ...

    @app.get("/own")
    @limiter.limit("3/minute")
    async def own(request: Request) -> None: ...

    @app.get("/too")
    @limiter.limit("3/minute", override_defaults=False)
    async def too(request: Request) -> None: ...

    @app.get("/free")
    @limiter.exempt
    async def free(request: Request) -> None: ...

    app.include_router(router)
    assert await statuses(app, *["/plain/1"] * 3, ip="192.0.2.1") == [200, 200, 429]
    assert await statuses(app, *["/plain/2"] * 3, ip="192.0.2.1") == [200, 200, 429]  # by URL
    assert await statuses(app, *["/v1/plain"] * 3, ip="192.0.2.2") == [200, 200, 429]
    assert await statuses(app, *["/own"] * 4, ip="192.0.2.3") == [200, 200, 200, 429]
    assert await statuses(app, *["/too"] * 3, ip="192.0.2.4") == [200, 200, 429]
    assert await statuses(app, *["/free"] * 9, ip="192.0.2.5") == [200] * 9
    assert await statuses(app, "/none", ip="192.0.2.5") == [404]
    wanted = ["/own"] * 3 + ["/plain/1"] * 2 + ["/plain/2"] * 2
    assert await statuses(app, *wanted, ip="192.0.2.6") == [200] * 6 + [429]
    limiter.reset()
    assert await statuses(app, "/plain/1", ip="192.0.2.1") == [200]


async def test_mounts_and_own_handlers_at_the_middleware() -> None:
    async def page(request: Request) -> Response:
        return PlainTextResponse("page")

    async def slow_down(request: Request, exc: RateLimitExceeded) -> Response:
        response = JSONResponse({"wait": exc.detail}, 429)
        return request.app.state.limiter._inject_headers(response, request.state.view_rate_limit)

    app = Starlette(routes=[Mount("/shop", routes=[Route("/{page}", page)])])
    app.state.limiter = Limiter(
        get_remote_address, ["1/minute"], headers_enabled=True, key_style="endpoint"
    )
    app.add_exception_handler(RateLimitExceeded, slow_down)  # type: ignore[arg-type]
    app.add_middleware(SlowAPIMiddleware)  # type: ignore[arg-type]
    first, second = await ask(app, "/shop/a", "/shop/b")
    assert (first.status_code, second.status_code) == (200, 429)
    assert second.json() == {"wait": "1 per 1 minute"}
    assert second.headers["x-ratelimit-remaining"] == "0"


async def test_what_is_mounted_without_routes_is_limited_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    limiter = Limiter(get_remote_address, default_limits=["2/minute"], key_style="endpoint")
    app = service(limiter, middleware=True)
    app.mount("/static", StaticFiles(directory=tmp_path))
    assert await statuses(app, *["/static/a.txt"] * 3) == [200, 200, 429]


async def test_a_middleware_that_cannot_count_answers_503() -> None:
    with dead_port() as port:
        app = service(
            Limiter(get_remote_address, ["2/minute"], storage_uri=f"redis://127.0.0.1:{port}"),
            middleware=True,
        )

        @app.get("/")
        async def home() -> str:
            return "home"

        (answer,) = await ask(app, "/")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_a_client_of_ipv6_is_its_network() -> None:
    app = service(Limiter(get_remote_address, default_limits=["2/minute"]), middleware=True)

    @app.get("/")
    async def home() -> str:
        return "home"

    addresses = [f"2001:db8::{n}" for n in range(1, 4)]
    assert [await statuses(app, "/", ip=ip) for ip in addresses] == [[200], [200], [429]]
    assert await statuses(app, "/", ip="2001:db8:0:1::1") == [200]


async def test_a_cost_that_is_more_than_can_be_counted_is_refused() -> None:
    limiter = Limiter(get_remote_address)
    app = service(limiter)

    @app.get("/")
    @limiter.limit("5/minute", cost=lambda request: int(request.query_params["n"]))
    async def home(request: Request) -> str:
        return "home"

    assert await statuses(app, f"/?n={10**30}", "/?n=5", "/?n=1") == [429, 200, 429]


async def test_what_a_limit_may_say() -> None:
    limiter = Limiter(key_func=lambda: "everybody")
    app = service(limiter)

    def by_plan(key: str) -> str:
        return "2/minute" if key == "gold" else "1/minute"

    def header(request: Request) -> str:
        return request.headers.get("x-plan", "none")

    def hit_cost(request: Request) -> int:
        return int(request.headers.get("x-cost", 1))

    @app.get("/called")
    @limiter.limit(by_plan, key_func=header)
    async def called(request: Request) -> None: ...

    @app.api_route("/methods", methods=["GET", "POST"])
    @limiter.limit("1/minute", methods=["post"], error_message="no more")
    async def methods(request: Request) -> None: ...

    @app.api_route("/each", methods=["GET", "POST"])
    @limiter.limit("1/minute", per_method=True, error_message=lambda: "later")
    async def each(request: Request) -> None: ...

    @app.get("/spared")
    @limiter.limit("1/minute", exempt_when=lambda request: "x-plan" in request.headers)
    async def spared(request: Request) -> None: ...

    @app.get("/costs")
    @limiter.limit("10/minute", cost=hit_cost)
    async def costs(request: Request) -> None: ...

    gold = {"url": "/called", "headers": {"X-Plan": "gold"}}
    assert await statuses(app, gold, gold, gold, "/called", "/called") == [200, 200, 429, 200, 429]
    post = {"url": "/methods", "method": "POST"}
    assert await statuses(app, "/methods", "/methods", post, post) == [200, 200, 200, 429]
    assert (await ask(app, post))[0].json() == {"error": "Rate limit exceeded: no more"}
    post = {"url": "/each", "method": "POST"}
    assert await statuses(app, "/each", post, "/each", post) == [200, 200, 429, 429]
    assert (await ask(app, post))[0].json() == {"error": "Rate limit exceeded: later"}
    spared_one = {"url": "/spared", "headers": {"X-Plan": "gold"}}
    assert await statuses(app, *[spared_one] * 3, "/spared", "/spared") == [200] * 4 + [429]
    dear = {"url": "/costs", "headers": {"X-Cost": "6"}}
    assert await statuses(app, dear, dear, "/costs") == [200, 429, 200]


async def test_shared_limits() -> None:
    limiter = Limiter(key_func=get_ipaddr)
    app = service(limiter)
    shared = limiter.shared_limit("2/minute", scope="mail")
    named = limiter.shared_limit("1/minute", scope=lambda endpoint: endpoint[:2])

    @app.get("/send")
    @shared
    async def send(request: Request) -> None: ...

    @app.get("/resend")
    @shared
    async def resend(request: Request) -> None: ...

    @app.get("/a")
    @named
    async def a(request: Request) -> None: ...

    assert await statuses(app, "/send", "/resend", "/send", "/resend") == [200, 200, 429, 429]
    assert await statuses(app, "/a", "/a") == [200, 429]


async def test_a_limiter_that_is_switched_off() -> None:
    limiter = Limiter(get_remote_address, ["1/minute"], enabled=False)
    app = service(limiter, middleware=True)

    @app.get("/")
    @limiter.limit("1/minute")
    async def home(request: Request) -> None: ...

    assert await statuses(app, "/", "/", "/") == [200] * 3
    limiter.enabled = True
    assert await statuses(app, "/", "/") == [200, 429]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [503, 503, 503]),
        ({"swallow_errors": True}, [200, 200, 200]),
        ({"in_memory_fallback_enabled": True}, [200, 200, 429]),
        ({"in_memory_fallback": ["1/minute"]}, [200, 429, 429]),
    ],
)
async def test_a_store_that_is_away(options: dict[str, Any], wanted: list[int]) -> None:
    with dead_port() as port:
        limiter = Limiter(get_remote_address, storage_uri=f"redis://127.0.0.1:{port}/0", **options)
        app = service(limiter)

        @app.get("/")
        @limiter.limit("2/minute")
        async def home(request: Request) -> None: ...

        answers = await ask(app, "/", "/", "/")
    assert [answer.status_code for answer in answers] == wanted
    if not options:
        assert answers[0].headers["retry-after"] == "1"


async def test_counts_are_in_redis_under_the_prefix(redis_url: str) -> None:
    options: dict[str, Any] = {"storage_uri": redis_url, "key_prefix": "shop-limits"}
    options["storage_options"] = {"socket_connect_timeout": 20, "socket_timeout": 20}
    one, two = (Limiter(get_remote_address, **options) for _ in range(2))
    first, second = service(one), service(two)

    async def home(request: Request) -> None: ...

    first.get("/")(one.limit("3/hour", key_func=lambda: str(id(one)))(home))
    second.get("/")(two.limit("3/hour", key_func=lambda: str(id(one)))(home))
    assert await statuses(first, "/", "/") + await statuses(second, "/", "/") == [200] * 3 + [429]
    two.reset()
    assert await statuses(second, "/") == [200]


def test_settings_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "limits.env"
    file.write_text("RATELIMIT_DEFAULT=7/minute\nRATELIMIT_STRATEGY=moving-window\n")
    limiter = Limiter(get_remote_address, config_filename=str(file))
    assert [item.value for item in limiter._defaults] == ["7/minute"]
    assert limiter._algorithm == "sliding_log"
    monkeypatch.setenv("RATELIMIT_ENABLED", "false")
    assert not Limiter(get_remote_address).enabled


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"default_limits": ["5/fortnight"]}, "fortnight"),
        ({"strategy": "guess"}, "fixed-window"),
        ({"storage_uri": "carrier-pigeon://x"}, "carrier-pigeon"),
        ({"storage_options": {"ssl": True}}, "ssl"),
        ({"key_style": "path"}, "key_style"),
        ({"config_filename": "absent.env"}, "absent.env"),
    ],
)
def test_what_cannot_work_is_named(options: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        Limiter(get_remote_address, **options)


def test_bad_limits_and_endpoints_are_named_where_they_stand() -> None:
    limiter = Limiter(get_remote_address)
    with pytest.raises(ConfigError, match="5/q"):
        limiter.limit("5/q")
    with pytest.raises(ConfigError, match="cost"):
        limiter.limit("5/s", cost=0)
    with pytest.raises(ConfigError, match="no parameter named request"):

        @limiter.limit("5/s")
        async def bare() -> None: ...
