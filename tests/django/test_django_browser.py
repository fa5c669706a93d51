"""A rule edited in the admin, in a real browser, binds every worker of a real server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from tests.browser import browser
from tests.servers import free_port
from tollway import hash_identity

WORKERS = 4

SETTINGS = """
SECRET_KEY = "for tests"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "shop_urls"
STATIC_URL = "static/"
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {database!r},
    "OPTIONS": {{"timeout": 30}}}}}}
INSTALLED_APPS = [
    "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes",
    "django.contrib.messages", "django.contrib.sessions", "tollway.django",
]
MIDDLEWARE = [
    "shop_urls.tell_process",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [{{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True,
    "OPTIONS": {{"context_processors": [
        "django.template.context_processors.request",
        "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages",
    ]}}}}]
RATELIMIT_BACKEND = {redis!r}
RATELIMIT_COMMAND_TIMEOUT = 5
RATELIMIT_KEY_PREFIX = {prefix!r}
RATELIMIT_RULES = "database"
RATELIMIT_API_KEYS = True
"""

URLS = """
import os
from django.contrib import admin
from django.http import HttpResponse
from django.urls import path
from tollway.django import rate_limit
from tollway.django.keys import require_api_key

def tell_process(get_response):
    def tell(request):
        response = get_response(request)
        response["X-Process"] = str(os.getpid())
        return response
    return tell

@rate_limit("ip", "100000/h", group="search")
def search(request):
    return HttpResponse("ok")

@require_api_key
def orders(request):
    return HttpResponse(request.api_key.name)

urlpatterns = [
    path("admin/", admin.site.urls), path("search/", search), path("orders/", orders),
]
"""

MAKE = """
import django
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
call_command("migrate", verbosity=0)
User.objects.create_superuser("boss", password="secret")
"""


@pytest.fixture
def site(tmp_path: Path, redis_url: str) -> Iterator[str]:
    """The address of a site with several worker processes."""
    database = str(tmp_path / "db.sqlite3")
    prefix = f"browser-{uuid4().hex[:8]}"
    settings = SETTINGS.format(database=database, redis=redis_url, prefix=prefix)
    (tmp_path / "shop_settings.py").write_text(settings)
    (tmp_path / "shop_urls.py").write_text(URLS)
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "shop_settings",
        "PYTHONPATH": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", MAKE], cwd=tmp_path, env=environment, check=True)
    port = free_port()
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--workers", str(WORKERS)),
                *("--bind", f"127.0.0.1:{port}", "django.core.wsgi:get_wsgi_application()"),
            ],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    told = (tmp_path / "log").read_text()
                    assert process.poll() is None and time.monotonic() < deadline, told
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def ask(url: str, **headers: str) -> tuple[int, str]:
    """The status and the process that answered."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers["X-Process"]
    except urllib.error.HTTPError as error:
        return error.code, error.headers["X-Process"]


def of_all_workers(call: Callable[[], tuple[int, str]], status: int) -> dict[int, int]:
    """How often each status was answered, until every worker has answered ``status``."""
    counts: dict[int, int] = {}
    processes: set[str] = set()
    with ThreadPoolExecutor(2 * WORKERS) as pool:
        for _ in range(40):
            for found, process in pool.map(lambda _: call(), range(4 * WORKERS)):
                counts[found] = counts.get(found, 0) + 1
                if found == status:
                    processes.add(process)
            if len(processes) == WORKERS:
                return counts
    raise AssertionError(f"{status} was answered by {len(processes)} workers; {counts}")


def test_a_rule_edited_in_the_admin_holds_in_every_worker(site: str) -> None:
    assert set(of_all_workers(lambda: ask(f"{site}/search/"), 200)) == {200}
    with browser() as page:
        page.open(f"{site}/admin/")
        page.fill("username", "boss")
        page.fill("password", "secret")
        page.click("input[type=submit]")
        page.until("document.title.startsWith('Site administration')")

        page.open(f"{site}/admin/tollway/limitrule/add/")
        page.fill("name", "search")
        page.fill("rate", "1/q")
        page.click("input[name=_save]")
        said = page.until("document.querySelector('.field-rate .errorlist')?.innerText")
        assert "does not read at position 2" in said
        page.fill("rate", "1/h")
        page.click("input[name=_save]")
        page.until("!!document.querySelector('.messagelist .success')")
        # What the promise is about: the second that follows a change.
        time.sleep(1)
        # One permit of 1/h is left: the others had come back by then.
        assert of_all_workers(lambda: ask(f"{site}/search/"), 429).get(200, 0) <= 1

        page.click("#result_list .field-name a")
        page.until("!!document.querySelector('[name=rate]')")
        page.fill("rate", "100000/s")  # what was spent is back at once
        page.click("input[name=_save]")
        page.until("!!document.querySelector('.messagelist .success')")
        time.sleep(1)
        assert set(of_all_workers(lambda: ask(f"{site}/search/"), 200)) == {200}

        page.open(f"{site}/admin/tollway/apikey/add/")
        page.fill("name", "Acme")
        page.click("input[name=_save]")
        clear = page.until("document.querySelector('code.tollway-key')?.innerText")
        time.sleep(1)
        orders = f"{site}/orders/"
        assert set(of_all_workers(lambda: ask(orders, **{"X-API-Key": clear}), 200)) == {200}
        assert set(of_all_workers(lambda: ask(orders, **{"X-API-Key": clear + "x"}), 401)) == {401}
        page.open(f"{site}/admin/tollway/apikey/")
        assert clear not in page.text() and clear[:11] in page.text()
        assert hash_identity(clear) not in page.text()
