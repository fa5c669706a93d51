"""limit() and rate_limit() on FastAPI routes, over real HTTP with time as a value."""

from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.asgi.serving import serve_asgi
from tollway import ConfigError, Decision, Limiter, Policy
from tollway.fastapi import LimiterMiddleware, RateLimited, get_limiter, limit, rate_limit
from tollway.testing import ManualClock

pytestmark = pytest.mark.usefixtures("default_limiter")


def get(address: str, path: str, times: int = 1, **options: Any) -> list[httpx.Response]:
    with httpx.Client(base_url=f"http://{address}") as client:
        return [client.get(path, **options) for _ in range(times)]


def codes(address: str, path: str, times: int, **options: Any) -> list[int]:
    return [answer.status_code for answer in get(address, path, times, **options)]


def test_five_of_seven_pass_and_after_the_wait_one_more(clock: ManualClock) -> None:
    app = FastAPI()
    calls = 0

    @app.get("/ping")
    async def ping(decision: Annotated[Decision, Depends(limit("5/10s"))]) -> dict[str, int]:
        nonlocal calls
        calls += 1
        return {"left": decision.remaining}

    with serve_asgi(app) as address:
        answers = get(address, "/ping", 7)
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        assert calls == 5
        assert [answer.json()["left"] for answer in answers[:5]] == [4, 3, 2, 1, 0]
        assert answers[0].headers["x-ratelimit-remaining"] == "4"
        assert answers[0].headers["ratelimit-policy"] == '"5/10s/GET/ping";q=5;w=10'
        assert "retry-after" not in answers[0].headers
        refused = answers[-1]
        assert refused.headers["retry-after"] == "2"
        assert refused.headers["ratelimit"] == '"5/10s/GET/ping";r=0;t=10'
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["status"] == 429
        assert refused.json()["retry_after_ms"] == 2000
        clock.advance(2)
        assert codes(address, "/ping", 2) == [200, 429]


def test_dependency_and_middleware_refuse_alike(limiter: Limiter) -> None:
    policy = Policy("same", ["1/h"])
    routed, guarded = FastAPI(), FastAPI()
    guarded.add_middleware(LimiterMiddleware, limiter=limiter, policy=policy)

    @routed.get("/", dependencies=[Depends(limit(policy, share="policy"))])
    @guarded.get("/")
    async def home() -> str:
        return "home"

    with serve_asgi(routed) as one, serve_asgi(guarded) as two:
        assert [get(one, "/")[0].status_code, get(one, "/")[0].status_code] == [200, 429]
        first, second = get(one, "/")[0], get(two, "/")[0]
    assert first.status_code == second.status_code == 429
    assert first.content == second.content
    ignored = {"date", "server", "x-ratelimit-reset"}  # the last follows the wall clock
    assert {k: v for k, v in first.headers.items() if k not in ignored} == {
        k: v for k, v in second.headers.items() if k not in ignored
    }


def test_a_route_is_counted_by_its_template() -> None:
    app = FastAPI()
    one = Depends(limit("2/h"))

    @app.get("/items/{item_id}", dependencies=[one])
    async def item(item_id: int) -> int:
        return item_id

    @app.get("/other", dependencies=[one])
    async def other() -> str:
        return "other"

    with serve_asgi(app) as address:
        assert codes(address, "/items/1", 1) + codes(address, "/items/2", 2) == [200, 200, 429]
        assert codes(address, "/other", 3) == [200, 200, 429]
        refused = get(address, "/items/3")[0]
    assert refused.json()["violated-policies"] == ["2/h/GET/items/<item_id>"]


def test_one_router_under_two_prefixes_is_two_routes() -> None:
    router = APIRouter(dependencies=[Depends(limit("1/h"))])

    @router.get("/list")
    async def listing() -> str:
        return "list"

    mounted = FastAPI()
    mounted.include_router(router)
    app = FastAPI()
    app.include_router(router, prefix="/v1")
    app.include_router(router, prefix="/v2")
    app.mount("/sub", mounted)
    app.mount("/sub2", mounted)
    with serve_asgi(app) as address:
        for path in ("/v1/list", "/v2/list", "/sub/list", "/sub2/list"):
            assert codes(address, path, 2) == [200, 429], path


