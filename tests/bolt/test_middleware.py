"""Middleware written in Python: order, threads, answers and exceptions, over real HTTP."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import httpx
import pytest

from tests.bolt.project import Project
from tollway import ConfigError
from tollway.bolt import (
    BaseMiddleware,
    BoltAPI,
    Middleware,
    Response,
    TimingMiddleware,
    middleware,
)
from tollway.bolt.compiling.assembly import assemble
from tollway.bolt.conf import BoltSettings

API = """
import asyncio
import threading

from tollway.bolt import (
    JSON, BaseMiddleware, BoltAPI, ErrorHandlerMiddleware, HTTPException, LoggingMiddleware,
    Middleware, PlainText, Request, Router, TimingMiddleware, middleware, skip_middleware,
)


def place():
    try:
        asyncio.get_running_loop()
        return "loop"
    except RuntimeError:
        return threading.current_thread().name.rsplit("-", 1)[0].rsplit("_", 1)[0]


def note(request, name):
    request.state.setdefault("trail", []).append(f"{name}:{place()}")


def stamp(request, response, name):
    note(request, f"/{name}")
    return response.set_header("x-trail", " ".join(request.state["trail"]))


class Either(BaseMiddleware):
    def around(self, request):
        note(request, "either")
        if request.query.get("stop"):
            return PlainText("stopped", status_code=403)
        response = yield
        return stamp(request, response, "either")


class Async(Middleware):
    async def process_request(self, request):
        note(request, "async")
        await asyncio.sleep(0)
        response = await self.get_response(request)
        return stamp(request, response, "async")


class Plain(Middleware):
    def process_request(self, request):
        note(request, "plain")
        response = self.get_response(request)
        return stamp(request, response, "plain")


class Old:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        note(request, "old")
        return stamp(request, self.get_response(request), "old")


@middleware
async def awaiting(request, call_next):
    note(request, "function")
    return stamp(request, await call_next(request), "function")


class Teapots(ErrorHandlerMiddleware):
    def answer(self, request, error):
        if isinstance(error, KeyError):
            return JSON({"caught": str(error)}, status_code=418)
        return None


api = BoltAPI(middleware=[Either])
inner = Router(prefix="/inner", middleware=[Teapots])
loop = Router(prefix="/loop", middleware=[Async])
thread = Router(prefix="/thread", middleware=[Plain, Old])


@api.get("/async")
@awaiting
async def on_loop(request: Request, n: int = 1):
    note(request, "handler")
    return {"n": n}


@api.get("/sync")
def on_thread(request: Request):
    note(request, "handler")
    return "text"


@api.get("/inline", inline=True)
def in_line(request: Request):
    note(request, "handler")
    return b"bytes"


@api.get("/none", status_code=204)
def nothing():
    return None


@api.get("/skipped")
@skip_middleware("Either")
async def skipped():
    return {}


@api.get("/bare")
@skip_middleware("*")
@middleware(TimingMiddleware)
async def bare():
    return {}


@loop.get("/sync")
def loop_sync(request: Request):
    note(request, "handler")
    return {}


@thread.get("/sync")
def thread_sync(request: Request):
    note(request, "handler")
    return {}


@thread.get("/async")
async def thread_async(request: Request):
    note(request, "handler")
    await asyncio.sleep(0)
    return {}


@thread.get("/both")
@awaiting
def thread_both(request: Request):
    note(request, "handler")
    return {}


@inner.get("/caught/{what}")
async def caught(what: str):
    raise {"key": KeyError, "value": ValueError}[what](what)


@inner.get("/told")
async def told():
    raise HTTPException(status_code=409, detail="taken")


@middleware
async def wrong(request, call_next):
    await call_next(request)


@api.get("/wrong")
@wrong
async def answered_wrong():
    return {}


