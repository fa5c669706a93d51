"""`manage.py runbolt` in a process of its own, over real sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import httpx
import pytest

from tests.bolt.project import Project
from tests.waiting import wait

API = """
import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Annotated

import msgspec
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.backends.signals import connection_created
from django.http import Http404

from shop.models import Item
from tollway.bolt import BoltAPI, HTTPException, JSON, NotFound, PlainText, Request, rate_limit
from tollway.bolt.params import Cookie, Header, Query

api = BoltAPI()
CONNECTED = []
connection_created.connect(lambda **_: CONNECTED.append(1), weak=False)
MARKS = Path(__file__).parent


class NewItem(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=2, max_length=40)]
    price: Annotated[int, msgspec.Meta(ge=0)]
    tags: list[str] = []


@api.get("/limited")
@rate_limit(key="ip", rate="5/10s")
async def limited():
    return {"ok": True}


@api.get("/hourly")
@rate_limit("5/h")
async def hourly():
    return {"ok": True}


@api.get("/whoami")
async def whoami(request: Request):
    return {"pid": os.getpid(), "client": request.client}


@api.get("/items/{item_id}")
async def get_item(item_id: int, q: str | None = None, tag: list[str] = Query([])):
    return {"item_id": item_id, "q": q, "tag": tag}


@api.post("/items", status_code=201)
async def create(
    item: NewItem, dry: Annotated[int, Query(ge=0)] = 0, lang: Annotated[str, Cookie()] = "en"
):
    return {"name": item.name, "price": item.price, "tags": item.tags, "lang": lang}


@api.get("/a/items")
async def items_async():
    return [item.name async for item in Item.objects.all()]


@api.get("/s/items")
def items_sync():
    return {"names": [item.name for item in Item.objects.all()], "thread": threading.get_ident()}


@api.get("/connections")
def connections_made():
    Item.objects.count()
    return len(CONNECTED)


@api.get("/i/items", inline=True)
def items_inline():
    return [item.name for item in Item.objects.all()]


@api.get("/slow")
async def slow(seconds: float = 1.0):
    (MARKS / "began").touch()
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        (MARKS / "cancelled").touch()
        raise
    return {"slept": seconds}


@api.get("/slow-thread")
def slow_thread(seconds: float = 1.0):
    (MARKS / "began").touch()
    time.sleep(seconds)
    return {"slept": seconds}


@api.get("/error/{kind}")
async def error(kind: str):
    if kind == "http":
        raise HTTPException(418, "short and stout", headers={"X-Pot": "tea"}, extra={"n": 1})
    if kind == "named":
        raise NotFound("no such thing as that")
    if kind == "django404":
        raise Http404("gone")
    if kind == "denied":
        raise PermissionDenied
    if kind == "validation":
        raise ValidationError({"name": ["too short"], "price": ["too high"]})
    if kind == "msgspec":
        msgspec.json.decode(b'"x"', type=int)
    raise RuntimeError("the secret is 12345")


@api.get("/cookie")
async def cookie():
    return JSON({"ok": True}, headers={"X-A": "b"}).set_cookie("theme", "a b", httponly=True)


@api.delete("/items/{item_id}", status_code=204)
async def remove(item_id: int):
    return None


@api.get("/text")
def text():
    return PlainText("Grüße")


@api.get("/die")
async def die():
    os._exit(9)
