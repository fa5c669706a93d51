"""What routes promise to answer, through real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from django.db.models import Model

from tests.bolt.project import Project, Served
from tollway import ConfigError
from tollway.bolt import BoltAPI
from tollway.bolt.compiling.assembly import assemble
from tollway.bolt.conf import BoltSettings

APP = Path(__file__).with_name("models_app.py").read_text()
LAMP = {"id": 1, "name": "lamp"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    project = Project(tmp_path_factory.mktemp("models"))
    project.write("shop/api.py", APP)
    project.run("migrate", "-v0")
    with project.serve() as server:
        yield server


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/struct", LAMP),
        ("/filtered", LAMP),
        ("/rows", [{"id": 1, "name": "lantern"}]),
        ("/rows/after", [{"id": 1, "name": "lantern"}]),
        ("/rows/within", [{"id": 1, "name": "lantern"}]),
        ("/row", {"id": 1, "name": "lantern"}),
        ("/typed", {"count": 2}),
        ("/plain", {"name": "lamp"}),
        ("/open?good=true", LAMP),
        ("/loose", {"anything": 1}),
        ("/dict", {"anything": 1}),
    ],
)
def test_what_is_returned_takes_the_form_of_the_model(
    served: Served, path: str, answer: Any
) -> None:
    found = httpx.get(f"{served.url}{path}")
    assert (found.status_code, found.json()) == (200, answer)
    assert found.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/wrong", "response.0.id: Expected a whole number, got text; response.1.name: this"),
        ("/wrong?exact=true", "response.0.id: Expected a whole number, got text; response.0.name"),
        ("/open?good=false", "response.id: this field is required"),
        ("/strict", "response.id: this field is required; response.name: this field is required"),
    ],
)
def test_what_does_not_fit_is_told_in_the_log_only(project: Project, path: str, told: str) -> None:
    project.write("shop/api.py", APP)
    with project.serve() as served:
        answer = httpx.get(f"{served.url}{path}")
        assert answer.status_code == 500
        assert answer.json()["detail"] == "the server failed to answer this request"
        served.stop()
    logged = "\n".join(served.lines)
    assert "the answer 200 of shop.api." in logged
    assert told in logged


def test_models_by_status(served: Served) -> None:
    def case(name: str) -> tuple[int, Any]:
        answer = httpx.post(f"{served.url}/by-status", params={"case": name})
        return answer.status_code, answer.text

    assert case("made") == (201, '{"id":1,"name":"lamp"}')
    assert case("missing") == (404, '{"reason":"gone"}')
    assert case("broken")[0] == 500
    assert case("other") == (307, "")


class Item(msgspec.Struct):
    name: str


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({99: Item}, "response_model: 99 is not a status from 200 to 599"),
        (list[Item] | set[Item], "response_model: Type unions may not contain more than one array"),
    ],
)
def test_models_that_cannot_be(model: Any, told: str) -> None:
    async def handler() -> None: ...

    api = BoltAPI()
    api.get("/", response_model=model)(handler)
    with pytest.raises(ConfigError) as caught:
        assemble([api], BoltSettings())
    assert told in str(caught.value)
    assert f"{__file__}:{handler.__code__.co_firstlineno}" in str(caught.value)


def test_a_row_of_the_database_is_no_promise() -> None:
    for annotation in (Model, list[Model]):

        def handler() -> None: ...

        handler.__annotations__["return"] = annotation
        api = BoltAPI()
        api.get("/")(handler)
        with pytest.raises(ConfigError, match="returns Model, and a model of Django does not"):
            assemble([api], BoltSettings())
        api = BoltAPI()
        api.get("/", response_model=Item)(handler)
        assemble([api], BoltSettings())


def test_nothing_is_put_around_a_handler_with_one_model() -> None:
    async def handler() -> Item:
        return Item("x")

    api = BoltAPI()
    api.get("/")(handler)
    assert assemble([api], BoltSettings()).routes[0]["handler"] is handler
