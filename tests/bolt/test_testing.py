"""The client for the tests of APIs: the real server, in the test's own process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bolt.project import Project
from tollway import Limiter
from tollway.bolt import BoltAPI, NotFound, Request, rate_limit
from tollway.bolt.testing import AsyncTestClient, TestClient
from tollway.testing import ManualClock, assert_rate_limited


def an_api(**options: Any) -> BoltAPI:
    api = BoltAPI(**options)

    @api.get("/items/{item_id}")
    async def item(item_id: int) -> dict[str, int]:
        if item_id == 0:
            raise NotFound("there is no item 0")
        return {"id": item_id}

    @api.get("/plain")
    def plain(request: Request) -> dict[str, Any]:
        return {"client": request.client, "host": request.headers["host"]}

    @api.get("/limited")
    @rate_limit("2/m", key="ip")
    async def limited() -> str:
        return "in"

    @api.get("/wrong")
    async def wrong() -> None:
        raise LookupError("nothing here")

    return api


def test_it_speaks_to_the_real_server() -> None:
    with TestClient(an_api()) as client:
        assert client.get("/items/7").json() == {"id": 7}
        assert client.get("/items/x").status_code == 422
        assert client.get("/items/0").json()["detail"] == "there is no item 0"
        assert client.get("/nowhere").status_code == 404
        assert client.get("/plain").json() == {"client": "127.0.0.1", "host": "testserver"}


def test_clients_have_addresses_and_time_is_a_value() -> None:
    clock = ManualClock()
    settings = {"RATELIMIT_BACKEND": Limiter(clock=clock)}
    api = an_api()
    with (
        TestClient(api, settings=settings) as one,
        TestClient(api, settings=settings, client="127.0.0.9") as other,
    ):
        assert [one.get("/limited").status_code for _ in range(3)] == [200, 200, 429]
        assert other.get("/limited").status_code == 200
        assert_rate_limited(one.get("/limited"), retry_after=30)
        clock.advance(30)
        assert one.get("/limited").status_code == 200


def test_each_client_begins_with_fresh_limits() -> None:
    api = an_api()
    for _ in range(2):
        with TestClient(api) as client:
            assert [client.get("/limited").status_code for _ in range(3)] == [200, 200, 429]


def test_what_a_handler_raises_is_raised_in_the_test() -> None:
    with TestClient(an_api()) as client:
        with pytest.raises(LookupError, match="nothing here"):
            client.get("/wrong")
        assert client.get("/items/1").status_code == 200
    with TestClient(an_api(), raise_server_exceptions=False) as client:
        assert client.get("/wrong").status_code == 500


async def test_any_number_of_exceptions_may_be_raised() -> None:
    """No connection stays open with an answer that nobody reads."""
    kept = []
    with TestClient(an_api(), timeout=5) as client:
        for _ in range(105):
            with pytest.raises(LookupError) as told:
                client.get("/wrong")
            kept.append(told)
    async with AsyncTestClient(an_api(), timeout=5) as asking:
        for _ in range(105):
            with pytest.raises(LookupError) as told:
                await asking.get("/wrong")
            kept.append(told)


def test_it_starts_by_itself_and_stops_when_closed() -> None:
    client = TestClient(an_api())
    assert client.get("/items/3").json() == {"id": 3}
    client.close()
    assert not [one for one in threading.enumerate() if one.name == "tollway-test-server"]
    with pytest.raises(RuntimeError, match="closed"):
        client.get("/items/3")


async def test_async_tests_share_their_loop() -> None:
    loops = []
    api = BoltAPI()

    @api.get("/loop")
    async def loop() -> str:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return "here"

    async with AsyncTestClient(api) as client:
        answers = await asyncio.gather(*(client.get("/loop") for _ in range(5)))
    assert {answer.text for answer in answers} == {"here"}
    assert set(loops) == {asyncio.get_running_loop()}


def test_lifespans_are_entered_outside_in_and_left_in_reverse() -> None:
    told: list[str] = []

    def lifespan(name: str) -> Any:
        @asynccontextmanager
        async def around(api: BoltAPI) -> AsyncIterator[None]:
            api.state.name = name
            told.append(f"{name} up")
            yield
            told.append(f"{name} down")

        return around

    inner, outer = BoltAPI(lifespan=lifespan("inner")), BoltAPI(lifespan=lifespan("outer"))

    @inner.get("/name")
    async def name() -> str:
        return f"{inner.state.name} in {outer.state.name}"

    outer.mount("/inner", inner)
    with TestClient(outer) as client:
        assert client.get("/inner/name").text == "inner in outer"
        assert told == ["outer up", "inner up"]
    assert told == ["outer up", "inner up", "inner down", "outer down"]


def test_a_lifespan_that_fails_is_raised_and_nothing_is_served() -> None:
    @asynccontextmanager
    async def lifespan(_api: BoltAPI) -> AsyncIterator[None]:
        raise ConnectionError("no broker")
        yield

    with pytest.raises(ConnectionError, match="no broker"):
        TestClient(an_api(lifespan=lifespan)).get("/items/1")


def test_keyword_arguments_are_those_of_httpx() -> None:
    with TestClient(an_api(), headers={"X-Team": "a"}, follow_redirects=True) as client:
        assert client.headers["x-team"] == "a"
        assert client.get("/items/7/").json() == {"id": 7}
        assert isinstance(client.get("/plain"), httpx.Response)


API = """
from shop.models import Item
from tollway.bolt import BoltAPI

api = BoltAPI()


@api.get("/items")
def items():
    return list(Item.objects.values_list("name", flat=True))


@api.get("/later")
async def later():
    return [item.name async for item in Item.objects.all()]


@api.post("/items")
def add(name: str):
    return {"id": Item.objects.create(name=name).pk}
"""

TESTS = """
from django.test import TestCase, TransactionTestCase

from shop.api import api
from shop.models import Item
from tollway.bolt.testing import AsyncTestClient, TestClient


class InATransaction(TestCase):
    def test_handlers_see_what_the_test_wrote(self):
        Item.objects.create(name="rope")
        with TestClient(api) as client:
            assert client.get("/items").json() == ["lantern", "rope"]
            assert client.get("/later").json() == ["lantern", "rope"]
            client.post("/items?name=tent")
            assert Item.objects.filter(name="tent").exists()

    def test_it_was_rolled_back(self):
        with TestClient(api) as client:
            assert client.get("/items").json() == ["lantern"]

    async def test_async(self):
        await Item.objects.acreate(name="rope")
        async with AsyncTestClient(api) as client:
            assert (await client.get("/later")).json() == ["lantern", "rope"]
            assert (await client.get("/items")).json() == ["lantern", "rope"]


class Committed(TransactionTestCase):
    def test_handlers_have_connections_of_their_own(self):
        Item.objects.create(name="rope")
        with TestClient(api) as client:
            assert "rope" in client.get("/items").json()
            assert "rope" in client.get("/later").json()
"""


@pytest.mark.parametrize("where", ["memory", "file"])
def test_in_the_test_cases_of_django(tmp_path: Path, where: str) -> None:
    project = Project(tmp_path)
    project.write("shop/api.py", API)
    project.write("shop/tests.py", TESTS)
    if where == "file":
        test = 'DATABASES["default"]["TEST"] = {"NAME": Path(__file__).parent / "test.sqlite3"}'
        project.settings(test)
    ran = project.manage("test", "shop")
    assert ran.returncode == 0 and "Ran 4 tests" in ran.stderr, ran.stderr
