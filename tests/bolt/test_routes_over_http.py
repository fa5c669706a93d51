"""Routes, routers and mounts of a project and its apps, and what kinds of handlers may do, over
real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.bolt.project import Project, Served

PROJECT_API = """
from tollway.bolt import BoltAPI, Redirect, Request, Response, Router

main = BoltAPI(prefix="/api")
inner = BoltAPI(prefix="/inner", trailing_slash="append")
slashed = BoltAPI(prefix="/slashed", trailing_slash="append")
kept = BoltAPI(prefix="/kept", trailing_slash="keep")
teams = Router(prefix="/teams/{team}")
people = Router(prefix="/people")


async def echo(request: Request):
    return {"method": request.method, "path": request.path, "body": request.body.decode()}


for method in ("get", "post", "put", "patch", "delete"):
    getattr(main, method)("/every")(echo)


@main.head("/head-only")
async def head_only():
    return Response(headers={"X-Seen": "head"})


@main.options("/own-options")
async def own_options():
    return {"mine": True}


@main.get("/items/new")
async def new_item():
    return "new"


@main.get("/items/{item_id}")
async def item(item_id: int):
    return item_id


@main.get("/files/{rest:path}")
async def files(rest: str):
    return {"rest": rest}


@people.get("/{name}")
async def person(team: str, name: str):
    return {"team": team, "name": name}


@inner.get("/one")
@slashed.get("/one")
@slashed.post("/one")
async def one(request: Request):
    return request.body.decode()


@kept.get("/a/")
async def a():
    return "a"


@main.get("/away")
def away():
    return Redirect("/api/items/new", status_code=303)


@main.delete("/gone", status_code=204)
def gone():
    return {"never": "sent"}


teams.include_router(people)
main.include_router(teams, prefix="/all")
main.mount("/sub", inner)
api = [main, slashed, kept]
"""

SHOP_API = """
import asyncio
import contextvars
import threading

import anyio
from asgiref.sync import async_to_sync, sync_to_async
from shop.models import Item
from tollway.bolt import BoltAPI

api = BoltAPI()
variable = contextvars.ContextVar("variable", default="unset")
threads = {}


@api.get("/loop")
async def on_loop():
    threads["loop"] = threading.get_ident()
    variable.set("mine")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        told = group.create_task(asyncio.sleep(0, variable.get()))
        count = group.create_task(Item.objects.acount())
    with anyio.fail_after(5):
        there = await anyio.to_thread.run_sync(variable.get)
    name = await sync_to_async(lambda: Item.objects.get().name)()
    return [told.result(), count.result(), there, name]


@api.get("/thread")
def on_thread():
    async def inside():
        async with asyncio.timeout(5):
            return [item.name async for item in Item.objects.all()]

    assert threading.get_ident() != threads["loop"]
    told = variable.get()
    variable.set("left behind")
    return [told, Item.objects.count(), async_to_sync(inside)()]


@api.get("/inline", inline=True)
def on_loop_thread():
    return [variable.get(), threading.get_ident() == threads["loop"]]


gate = threading.Event()


@api.get("/blocks")
def blocks():
    return gate.wait(10)


@api.get("/opens")
async def opens():
    gate.set()
    return "open"
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    project = Project(tmp_path_factory.mktemp("routes"))
    project.write("site_of_tests/api.py", PROJECT_API)
    project.write("shop/api.py", SHOP_API)
    project.run("migrate", "-v0")
    with project.serve() as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url) as client:
        yield client


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_every_method_has_its_handler(client: httpx.Client, method: str) -> None:
    told = client.request(method, "/api/every", content=b"body").json()
    assert told == {"method": method, "path": "/api/every", "body": "body"}


def test_head_and_options(client: httpx.Client) -> None:
    whole = client.get("/api/every")
    head = client.head("/api/every")
    assert (head.status_code, head.content) == (200, b"")
    # It has run for HEAD, whose name is one letter longer.
    assert int(head.headers["content-length"]) == len(whole.content) + 1
    assert client.head("/api/head-only").headers["x-seen"] == "head"
    assert client.get("/api/head-only").status_code == 405
    options = client.options("/api/every")
    assert options.status_code in (200, 204)
    assert set(options.headers["allow"].split(", ")) == {
        *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    }
    assert client.options("/api/own-options").json() == {"mine": True}
    refused = client.post("/api/items/7")
    assert (refused.status_code, "GET" in refused.headers["allow"]) == (405, True)
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/api/items/new", "new"),
        ("/api/items/7", 7),
        ("/api/files/a/b%20c/d%2Fe", {"rest": "a/b c/d/e"}),
        ("/api/all/teams/red/people/ann%20b", {"team": "red", "name": "ann b"}),
        ("/api/all/teams/%E2%82%AC/people/x", {"team": "€", "name": "x"}),
    ],
)
def test_the_nearest_route_answers(client: httpx.Client, path: str, answer: Any) -> None:
    told = client.get(path)
    assert told.status_code == 200
    assert (told.text if isinstance(answer, str) else told.json()) == answer


def test_trailing_slashes_are_sent_to_the_other_spelling(client: httpx.Client) -> None:
    for path, other in (
        ("/api/items/7/?a=b", "/api/items/7?a=b"),
        ("/api/sub/inner/one/", "/api/sub/inner/one"),  # the rule of the API that holds it
        ("/slashed/one", "/slashed/one/"),
        ("/kept/a", "/kept/a/"),
    ):
        told = client.get(path)
        assert (told.status_code, told.headers["location"]) == (308, other)
        assert client.get(other).status_code == 200
    posted = client.post("/slashed/one", content=b"kept", follow_redirects=True)
    assert posted.text == "kept"
    assert client.get("/nowhere/").status_code == 404


def test_answers_without_a_body_and_redirects(client: httpx.Client) -> None:
    gone = client.delete("/api/gone")
    assert (gone.status_code, gone.content) == (204, b"")
    assert "content-length" not in gone.headers
    away = client.get("/api/away")
    assert (away.status_code, away.headers["location"]) == (303, "/api/items/new")
    assert client.get("/api/items/x").status_code == 422


def test_what_handlers_may_do(client: httpx.Client) -> None:
    for _ in range(3):
        assert client.get("/loop").json() == ["mine", 1, "mine", "lantern"]
        assert client.get("/thread").json() == ["unset", 1, ["lantern"]]
        assert client.get("/inline").json() == ["unset", True]


def test_a_handler_that_blocks_its_thread_holds_up_nobody(
    client: httpx.Client, served: Served
) -> None:
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(httpx.get, f"{served.url}/blocks", timeout=20)
        assert client.get("/loop").status_code == 200
        assert client.get("/thread").status_code == 200
        assert client.get("/opens").text == "open"
        assert blocked.result(20).json() is True