api.include_router(inner)
api.include_router(loop)
api.include_router(thread)
"""


def test_what_runs_where_and_in_which_order(project: Project) -> None:
    project.write("shop/api.py", API)
    with project.serve() as served:

        def trail(path: str) -> str:
            answer = httpx.get(served.url + path)
            assert answer.status_code < 300, answer.text
            return answer.headers.get("x-trail", "")

        on = "Dummy"  # what Python calls the threads of the server
        assert trail("/async") == (
            "either:loop function:loop handler:loop /function:loop /either:loop"
        )
        assert trail("/sync") == f"either:{on} handler:{on} /either:{on}"
        assert trail("/inline") == "either:MainThread handler:MainThread /either:MainThread"
        assert trail("/none").endswith(f"/either:{on}")
        assert trail("/loop/sync") == (
            "either:loop async:loop handler:tollway /async:loop /either:loop"
        )
        assert trail("/thread/sync") == (
            f"either:{on} plain:{on} old:{on} handler:{on} /old:{on} /plain:{on} /either:{on}"
        )
        mixed = [step.split(":") for step in trail("/thread/async").split()]
        order = ["either", "plain", "old", "handler", "/old", "/plain", "/either"]
        assert [name for name, _ in mixed] == order
        places = dict(mixed)
        assert (places["either"], places["handler"], places["/either"]) == ("loop",) * 3
        assert places["plain"] == places["old"] == places["/plain"] != "loop"
        both = [step.split(":") for step in trail("/thread/both").split()]
        order[3:4] = ["function", "handler", "/function"]
        assert [name for name, _ in both] == order
        assert trail("/skipped") == ""
        timed = httpx.get(f"{served.url}/bare")
        assert timed.headers["server-timing"].startswith("app;dur=")


def test_answers_and_exceptions(project: Project) -> None:
    project.write("shop/api.py", API)
    with project.serve() as served:
        url = served.url
        text = httpx.get(f"{url}/sync")
        assert (text.text, text.headers["content-type"]) == ("text", "text/plain; charset=utf-8")
        assert httpx.get(f"{url}/inline").content == b"bytes"
        assert httpx.get(f"{url}/async?n=3").json() == {"n": 3}
        assert httpx.get(f"{url}/none").status_code == 204
        stopped = httpx.get(f"{url}/sync?stop=1")
        assert (stopped.status_code, stopped.text) == (403, "stopped")
        caught = httpx.get(f"{url}/inner/caught/key")
        assert (caught.status_code, caught.json()) == (418, {"caught": "'key'"})
        assert "x-trail" in caught.headers
        assert httpx.get(f"{url}/inner/caught/value").status_code == 500
        # What is raised to be answered is an answer for all middleware.
        told = httpx.get(f"{url}/inner/told")
        assert (told.status_code, told.json()["detail"]) == (409, "taken")
        assert "x-trail" in told.headers
        # Parameters are read before.
        assert "x-trail" not in httpx.get(f"{url}/async?n=x").headers
        wrong = httpx.get(f"{url}/wrong")
        assert wrong.status_code == 500
    assert any("the middleware wrong answered with a NoneType" in line for line in served.lines)


def test_many_requests_through_mixed_middleware_at_once(project: Project) -> None:
    project.write("shop/api.py", API)
    paths = ["/thread/async", "/thread/both", "/thread/sync", "/loop/sync"] * 25
    with (
        project.serve("--threads", "2") as served,
        httpx.Client(base_url=served.url, timeout=30) as client,
        concurrent.futures.ThreadPoolExecutor(16) as pool,
    ):
        statuses = list(pool.map(lambda path: client.get(path).status_code, paths))
    assert statuses == [200] * 100


def handler_of(api: BoltAPI) -> Any:
    return assemble([api], BoltSettings()).routes[0]["handler"]


def test_a_route_without_middleware_is_its_handler() -> None:
    api = BoltAPI()

    @api.get("/x")
    async def handler() -> None: ...

    assert handler_of(api) is handler
    around = BoltAPI(middleware=[TimingMiddleware])
    around.get("/x")(handler)
    assert handler_of(around) is not handler


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        (TimingMiddleware(), "give the class TimingMiddleware"),
        (Middleware(lambda request: None), "give the class Middleware"),
        ("shop.Middleware", "is no middleware"),
    ],
)
def test_entries_that_are_no_middleware(entry: Any, part: str) -> None:
    api = BoltAPI(middleware=[entry])
    api.get("/x")(lambda: None)
    with pytest.raises(ConfigError, match=part):
        assemble([api], BoltSettings())


def test_mistakes_are_told_where_they_are_written() -> None:
    with pytest.raises(ConfigError, match=r"\(request, call_next\)"):

        @middleware
        async def one(request: Any) -> Any: ...

    with pytest.raises(ConfigError, match="needs a `yield`"):

        @middleware(type("Bad", (BaseMiddleware,), {"around": lambda self, request: None}))
        async def handler() -> None: ...

    with pytest.raises(ConfigError, match="stands above a handler"):
        middleware(TimingMiddleware)(Response())  # type: ignore[type-var]