def test_routes_can_share_a_count_on_purpose() -> None:
    app = FastAPI()
    shared = Policy("search", ["2/h"])

    @app.get("/a", dependencies=[Depends(limit(shared, share="policy"))])
    @app.get("/b", dependencies=[Depends(limit(shared, share="policy"))])
    async def search() -> str:
        return "found"

    with serve_asgi(app) as address:
        assert codes(address, "/a", 1) + codes(address, "/b", 2) == [200, 200, 429]


def test_limits_of_one_route_are_one_check(limiter: Limiter) -> None:
    burst, daily = Policy("burst", ["2/10s"]), Policy("daily", ["100/d"])
    router = APIRouter(dependencies=[Depends(limit(daily))])

    async def nested(decision: Annotated[Decision, Depends(limit(burst))]) -> Decision:
        return decision

    @router.get("/search")
    async def search(decision: Annotated[Decision, Depends(nested)]) -> str:
        return decision.policy

    app = FastAPI()
    app.include_router(router)
    with serve_asgi(app) as address:
        answers = get(address, "/search", 20)
    assert [answer.status_code for answer in answers] == [200] * 2 + [429] * 18
    assert answers[0].json() == "burst/GET/search"
    assert len(answers[0].headers.get_list("ratelimit")) == 1
    policies = '"daily/GET/search";q=100;w=86400, "burst/GET/search";q=2;w=10'
    assert answers[-1].headers["ratelimit-policy"] == policies
    counted = Policy("daily/GET/search", ["100/d"])
    assert limiter.check(counted, "127.0.0.1", 98).allowed
    assert not limiter.check(counted, "127.0.0.1", 1).allowed


def test_a_list_is_one_check_whatever_its_keys(limiter: Limiter) -> None:
    app = FastAPI()

    async def key(request: Request) -> str:
        return request.headers["x-who"]

    both = [Policy("burst", ["1/10s"], key=key), Policy("daily", ["100/d"], key="ip")]

    @app.get("/", dependencies=[Depends(limit(both))])
    async def home() -> str:
        return "home"

    with serve_asgi(app) as address:
        assert codes(address, "/", 5, headers={"X-Who": "ada"}) == [200] + [429] * 4
        assert codes(address, "/", 1, headers={"X-Who": "bob"}) == [200]
    assert limiter.check(Policy("daily/GET", ["100/d"]), "127.0.0.1", 98).allowed


def test_a_key_function_sees_what_earlier_dependencies_left() -> None:
    app = FastAPI()

    async def login(request: Request) -> None:
        if "x-user" not in request.headers:
            raise HTTPException(401)
        request.state.user = request.headers["x-user"]

    by_user = limit("1/h", key=lambda request: request.state.user)
    order = [Depends(limit("100/h")), Depends(login), Depends(by_user)]

    @app.get("/", dependencies=order)
    async def home() -> str:
        return "home"

    with serve_asgi(app) as address:
        assert codes(address, "/", 2, headers={"X-User": "ada"}) == [200, 429]
        assert codes(address, "/", 2, headers={"X-User": "bob"}) == [200, 429]
        assert codes(address, "/", 1) == [401]


def answering(app: FastAPI) -> None:
    one = [Depends(limit("50/h"))]

    @app.get("/own", dependencies=one)
    async def own() -> PlainTextResponse:
        return PlainTextResponse("own", headers={"X-RateLimit-Limit": "mine"})

    @app.get("/stream", dependencies=one)
    def stream() -> StreamingResponse:
        return StreamingResponse(iter([b"a", b"b"]))

    @app.get("/gone", dependencies=one)
    async def gone() -> None:
        raise HTTPException(410)

    @app.get("/value", dependencies=one)
    async def value() -> dict[str, int]:
        return {"a": 1}


