"""Routes, routers, mounts and what they become."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tollway import ConfigError
from tollway.bolt import BoltAPI, Router
from tollway.bolt.compiling import paths
from tollway.bolt.compiling.assembly import Assembly, assemble
from tollway.bolt.conf import BoltSettings


def assembled(*apis: BoltAPI, **settings: Any) -> Assembly:
    return assemble(apis, BoltSettings(**settings))


def served(*apis: BoltAPI) -> list[str]:
    found = [
        route for route in assembled(*apis).routes if not route["name"].startswith("redirect to")
    ]
    return [f"{route['method']} {route['path']}" for route in found]


async def nothing() -> None: ...


@pytest.mark.parametrize(
    ("path", "rule", "normal"),
    [
        ("/", "strip", "/"),
        ("/a/", "strip", "/a"),
        ("/a", "append", "/a/"),
        ("/a/", "keep", "/a/"),
        ("/a/{x:int}/", "strip", "/a/{x}"),
        ("/files/{rest:path}", "append", "/files/{*rest}"),
        ("/files/{*rest}", "strip", "/files/{*rest}"),
    ],
)
def test_normal_paths(path: str, rule: Any, normal: str) -> None:
    assert paths.normal(path, rule) == normal


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("a", "must begin with a slash: write '/a'"),
        ("/a?b", "must not hold a query"),
        ("/{1x}", "needs the name of a parameter"),
        ("/{x:integer}", "has the unknown type 'integer'"),
        ("/{x}/{x}", "has the parameter {x} twice"),
        ("/{x", "a brace too many or too few"),
    ],
)
def test_paths_that_cannot_be(path: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        paths.normal(path, "strip")
    assert part in str(caught.value)


def test_every_method() -> None:
    api = BoltAPI()
    for method in ("get", "post", "put", "patch", "delete", "head", "options"):
        getattr(api, method)("/x")(nothing)
    methods = [line.split()[0] for line in served(api)]
    assert methods == ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


def test_prefixes_routers_and_mounts_in_any_order() -> None:
    api, inner = BoltAPI(prefix="/api"), BoltAPI(prefix="/v1", trailing_slash="append")
    router, nested = Router(prefix="/orgs/{org}"), Router()
    api.include_router(router, prefix="/all")
    api.mount("/inner", inner)
    router.include_router(nested, prefix="/teams")

    @nested.get("/{team}")
    async def team(org: str, team: int) -> None: ...

    @router.get("/")
    async def org(org: str) -> None: ...

    inner.get("/x/")(nothing)
    api.get("")(nothing)
    assert served(api) == [
        "GET /api",
        "GET /api/all/orgs/{org}",
        "GET /api/all/orgs/{org}/teams/{team}",
        "GET /api/inner/v1/x",
    ]


def test_a_router_cannot_hold_itself() -> None:
    one, two = Router(), Router()
    one.include_router(two)
    with pytest.raises(ConfigError, match="cannot hold itself"):
        two.include_router(one)
    with pytest.raises(ConfigError, match="a Router or a BoltAPI can be added here"):
        one.include_router("router")  # type: ignore[arg-type]


def test_two_handlers_for_one_path_are_both_named() -> None:
    one, two = BoltAPI(), BoltAPI()

    @one.get("/items/{item_id}")
    async def first(item_id: int) -> None: ...

    @two.get("/items/{name}/")
    async def second(name: str) -> None: ...

    with pytest.raises(ConfigError) as caught:
        assembled(one, two)
    told = str(caught.value)
    assert told.startswith("GET /items/{name} has two handlers: ")
    assert "first" in told
    assert f"second ({__file__}:{second.__code__.co_firstlineno})" in told


def test_redirects_stand_only_where_nothing_else_does() -> None:
    api = BoltAPI(trailing_slash="keep")
    api.get("/a")(nothing)
    api.get("/a/")(nothing)
    api.post("/b/")(nothing)
    api.get("/files/{rest:path}", name="files")(lambda rest: rest)
    redirects = [
        (route["method"], route["path"])
        for route in assembled(api).routes
        if route["name"].startswith("redirect to")
    ]
    assert redirects == [("POST", "/b")]


def test_a_redirect_never_leaves_the_host() -> None:
    api = BoltAPI()
    api.get("/{a}/{b}")(lambda a, b: None)
    [redirect] = [r for r in assembled(api).routes if r["name"].startswith("redirect")]

    class Asked:
        path = "//evil.example/"
        query_string = "x=1"

    answer = redirect["handler"](Asked)
    assert (answer.status_code, dict(answer.headers)["location"]) == (308, "/evil.example?x=1")
    Asked.path = "/\\evil.example\n/b/"
    assert dict(redirect["handler"](Asked).headers)["location"].startswith("/%5Cevil.example%0A/b")


def test_status_codes_are_checked_where_they_are_written() -> None:
    with pytest.raises(ConfigError, match="status_code is from 200 to 599, not 99"):
        BoltAPI().get("/x", status_code=99)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda: BoltAPI(gaurds=[]), "BoltAPI: there is no option 'gaurds'; did you mean guards?"),
        (lambda: Router(gaurds=[]), "Router: there is no option 'gaurds'; did you mean guards?"),
        (lambda: BoltAPI().get("/a", gaurds=[]), "path '/a': there is no option 'gaurds'; did you"),
        (lambda: BoltAPI().get("/a", xyz=1), "'xyz'; there are status_code, inline, name"),
        (lambda: BoltAPI(dependencies=[nothing]), "write Depends(nothing), not nothing"),
    ],
)
def test_an_option_that_is_none_opens_no_route(write: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        write()


def test_all_problems_are_told_together() -> None:
    api = BoltAPI()
    api.get("/{x}")(nothing)
    api.get("no-slash")(nothing)
    with pytest.raises(ConfigError) as caught:
        assembled(api)
    assert str(caught.value).startswith("2 things are wrong with the routes:\n")
