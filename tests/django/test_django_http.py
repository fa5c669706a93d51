"""The Django door over real HTTP: WSGI and ASGI in threads on a clock, and servers of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.test import override_settings

from tests.asgi.serving import listening, serve_asgi, serve_wsgi
from tests.django.urls import CALLS
from tollway.testing import ManualClock


@pytest.fixture(params=["wsgi", "asgi"])
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A browser in front of a real server in front of Django."""
    serving = (
        serve_wsgi(get_wsgi_application())
        if request.param == "wsgi"
        else serve_asgi(get_asgi_application())
    )
    with serving as address, httpx.Client(base_url=f"http://{address}") as client:
        CALLS.clear()
        yield client


@pytest.mark.parametrize("path", ["/ping/", "/aping/"])
def test_five_of_seven_pass_and_after_the_wait_one_more(
    client: httpx.Client, clock: ManualClock, path: str
) -> None:
    answers = [client.get(path) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    assert len(CALLS) == 5
    name = f"tests.django.urls.{path.strip('/')}/ip/5/10s"
    assert answers[0].headers["ratelimit"] == f'"{name}";r=4;t=2'
    assert answers[0].headers["ratelimit-policy"] == f'"{name}";q=5;w=10'
    refused = answers[-1]
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["retry-after"] == "2"
    assert refused.json()["retry_after_ms"] == 2000
    clock.advance(2)
    assert [client.get(path).status_code for _ in range(2)] == [200, 429]


def forwarded(n: int) -> dict[str, str]:
    return {"X-Forwarded-For": f"203.0.113.{n}", "Forwarded": f"for=203.0.113.{n}"}


def test_forwarded_headers_of_an_untrusted_peer_change_nothing(client: httpx.Client) -> None:
    answers = [client.get("/ping/", headers=forwarded(n)) for n in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    assert answers[0].text == "127.0.0.1"


def test_a_trusted_proxy_is_believed(client: httpx.Client) -> None:
    with override_settings(RATELIMIT_TRUSTED_PROXIES=["127.0.0.0/8"]):
        answers = [client.get("/ping/", headers=forwarded(n)) for n in range(7)]
        assert [answer.text for answer in answers] == [f"203.0.113.{n}" for n in range(7)]
        again = [client.get("/ping/", headers=forwarded(1)) for _ in range(5)]
    assert [answer.status_code for answer in again] == [200] * 4 + [429]


def test_stacked_limits_charge_nothing_when_one_refuses(
    client: httpx.Client, clock: ManualClock
) -> None:
    answers = [client.get("/stacked/") for _ in range(12)]
    assert [answer.status_code for answer in answers] == [200] * 2 + [429] * 10
    assert len(answers[0].headers.get_list("ratelimit")) == 1
    clock.advance(10)
    # Had refusals been charged, the daily limit would be what is left of 100 after 12.
    assert client.get("/stacked/").status_code == 200


def test_streams_and_class_views(client: httpx.Client) -> None:
    with client.stream("GET", "/stream/") as answer:
        assert answer.headers["x-ratelimit-remaining"] == "49"
        assert answer.read() == b"ab"
    assert [client.get("/aclass/").status_code for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("path", ["/broken/", "/abroken/"])
def test_a_view_that_raises_runs_once(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 500
    assert [path.strip("/")] == CALLS


def test_the_middleware_over_real_servers(clock: ManualClock) -> None:
    with override_settings(
        MIDDLEWARE=["tollway.django.middleware.RateLimitMiddleware"], RATELIMIT_DEFAULT_LIMIT="4/h"
    ):
        for serving in (serve_wsgi(get_wsgi_application()), serve_asgi(get_asgi_application())):
            with serving as address, httpx.Client(base_url=f"http://{address}") as client:
                seen = [client.get("/missing/") for _ in range(2)]
                assert [answer.status_code for answer in seen] == [404, 404]
                for answer in seen:
                    assert len(answer.headers.get_list("x-ratelimit-limit")) == 1
        # Both servers count in one place.
        with serve_wsgi(get_wsgi_application()) as address:
            assert httpx.get(f"http://{address}/").status_code == 429


SETTINGS = """
SECRET_KEY = "for a test"
ALLOWED_HOSTS = ["*"]
DEBUG = False
ROOT_URLCONF = "site_urls"
INSTALLED_APPS = ["tollway.django"]
MIDDLEWARE = []
USE_TZ = True
"""

URLS = """
from django.http import HttpResponse
from django.urls import path
from tollway.django import rate_limit

@rate_limit(key="ip", rate="5/10s")
def ping(request):
    return HttpResponse("pong")

@rate_limit(key="ip", rate="5/10s")
async def aping(request):
    return HttpResponse("pong")

urlpatterns = [path("ping/", ping), path("aping/", aping)]
"""

SERVE = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "site_settings"
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
wsgi, asgi = get_wsgi_application(), get_asgi_application()
"""

MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "site_settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A Django project as ``startproject`` would leave it, in short."""
    (tmp_path / "site_settings.py").write_text(SETTINGS)
    (tmp_path / "site_urls.py").write_text(URLS)
    (tmp_path / "serve.py").write_text(SERVE)
    (tmp_path / "manage.py").write_text(MANAGE)
    return tmp_path


def configure(project: Path, **settings: Any) -> None:
    with (project / "site_settings.py").open("a") as file:
        file.writelines(f"{name} = {value!r}\n" for name, value in settings.items())


@contextmanager
def served(project: Path, program: str) -> Iterator[httpx.Client]:
    """The project under gunicorn or uvicorn, in processes of their own."""
    with listening() as listener, (project / "log").open("w") as log:
        listener.set_inheritable(True)
        number = listener.fileno()
        command = {
            "gunicorn": ["-m", "gunicorn", "serve:wsgi", "-b", f"fd://{number}", "-w", "2"],
            "uvicorn": ["-m", "uvicorn", "serve:asgi", "--fd", str(number), "--no-proxy-headers"],
        }[program]
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=project,
            pass_fds=(number,),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(["", *filter(None, sys.path)])},
            stdout=log,
            stderr=log,
        )
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=address, timeout=30) as client:
                yield client
        finally:
            process.terminate()
            try:
                process.wait(15)
            finally:
                process.kill()


@pytest.mark.parametrize(
    ("program", "path"), [("gunicorn", "/ping/"), ("uvicorn", "/ping/"), ("uvicorn", "/aping/")]
)
def test_a_project_behind_a_real_server_and_redis(
    project: Path, redis_url: str, program: str, path: str
) -> None:
    configure(project, RATELIMIT_BACKEND=redis_url, RATELIMIT_KEY_PREFIX=f"test{project.name}")
    with served(project, program) as client:
        client.get("/warm-up/")
        answers = [client.get(path, headers=forwarded(n)) for n in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        assert answers[-1].headers["content-type"] == "application/problem+json"
        wait = int(answers[-1].headers["retry-after"])
        assert wait in (1, 2)
        time.sleep(wait)  # real time: this is what a client would do
        assert client.get(path).status_code == 200


def manage(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_manage_check_names_what_is_wrong(project: Path) -> None:
    configure(project, RATELIMIT_DEFAULT_LIMIT="5/q", RATELIMIT_BACKND="redis://127.0.0.1")
    done = manage(project, "check")
    assert done.returncode == 1
    assert "RATELIMIT_DEFAULT_LIMIT" in done.stderr
    assert "5/q" in done.stderr
    assert "Did you mean RATELIMIT_BACKEND?" in done.stderr
    assert "Traceback" not in done.stderr


def test_manage_check_is_quiet_about_a_good_project(project: Path, redis_url: str) -> None:
    configure(project, RATELIMIT_BACKEND=redis_url, RATELIMIT_DEFAULT_LIMIT="5/s")
    done = manage(project, "check")
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


def test_problems_are_json(client: httpx.Client) -> None:
    for _ in range(5):
        client.get("/ping/")
    problem = json.loads(client.get("/ping/").content)
    assert {"type", "title", "status", "detail", "retry_after_ms"} <= set(problem)