def test_the_middleware_carries_headers_to_every_answer() -> None:
    app = FastAPI()
    app.add_middleware(LimiterMiddleware)
    answering(app)
    with serve_asgi(app) as address:
        for path in ("/own", "/stream", "/gone", "/value"):
            answer = get(address, path)[0]
            assert answer.headers.get_list("x-ratelimit-limit") == ["50"], path
            assert answer.headers["x-ratelimit-remaining"] == "49", path
            assert len(answer.headers.get_list("ratelimit-policy")) == 1, path
        assert "ratelimit" not in get(address, "/docs")[0].headers


def test_values_carry_headers_without_the_middleware() -> None:
    app = FastAPI()
    answering(app)
    with serve_asgi(app) as address:
        assert get(address, "/value")[0].headers["x-ratelimit-limit"] == "50"


def test_middleware_and_dependency_speak_with_one_voice(limiter: Limiter) -> None:
    app = FastAPI()
    app.add_middleware(LimiterMiddleware, limiter=limiter, policy=Policy("site", ["3/h"]))

    @app.get("/", dependencies=[Depends(limit("50/h"))])
    async def home() -> PlainTextResponse:
        return PlainTextResponse("home")

    with serve_asgi(app) as address:
        answers = get(address, "/", 4)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    for answer in answers:
        assert answer.headers.get_list("x-ratelimit-limit") == ["3"]
        assert len(answer.headers.get_list("ratelimit")) == 1


def test_a_handler_that_raises_runs_once() -> None:
    app = FastAPI()
    app.add_middleware(LimiterMiddleware)
    calls = 0

    @app.get("/", dependencies=[Depends(limit("5/h"))])
    async def home() -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("broken")

    with serve_asgi(app) as address:
        assert codes(address, "/", 1) == [500]
    assert calls == 1


def test_the_decorator_leaves_signatures_alone() -> None:
    app = FastAPI()

    @app.get("/sync/{name}")
    @rate_limit("2/h")
    def sync(name: str, size: int = 1) -> dict[str, Any]:
        """A handler in a thread."""
        return {"name": name, "size": size}

    @app.get("/async/{name}")
    @rate_limit(Policy("burst", ["2/h"]))
    @rate_limit(Policy("daily", ["9/d"]))
    async def stacked(name: str, **_: Any) -> dict[str, Any]:
        return {"name": name}

    with serve_asgi(app) as address:
        answers = get(address, "/sync/a?size=3", 3)
        assert answers[0].json() == {"name": "a", "size": 3}
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        policies = get(address, "/async/a?_=1")[0].headers["ratelimit-policy"]
        assert policies.count("q=") == 2
        names = {
            item["name"] for item in app.openapi()["paths"]["/sync/{name}"]["get"]["parameters"]
        }
    assert names == {"name", "size"}
    assert sync("b", size=2) == {"name": "b", "size": 2}


def test_an_application_may_word_the_refusal_itself() -> None:
    app = FastAPI()

    @app.exception_handler(RateLimited)
    async def slow_down(request: Request, error: RateLimited) -> JSONResponse:
        body = {"wait": error.decision.retry_after_seconds}
        return JSONResponse(body, 429, headers=dict(error.decision.headers()))

    @app.get("/", dependencies=[Depends(limit("1/h"))])
    async def home() -> str:
        return "home"

    with serve_asgi(app) as address:
        refused = get(address, "/", 2)[1]
    assert (refused.status_code, refused.json()) == (429, {"wait": 3600})
    assert refused.headers["retry-after"] == "3600"


def test_a_websocket_route_is_refused_before_it_is_accepted() -> None:
    app = FastAPI()

    @app.websocket("/ws")
    async def ws(socket: WebSocket, decision: Annotated[Decision, Depends(limit("1/h"))]) -> None:
        await socket.accept()
        await socket.send_text(str(decision.remaining))
        await socket.close()

    with serve_asgi(app) as address:
        with connect(f"ws://{address}/ws") as socket:
            assert socket.recv() == "0"
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://{address}/ws")
    assert refused.value.response.status_code == 429
    assert refused.value.response.headers["retry-after"] == "3600"


