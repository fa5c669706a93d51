"""Dependencies of handlers, through real HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest

from tests.bolt.project import Project, Served
from tollway import ConfigError
from tollway.bolt import BoltAPI, Depends, Router
from tollway.bolt.compiling.assembly import assemble
from tollway.bolt.conf import BoltSettings

APP = Path(__file__).with_name("depends_app.py").read_text()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    project = Project(tmp_path_factory.mktemp("depends"))
    project.write("shop/api.py", APP)
    project.run("migrate", "-v0")
    with project.serve() as server:
        yield server


def get(served: Served, path: str, **more: Any) -> Any:
    answer = httpx.get(f"{served.url}{path}", **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def told(served: Served) -> list[str]:
    """What the dependencies wrote down since the last look, in order."""
    found: list[str] = get(served, "/events")
    return found


@pytest.mark.parametrize("kind", ["async", "sync", "inline"])
def test_functions_and_classes_in_every_kind_of_handler(served: Served, kind: str) -> None:
    found = get(served, f"/{kind}/lamps?page=3")
    assert found == {"shop": "lamps", "page": 3, "size": 20, "tag": "[lamps]"}


def test_a_dependency_is_called_once_unless_it_says_otherwise(served: Served) -> None:
    assert get(served, "/cached") == {"first": 1, "second": 1, "nested": 1, "again": 2}


def test_mixed_kinds_meet(served: Served) -> None:
    found = get(served, "/mixed/sync")
    assert found["on_loop"] is True, "an async dependency runs on the loop"
    assert found["handler_thread"].startswith("tollway-dependency")
    found = get(served, "/mixed/async")
    assert found["plain_thread"].startswith("tollway-dependency")
    assert found["inline_thread"] == found["class_thread"] == "MainThread"
    assert found["rows"] == ["lantern"], "a plain dependency may use the ORM"
    assert found["variable"] == "set by the dependency"


def test_mistakes_of_dependencies_are_in_the_same_list(served: Served) -> None:
    answer = httpx.post(
        f"{served.url}/listed?page=x", headers={"X-Count": "y"}, content=b'{"name": 1}'
    )
    assert answer.status_code == 422
    places = [entry["loc"] for entry in answer.json()["errors"]]
    assert places == [["query", "page"], ["header", "x-count"], ["body", "name"]]


def test_a_body_may_be_shared(served: Served) -> None:
    answer = httpx.post(f"{served.url}/shared", json={"name": "lamp"})
    assert answer.json() == {"same": True}


@pytest.mark.parametrize("kind", ["sync", "async", "crossed"])
def test_clean_up_comes_after_the_answer_was_made(served: Served, kind: str) -> None:
    told(served)
    assert get(served, f"/cleaned/{kind}") == {"value": "inner of outer"}
    assert told(served) == [
        "outer opens",
        "inner opens",
        "handler",
        "encoded",
        "inner closes",
        "outer closes",
    ]


@pytest.mark.parametrize("kind", ["sync", "async", "crossed"])
def test_what_a_handler_raises_reaches_its_dependencies(served: Served, kind: str) -> None:
    told(served)
    answer = httpx.get(f"{served.url}/cleaned/{kind}?fails=true")
    assert (answer.status_code, answer.json()["detail"]) == (409, "the handler")
    assert told(served)[-3:] == ["inner sees Conflict", "inner closes", "outer closes"]


@pytest.mark.parametrize("kind", ["sync", "async", "crossed"])
def test_a_dependency_may_answer_instead(served: Served, kind: str) -> None:
    answer = httpx.get(f"{served.url}/replaced/{kind}")
    assert (answer.status_code, answer.json()["detail"]) == (503, "it was a KeyError")


def test_a_dependency_cannot_keep_an_error_to_itself(served: Served) -> None:
    def silent() -> Iterator[None]:
        with suppress(KeyError):
            yield

    async def fails(nothing: None = Depends(silent, inline=True)) -> None:
        raise KeyError

    api = BoltAPI()
    api.get("/")(fails)
    call = assemble([api], BoltSettings()).routes[0]["handler"]
    name = "test_a_dependency_cannot_keep_an_error_to_itself.<locals>"
    with pytest.raises(RuntimeError, match=f"{name}.silent caught it: raise it again"):
        asyncio.run(call())


@pytest.mark.parametrize("kind", ["async", "crossed"])
def test_clean_up_when_the_client_goes_away(served: Served, kind: str) -> None:
    told(served)
    host, _, port = served.url.removeprefix("http://").partition(":")
    client = socket.create_connection((host, int(port)), timeout=10)
    with closing(client):
        client.sendall(f"GET /waits/{kind} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        with closing(connection):
            connection.request("GET", "/entered")
            assert json.loads(connection.getresponse().read()) == ["entered"]
    assert get(served, "/closed") == ["CancelledError", "closed"]


def test_dependencies_of_routes_routers_and_apis_come_first(served: Served) -> None:
    told(served)
    assert get(served, "/team/board/notes") == {"shop": "board"}
    assert told(served) == ["of the api", "of the router", "of the route"]
    answer = httpx.get(f"{served.url}/team/board/notes", headers={"X-Stop": "route"})
    assert (answer.status_code, answer.json()["detail"]) == (403, "stopped")


def test_overrides(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("shop/api.py", APP)
    project.write(
        "shop/other.py",
        """
        from shop import api as shop_api

        def fake(page: int = 7):
            return f"fake {page}"

        shop_api.api.dependency_overrides[shop_api.find_shop] = fake
        api = shop_api.api
        """,
    )
    project.settings('BOLT_API = ["shop.other:api"]')
    with project.serve() as served:
        assert get(served, "/cleaned/sync")["value"] == "inner of outer"
        found = get(served, "/async/lamps?page=9")
        assert (found["shop"], found["tag"]) == ("fake 9", "[fake 9]")


def refused(handler: Callable[..., Any], path: str = "/", **options: Any) -> str:
    api = BoltAPI()
    api.get(path, **options)(handler)
    with pytest.raises(ConfigError) as caught:
        assemble([api], BoltSettings())
    return str(caught.value)


def ring_a(b: Annotated[int, Depends(lambda: 1)]) -> None: ...


class Unreadable: ...


def strange(value: Unreadable) -> None: ...


async def waits() -> None: ...


def test_dependencies_that_cannot_work() -> None:
    def first(other: Any = None) -> None: ...
    def second(other: Any = Depends(first)) -> None: ...

    first.__defaults__ = (Depends(second),)

    def circle(x: Any = Depends(first)) -> None: ...
    def odd(x: Any = Depends(strange)) -> None: ...
    def no_function(x: Any = Depends(7)) -> None: ...  # type: ignore[arg-type]
    def inline(x: Any = Depends(waits)) -> None: ...

    name = "test_dependencies_that_cannot_work.<locals>"
    message = refused(circle)
    line = f"{__file__}:{circle.__code__.co_firstlineno}"
    assert f"{name}.circle ({line})" in message
    assert "dependencies go in a circle" in message
    assert f"{name}.first -> tests.bolt.test_depends.{name}.second -> " in message
    message = refused(odd)
    assert f"{name}.odd ({__file__}:{odd.__code__.co_firstlineno}), dependency" in message
    assert f"strange ({__file__}:{strange.__code__.co_firstlineno}), parameter 'value'" in message
    assert "Depends(7) is not a function or a class" in refused(no_function)
    assert "waits is async: leave it out" in refused(inline, inline=True)


def test_lists_of_dependencies_hold_dependencies() -> None:
    with pytest.raises(ConfigError, match="write Depends"):
        Router(dependencies=[waits])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="path '/x': dependencies: write Depends"):
        BoltAPI().get("/x", dependencies=[waits])  # type: ignore[list-item]


def test_nothing_stands_between_the_server_and_a_handler_that_needs_nothing() -> None:
    async def plain(q: str) -> str:
        return q

    api = BoltAPI()
    api.get("/")(plain)
    assert assemble([api], BoltSettings()).routes[0]["handler"] is plain
