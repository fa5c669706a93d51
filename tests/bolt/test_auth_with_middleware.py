"""Callers that Bolt verified, beside users of Django's middleware, on one server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.bolt.project import Project
from tests.bolt.test_auth import bearer

SETTINGS = """
SECRET_KEY = "a key of the tests that is long enough for every hash there is, really"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
INSTALLED_APPS = [
    "django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions",
    "tollway.bolt", "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
"""

API = """
from django.contrib import auth
from django.middleware.csrf import get_token

from tollway.bolt import BoltAPI, CurrentUser, OptionalCurrentUser, Request
from tollway.bolt.auth import (
    APIKeyAuthentication, IsAuthenticated, JWTAuthentication, SessionAuthentication,
)

api = BoltAPI(django_middleware=True)
TOKEN = JWTAuthentication()
COOKIE = JWTAuthentication(cookie="token")
KEY = APIKeyAuthentication(["a key of the tests, long enough"])


@api.get("/token")
def token(request: Request):
    return {"token": get_token(request)}


@api.post("/login")
def login(request: Request, body: dict[str, str]):
    user = auth.authenticate(request, **body)
    auth.login(request, user)
    return {"user": request.user.username}


@api.post("/alogin", auth=[TOKEN])
async def alogin(request: Request, body: dict[str, str]):
    user = await auth.aauthenticate(request, **body)
    await auth.alogin(request, user)
    return {"user": request.user.username, "again": (await request.auser()).username}


@api.post("/logout")
def logout(request: Request):
    auth.logout(request)
    return {"user": request.user.username}


def told(request):
    return {
        "user": request.user.username,
        "django": request._django.user.username,
        "session": request.session.get("_auth_user_id") is not None,
    }


@api.get("/open", auth=[TOKEN])
def opened(request: Request):
    return told(request)


@api.get("/aopen", auth=[TOKEN])
async def aopened(request: Request):
    user = await request.auser()
    return {"user": user.username}


@api.get("/current")
async def current(user: CurrentUser):
    return {"user": user.username}


@api.get("/maybe")
def maybe(user: OptionalCurrentUser):
    return {"user": user and user.username}


@api.get("/session", auth=[SessionAuthentication()], guards=[IsAuthenticated()])
async def by_session(request: Request):
    return {"user": (await request.auser()).username, "by": request.context["auth_backend"]}


@api.post("/change", auth=[TOKEN, KEY, COOKIE], guards=[IsAuthenticated()])
def change(request: Request):
    return {"user": request.user.username, "by": request.context["auth_backend"]}


@api.post("/anybody", auth=[TOKEN])
def anybody(request: Request):
    return {"user": request.user.username}
"""

SEED = """
import json
from django.contrib.auth import get_user_model
from tollway.bolt.auth import create_jwt_for_user
made = {}
for name in ("ada", "bob"):
    user = get_user_model().objects.create_user(name, password=f"pass of {name}")
    made[name] = create_jwt_for_user(user)
print(json.dumps(made))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The URL of a server, and tokens by name."""
    project = Project(tmp_path_factory.mktemp("joined"))
    project.settings(SETTINGS)
    project.write("shop/api.py", API)
    project.run("migrate", "-v0")
    seeded = project.run("shell", "-v0", "-c", SEED)
    with project.serve() as served:
        yield served.url, json.loads(seeded.splitlines()[-1])


@pytest.fixture
def client(site: tuple[str, dict[str, str]]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site[0], timeout=20) as found:
        yield found


def log_in(client: httpx.Client, name: str, path: str = "/login", **headers: str) -> Any:
    token = client.get("/token").json()["token"]
    body = {"username": name, "password": f"pass of {name}"}
    answer = client.post(path, json=body, headers={"x-csrftoken": token} | headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_login_of_djangos_is_the_user_of_bolts_handlers(client: httpx.Client) -> None:
    assert client.get("/open").json() == {"user": "", "django": "", "session": False}
    assert client.get("/current").status_code == 401
    assert client.get("/maybe").json() == {"user": None}
    assert log_in(client, "ada") == {"user": "ada"}
    assert client.get("/open").json() == {"user": "ada", "django": "ada", "session": True}
    assert client.get("/aopen").json() == {"user": "ada"}
    assert client.get("/current").json() == {"user": "ada"}
    assert client.get("/maybe").json() == {"user": "ada"}
    assert client.get("/session").json() == {"user": "ada", "by": "session"}
    token = client.get("/token").json()["token"]
    assert client.post("/logout", headers={"x-csrftoken": token}).json() == {"user": ""}
    assert client.get("/open").json() == {"user": "", "django": "", "session": False}
    assert client.get("/session").status_code == 401


def test_who_was_verified_is_the_user_whatever_session_there_is(
    client: httpx.Client, site: tuple[str, dict[str, str]]
) -> None:
    bob = bearer(site[1]["bob"])
    told = client.get("/open", headers=bob).json()
    assert told == {"user": "bob", "django": "bob", "session": False}
    log_in(client, "ada")
    told = client.get("/open", headers=bob).json()
    assert told == {"user": "bob", "django": "bob", "session": True}
    assert client.get("/aopen", headers=bob).json() == {"user": "bob"}
    # A token that is not believed is no reason to believe nobody: the session is still there.
    assert client.get("/open", headers=bearer("forged")).json()["user"] == "ada"
    # A login in a handler that a token opened.
    both = log_in(client, "ada", "/alogin", **bob)
    assert both == {"user": "ada", "again": "ada"}


def test_a_token_or_a_key_in_a_header_needs_no_csrf_token(
    client: httpx.Client, site: tuple[str, dict[str, str]]
) -> None:
    ada = site[1]["ada"]
    by_token = client.post("/change", headers=bearer(ada))
    assert by_token.json() == {"user": "ada", "by": "jwt"}
    key = {"x-api-key": "a key of the tests, long enough"}
    assert client.post("/change", headers=key).json() == {"user": "", "by": "api_key"}
    # A cookie is sent along by browsers, so Django's check holds.
    cookie = {"cookie": f"token={ada}"}
    refused = client.post("/change", headers=cookie)
    assert (refused.status_code, "CSRF" in refused.text) == (403, True)
    # A forged token opens no way round it either.
    log_in(client, "ada")
    for headers in ({}, bearer("forged"), {"x-api-key": "made up, and long enough"}):
        refused = client.post("/anybody", headers=headers)
        assert (refused.status_code, "CSRF" in refused.text) == (403, True)