def test_overridden_dependencies_are_left_out() -> None:
    app = FastAPI()
    strict = limit("1/h")
    app.dependency_overrides[strict] = lambda: None

    @app.get("/", dependencies=[Depends(limit("3/h")), Depends(strict)])
    async def home() -> str:
        return "home"

    with serve_asgi(app) as address:
        assert codes(address, "/", 4) == [200, 200, 200, 429]


def test_limits_of_an_overridden_dependency_are_left_out_with_it() -> None:
    app = FastAPI()

    async def login(decision: Annotated[Decision, Depends(limit("1/h"))]) -> str:
        return "ada"

    @app.get("/", dependencies=[Depends(limit("3/h")), Depends(login)])
    async def home() -> str:
        return "home"

    app.dependency_overrides[login] = lambda: "bob"
    with serve_asgi(app) as address:
        assert codes(address, "/", 4) == [200] * 3 + [429]
        app.dependency_overrides.clear()
        assert get(address, "/")[0].json()["violated-policies"] == ["3/h/GET"]


def test_cost_may_be_a_function() -> None:
    app = FastAPI()

    async def cost(request: Request) -> int:
        return int(request.query_params.get("n", 0))

    @app.get("/", dependencies=[Depends(limit("5/h", cost=cost))])
    async def home() -> str:
        return "home"

    with serve_asgi(app) as address:
        assert codes(address, "/?n=4", 2) == [200, 429]
        assert codes(address, "/", 3) == [200] * 3  # free of charge
        too_much = get(address, "/?n=6")[0]
    assert too_much.status_code == 429
    assert "retry-after" not in too_much.headers


@pytest.mark.parametrize("asked", [10**9 + 1, 2**63, 10**30])
def test_a_client_that_asks_for_more_than_can_be_counted_is_refused(asked: int) -> None:
    app = FastAPI()

    def cost(request: Request) -> int:
        return int(request.query_params["n"])

    @app.get("/", dependencies=[Depends(limit("5/h", cost=cost))])
    async def home() -> str:
        return "home"

    with serve_asgi(app) as address:
        assert codes(address, f"/?n={asked}", 1) == [429]
        assert codes(address, "/?n=5", 1) == [200]


def test_limiter_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    from tollway.asgi import passage

    monkeypatch.setattr(passage, "_default", None)
    assert get_limiter().url.startswith("memory:")
    assert get_limiter() is get_limiter()


@pytest.mark.parametrize(
    ("fail_mode", "expected"),
    [("closed", [503] * 7), ("open", [200] * 7), ("local", [200] * 5 + [429] * 2)],
)
def test_a_dead_store(dead_store: str, fail_mode: str, expected: list[int]) -> None:
    app = FastAPI()
    away = Limiter(dead_store, fail_mode=fail_mode)

    @app.get("/")
    async def home(decision: Annotated[Decision, Depends(limit("5/h", away))]) -> bool:
        return decision.degraded

    with serve_asgi(app) as address:
        answers = get(address, "/", 7)
    assert [answer.status_code for answer in answers] == expected
    if fail_mode == "closed":
        assert answers[0].headers["retry-after"] == "1"
        assert answers[0].headers["content-type"] == "application/problem+json"
        assert answers[0].json()["title"] == "Service unavailable"
    else:
        assert answers[0].json() is True


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: limit("5/q"), "5/q"),
        (lambda: limit("5/s", key="headr:X"), "header"),
        (lambda: limit("5/s", cost=0), "cost=0"),
        (lambda: limit("5/s", cost=2 * 10**9), "cost=2000000000"),
        (lambda: limit([]), "no policy"),
        (lambda: limit("5/s", share="app"), "share='app'"),
        (lambda: rate_limit(Policy("x", ["5/s"], key="usr")), "user"),
    ],
)
def test_what_cannot_work_is_named_where_it_is_written(make: Any, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        make()


async def test_two_policies_of_one_name_are_refused() -> None:
    app = FastAPI()
    twins = [Depends(limit(Policy("api", [rate]))) for rate in ("5/s", "100/h")]

    @app.get("/", dependencies=twins)
    async def home() -> str:
        return "home"

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        with pytest.raises(ConfigError, match="both named 'api'"):
            await client.get("/")