"""


def migrated(project: Project) -> Project:
    """The same project with the API above and its database."""
    project.write("shop/api.py", API)
    project.run("migrate", "-v0")
    return project


@pytest.fixture
def shop(project: Project) -> Project:
    """A project of the test's own."""
    return migrated(project)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of one server that the tests share that leave no trace in it."""
    shop = migrated(Project(tmp_path_factory.mktemp("shared")))
    with shop.serve("--threads", "2") as served, httpx.Client(base_url=served.url) as client:
        yield client


def pids_of(client: httpx.Client, requests: int = 100) -> set[int]:
    """The processes that answer. A process that dies takes connections with it."""
    found = set()
    for _ in range(requests):
        with suppress(httpx.TransportError):
            found.add(client.get("/whoami").json()["pid"])
    return found


def spread(url: str) -> httpx.Client:
    """A client that connects for each request, so that the kernel picks a process each time."""
    return httpx.Client(base_url=url, headers={"Connection": "close"})


def test_five_of_seven_pass_and_a_forged_header_changes_nothing(shop: Project) -> None:
    with shop.serve() as served, httpx.Client(base_url=served.url) as client:
        answers = [
            client.get("/limited", headers={"X-Forwarded-For": f"198.51.100.{n}"}) for n in range(7)
        ]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers[:5]] == list("43210")
        assert "q=5;w=10" in answers[0].headers["ratelimit-policy"]
        refused = answers[5]
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"] == "2"
        assert ";r=0;t=" in refused.headers["ratelimit"]
        problem = refused.json()
        assert problem["status"] == 429
        assert 0 < problem["retry_after_ms"] <= 2000
        wait = int(refused.headers["retry-after"])
        time.sleep(wait)  # the promise is about real time
        assert client.get("/limited").status_code == 200
        assert client.get("/limited").status_code == 429


def test_a_trusted_proxy_speaks_for_its_clients(shop: Project) -> None:
    shop.settings('BOLT_TRUSTED_PROXIES = ["127.0.0.0/8"]')
    with shop.serve() as served, httpx.Client(base_url=served.url) as client:
        for number in range(7):
            headers = {"X-Forwarded-For": f"198.51.100.{number}"}
            assert client.get("/limited", headers=headers).status_code == 200
        assert (
            client.get("/whoami", headers={"X-Forwarded-For": "198.51.100.9"}).json()["client"]
            == "198.51.100.9"
        )


def test_parameters_bodies_and_responses(client: httpx.Client) -> None:
    answer = client.get("/items/7", params={"q": "a b", "tag": ["x", "y"]})
    assert answer.json() == {"item_id": 7, "q": "a b", "tag": ["x", "y"]}
    assert client.get("/items/7").json() == {"item_id": 7, "q": None, "tag": []}
    made = client.post("/items", json={"name": "rope", "price": 3}, headers={"Cookie": "lang=de"})
    assert made.status_code == 201
    assert made.json() == {"name": "rope", "price": 3, "tags": [], "lang": "de"}
    cookie = client.get("/cookie")
    assert cookie.headers["set-cookie"] == 'theme="a b"; Path=/; SameSite=Lax; HttpOnly'
    assert cookie.headers["x-a"] == "b"
    gone = client.delete("/items/7")
    assert (gone.status_code, gone.content) == (204, b"")
    assert client.get("/text").text == "Grüße"
    assert client.head("/text").headers["content-length"] == "7"
    redirect = client.get("/items/7/?q=a%20b")
    assert (redirect.status_code, redirect.headers["location"]) == (308, "/items/7?q=a%20b")
    assert client.get("/nowhere").status_code == 404
    refused = client.put("/items/7")
    assert refused.status_code == 405
    assert refused.headers["allow"] == "DELETE, GET, HEAD, OPTIONS"


def test_a_422_lists_every_mistake(client: httpx.Client) -> None:
    wrong = client.get("/items/seven")
    assert wrong.status_code == 422
    assert wrong.headers["content-type"] == "application/problem+json"
    [entry] = wrong.json()["errors"]
    assert (entry["type"], entry["loc"]) == ("int_parsing", ["path", "item_id"])
    body = {"name": "r", "price": -1, "tags": ["a", 1]}
    wrong = client.post("/items?dry=-5", json=body)
    found = {(entry["type"], tuple(entry["loc"])) for entry in wrong.json()["errors"]}
    assert found == {
        ("greater_than_equal", ("query", "dry")),
        ("too_short", ("body", "name")),
        ("greater_than_equal", ("body", "price")),
        ("type_mismatch", ("body", "tags", 1)),
    }
    malformed = client.post("/items", content=b'{"name": "rope",\n "price": 3,}')
    assert malformed.status_code == 422
    [entry] = malformed.json()["errors"]
    assert entry["type"] == "json_invalid"
    assert entry["loc"][:2] == ["body", 2]
    assert "line 2" in entry["msg"]
    [entry] = client.post("/items", content=b"").json()["errors"]
    assert (entry["type"], entry["loc"]) == ("missing", ["body"])


@pytest.mark.parametrize(
    ("kind", "status", "detail"),
    [
        ("http", 418, "short and stout"),
        ("named", 404, "no such thing as that"),
        ("django404", 404, "gone"),
        ("denied", 403, "you may not do this"),
    ],
)
def test_exceptions_become_problems(
    client: httpx.Client, kind: str, status: int, detail: str
) -> None:
    answer = client.get(f"/error/{kind}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == detail


def test_what_nobody_expected_is_logged_once_and_told_nobody(shop: Project) -> None:
    with shop.serve() as served:
        answer = httpx.get(f"{served.url}/error/boom")
        assert answer.status_code == 500
        assert "12345" not in answer.text
        # msgspec's error out of a handler is the server's fault, not the client's.
        assert httpx.get(f"{served.url}/error/msgspec").status_code == 500
        listed = httpx.get(f"{served.url}/error/validation")
        assert listed.status_code == 422
        assert [entry["loc"] for entry in listed.json()["errors"]] == [
            ["body", "name"],
            ["body", "price"],
        ]
        assert served.stop() == 0
    printed = "\n".join(served.lines)
    assert printed.count("RuntimeError: the secret is 12345") == 1
    assert "GET /error/boom failed" in printed
    assert "in error" in printed


def test_debug_tells_the_traceback(shop: Project) -> None:
    shop.settings("DEBUG = True")
    with shop.serve() as served:
        told = httpx.get(f"{served.url}/error/boom").json()
        assert told["detail"] == "RuntimeError: the secret is 12345"
        assert any("shop/api.py" in line for line in told["traceback"])


def test_the_orm_in_every_kind_of_handler(client: httpx.Client) -> None:
    for _ in range(5):
        assert client.get("/a/items").json() == ["lantern"]
        assert client.get("/s/items").json()["names"] == ["lantern"]
        assert client.get("/i/items").json() == ["lantern"]


@pytest.mark.parametrize(("age", "opened"), [("0", "one each"), ("None", "one for all")])
def test_connections_of_plain_handlers_live_as_django_says(
    shop: Project, age: str, opened: str
) -> None:
    shop.settings(f"DATABASES['default']['CONN_MAX_AGE'] = {age}")
    with shop.serve("--threads", "1") as served, httpx.Client(base_url=served.url) as client:
        counts = [client.get("/connections").json() for _ in range(3)]
    # The look for migrations at the start had one too.
    assert counts == ([2, 3, 4] if opened == "one each" else [2, 2, 2])


def test_a_stop_lets_requests_in_flight_finish(shop: Project) -> None:
    for path in ("/slow?seconds=1", "/slow-thread"):
        (shop.folder / "shop" / "began").unlink(missing_ok=True)
        with shop.serve() as served, ThreadPoolExecutor() as threads:
            pending = threads.submit(httpx.get, served.url + path, timeout=20)
            shop.wait_for_mark("began")
            assert served.stop() == 0
            assert pending.result().status_code == 200
            with pytest.raises(httpx.ConnectError):
                httpx.get(served.url)


@pytest.mark.parametrize("path", ["/slow", "/slow-thread"])
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_stop_does_not_wait_longer_than_grace(shop: Project, path: str, processes: str) -> None:
    arguments = ("--grace", "0.2", "--processes", processes)
    with shop.serve(*arguments) as served, ThreadPoolExecutor() as threads:
        pending = threads.submit(httpx.get, f"{served.url}{path}?seconds=60", timeout=30)
        shop.wait_for_mark("began")
        began = time.monotonic()
        served.stop()
        assert time.monotonic() - began < 4
        assert pending.exception() is not None or pending.result().status_code >= 500
    if path == "/slow":
        shop.wait_for_mark("cancelled")


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_second_signal_ends_at_once(shop: Project, processes: str) -> None:
    with shop.serve("--processes", processes) as served, ThreadPoolExecutor() as threads:
        pending = threads.submit(httpx.get, f"{served.url}/slow?seconds=60", timeout=30)
        shop.wait_for_mark("began")
        served.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            served.process.wait(timeout=0.5)
        assert served.stop() == 1
        assert pending.exception() is not None or pending.result().status_code >= 500


def test_a_signal_to_the_whole_group_is_one_signal(shop: Project) -> None:
    with shop.serve("--processes", "2") as served, ThreadPoolExecutor() as threads:
        pending = threads.submit(httpx.get, f"{served.url}/slow?seconds=1", timeout=30)
        shop.wait_for_mark("began")
        os.killpg(served.process.pid, signal.SIGTERM)
        assert pending.result().status_code == 200
        assert served.process.wait(timeout=20) == 0


def test_a_client_that_goes_away_cancels_its_handler(shop: Project) -> None:
    with shop.serve() as served:
        host, port = served.url.removeprefix("http://").split(":")
        with closing(socket.create_connection((host, int(port)))) as client:
            client.sendall(b"GET /slow?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n")
            shop.wait_for_mark("began")
        shop.wait_for_mark("cancelled")


def test_two_processes_share_the_port_and_warn_of_memory(shop: Project) -> None:
    shop.settings('RATELIMIT_BACKEND = "memory://"')
    with shop.serve("--processes", "2") as served, spread(served.url) as client:
        pids = pids_of(client)
        assert len(pids) == 2
        assert served.process.pid not in pids
        assert served.stop() == 0
    printed = "\n".join(served.lines)
    assert "each of the 2 processes keeps its own" in printed
    assert 'RATELIMIT_BACKEND = "redis://' in printed
    assert "2 processes)" in printed


def test_two_processes_share_one_limit_over_redis(shop: Project, redis_url: str) -> None:
    shop.settings(
        f"""
        RATELIMIT_BACKEND = {redis_url!r}
        RATELIMIT_KEY_PREFIX = "runbolt"
        RATELIMIT_FAIL_MODE = "closed"
        RATELIMIT_COMMAND_TIMEOUT = 5
        """
    )
    with shop.serve("--processes", "2") as served, spread(served.url) as client:
        answers = [client.get("/hourly") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        assert len(pids_of(client)) == 2
        assert served.stop() == 0
    assert "keeps its own" not in "\n".join(served.lines)


def test_a_dead_process_is_started_again(shop: Project) -> None:
    with shop.serve("--processes", "2") as served, spread(served.url) as client:
        with pytest.raises(httpx.TransportError):
            client.get("/die")
        wait("there are two again", lambda: len(pids_of(client, 50)) == 2, 20)
        assert served.stop(signal.SIGINT) == 0
    assert any("(exit code 9): another starts in 0.1 s" in line for line in served.lines)


def test_children_stop_when_their_parent_is_killed(shop: Project) -> None:
    with shop.serve("--processes", "2") as served, spread(served.url) as client:
        pids = pids_of(client)
        served.process.kill()
        served.process.wait()
        wait("all are gone", lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), 10)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_taken_port_is_one_sentence(shop: Project, processes: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        told = shop.manage("runbolt", "--port", port, "--processes", processes)
    assert told.returncode == 1
    assert "Traceback" not in told.stderr
    last = told.stderr.strip().splitlines()[-1]
    assert last.startswith(f"CommandError: port {port} on 127.0.0.1 is already in use")
    assert "--port" in last


@pytest.mark.parametrize("processes", ["1", "2"])
def test_another_runbolt_has_the_port(shop: Project, processes: str) -> None:
    with shop.serve("--processes", "2") as served:
        port = served.url.rpartition(":")[2]
        told = shop.manage("runbolt", "--port", port, "--processes", processes)
        assert told.returncode == 1
        assert "is already in use" in told.stderr


def test_a_missing_api_says_where_it_looked(project: Project) -> None:
    told = project.manage("runbolt", "--port", "0")
    assert told.returncode == 1
    assert "Traceback" not in told.stderr
    assert "CommandError: no api.py was found" in told.stderr
    for part in ("site_of_tests/api.py", "shop/api.py", "api = BoltAPI()", "BOLT_API"):
        assert part in told.stderr


def test_everything_wrong_with_the_routes_is_told_at_once(project: Project) -> None:
    project.write(
        "shop/api.py",
        """
        from tollway.bolt import BoltAPI

        api = BoltAPI()

        @api.get("/one/{name}")
        async def one(other: int): ...

        @api.get("/two")
        async def two(*things): ...
        """,
    )
    told = project.manage("runbolt", "--check")
    assert told.returncode == 1
    assert "2 things are wrong" in told.stderr
    assert "shop.api.one" in told.stderr
    assert "shop/api.py:9" in told.stderr
    assert "'*things'" in told.stderr


def test_check_tells_how_many_routes(shop: Project) -> None:
    told = shop.manage("runbolt", "--check")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout == "16 routes: all is well\n"


def test_settings_that_cannot_be(shop: Project) -> None:
    shop.settings("BOLT_THREADS = 'many'\nBOLT_GRACEE = 1")
    told = shop.manage("check")
    assert "setting BOLT_THREADS: 'many' is not a whole number" in told.stderr
    assert "The setting BOLT_GRACEE does nothing." in told.stderr
    assert "Did you mean BOLT_GRACE?" in told.stderr


def test_an_unreachable_store_does_not_close_the_site(shop: Project) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # never listens
        port = silent.getsockname()[1]
        shop.settings(f'RATELIMIT_BACKEND = "redis://127.0.0.1:{port}/0"')
        with shop.serve() as served:
            codes = [httpx.get(f"{served.url}/hourly").status_code for _ in range(7)]
    assert codes == [200] * 5 + [429] * 2
    shop.settings(f'RATELIMIT_BACKEND = "redis://127.0.0.1:{port}/0"\nRATELIMIT_FAIL_MODE="closed"')
    with shop.serve() as served:
        closed = httpx.get(f"{served.url}/limited")
    assert (closed.status_code, closed.headers["retry-after"]) == (503, "1")


def test_a_body_of_some_size_goes_in_and_out_whole(client: httpx.Client) -> None:
    tags = [str(number) for number in range(5_000)]
    made = client.post("/items", json={"name": "rope", "price": 1, "tags": tags})
    assert made.json()["tags"] == tags
