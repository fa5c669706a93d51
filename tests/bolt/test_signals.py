"""Django's request signals around Bolt's handlers, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.bolt.project import Project

API = """
import asyncio

from django.core import signals

from tollway.bolt import BoltAPI, rate_limit, skip_middleware

api = BoltAPI()
told = []
ended = asyncio.Event()


def place():
    try:
        asyncio.get_running_loop()
        return "the loop"
    except RuntimeError:
        return "a thread"


def started(sender, environ, **named):
    told.append(f"started {environ['REQUEST_METHOD']} {environ['PATH_INFO']} on {place()}")


def finished(sender, **named):
    told.append(f"finished for {sender.__name__} on {place()}")


signals.request_started.connect(started)
signals.request_finished.connect(finished)


def heard():
    told.append("handler")
    found = list(told)
    told.clear()
    return found


@api.get("/loop")
async def loop():
    return heard()


@api.get("/thread")
@skip_middleware("*")
def thread():
    return heard()


@api.get("/broken")
async def broken():
    raise RuntimeError("broken")


@api.get("/number/{n}")
@rate_limit("1/h")
async def number(n: int):
    return {}


@api.get("/waiting")
async def waiting():
    try:
        await asyncio.sleep(60)
    finally:
        ended.set()


@api.get("/ended")
async def has_ended():
    await ended.wait()
    return heard()
"""

FINISHED = "finished for BoltAPI on a thread"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("signals"))
    project.write("shop/api.py", API)
    return project


@pytest.fixture(scope="module")
def server(project: Project) -> Iterator[httpx.Client]:
    # One thread, so that receivers are called in the order of their requests.
    project.settings("BOLT_EMIT_SIGNALS = True; BOLT_THREADS = 1")
    with project.serve() as served, httpx.Client(base_url=served.url) as client:
        yield client


@pytest.fixture
def client(server: httpx.Client) -> httpx.Client:
    """What is told from here on begins with the end of this request."""
    assert server.get("/loop").status_code == 200
    return server


def test_handlers_are_between_the_signals(client: httpx.Client) -> None:
    assert client.get("/thread").json() == [FINISHED, "started GET /thread on a thread", "handler"]
    assert client.get("/broken").status_code == 500
    assert client.get("/loop").json() == [
        FINISHED,
        "started GET /broken on a thread",
        FINISHED,
        "started GET /loop on a thread",
        "handler",
    ]


def test_what_python_never_sees_sends_none(client: httpx.Client) -> None:
    answers = [client.get(f"/number/{name}").status_code for name in ("one", "1", "1")]
    assert answers == [422, 429, 429]
    assert client.get("/nowhere").status_code == 404
    assert client.get("/loop").json() == [FINISHED, "started GET /loop on a thread", "handler"]


def test_a_client_that_goes_away_finishes_its_request(client: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        client.get("/waiting", timeout=0.5)
    told = [*client.get("/ended").json(), *client.get("/loop").json()]
    # Of the request before this test, of the one given up and of the one that waited for its end.
    assert told.count(FINISHED) == 3


def test_nothing_is_sent_unless_asked_for(project: Project) -> None:
    project.settings("")
    with project.serve() as served:
        assert httpx.get(f"{served.url}/loop").json() == ["handler"]
        assert httpx.get(f"{served.url}/thread").json() == ["handler"]


def test_the_setting_is_true_or_false(project: Project) -> None:
    project.settings('BOLT_EMIT_SIGNALS = "yes"')
    told = project.manage("runbolt", "--port", "0")
    assert told.returncode != 0
    assert "BOLT_EMIT_SIGNALS: 'yes' is neither True nor False" in told.stderr
