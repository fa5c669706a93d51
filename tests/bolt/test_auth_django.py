"""Users, sessions, stores and the ready-made views, in a real project under `runbolt`."""

from __future__ import annotations

import http.cookies
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.bolt.project import Project, Served
from tests.waiting import wait
from tollway.bolt.auth import Token, create_jwt_for_user

SETTINGS = """
SECRET_KEY = "a key of the tests that is long enough for every hash there is, really"
INSTALLED_APPS = [
    "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
    "tollway.django", "tollway.bolt", "shop",
]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": Path(__file__).parent.parent / "cache",
    },
    "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "dummy": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
}
"""

API = """
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.db import SessionStore
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tollway.bolt import BoltAPI, CurrentUser, OptionalCurrentUser, Request, create_jwt_for_user
from tollway.bolt.auth import (
    APIKeyAuthentication, DjangoCacheRevocation, DjangoORMRevocation, HasPermission,
    IsAuthenticated, IsStaff, JWTAuthViews, JWTAuthentication, RevocationStore,
    SessionAuthentication,
)

api = BoltAPI()
token = JWTAuthentication()
session = SessionAuthentication()


@api.get("/async", auth=[token])
async def by_async(request: Request):
    return {"name": request.user.get_username(), "again": (await request.auser()).get_username()}


@api.get("/sync", auth=[token])
def by_sync(request: Request):
    return {"name": request.user.get_username()}


@api.get("/queries/{times}", auth=[token])
def queries(request: Request, times: int):
    with CaptureQueriesContext(connection) as seen:
        for _ in range(times):
            request.user.get_username()
    return len(seen)


@api.get("/current", auth=[token])
async def current(user: CurrentUser):
    return {"name": user.get_username()}


@api.get("/maybe", auth=[token])
def maybe(user: OptionalCurrentUser):
    return {"name": user and user.get_username()}


@api.get("/session", auth=[token, session], guards=[IsAuthenticated()])
async def by_session(request: Request):
    return request.context | {"name": request.user.get_username()}


@api.post("/session", auth=[session], guards=[IsAuthenticated()])
def change(request: Request):
    return {"name": request.user.get_username()}


@api.get("/staff", auth=[session], guards=[IsStaff()])
async def staff():
    return {}


@api.get("/sellers", auth=[session], guards=[HasPermission("shop.add_item")])
async def sellers():
    return {}


@api.get("/issued", auth=[APIKeyAuthentication(issued=True)], guards=[HasPermission("read")])
async def issued(request: Request):
    return request.context


class Broken(RevocationStore):
    async def contains(self, keys):
        raise OSError("gone")


for name, store in (
    ("orm", DjangoORMRevocation()), ("cache", DjangoCacheRevocation()), ("broken", Broken()),
):
    by = JWTAuthentication(revocation_store=store)
    api.include_router(JWTAuthViews(f"/{name}", store=store))

    @api.get(f"/{name}/me", auth=[by], guards=[IsAuthenticated()])
    async def me(request: Request):
        return request.auth
"""

SEED = """
import json
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.models import Permission
from django.contrib.sessions.backends.db import SessionStore
from tollway.bolt.auth import create_jwt_for_user
from tollway.django.models import APIKey
User = get_user_model()
made = {}
for name in ("ada", "bob", "gone"):
    user = User.objects.create_user(name, password="pass of " + name, is_staff=name == "ada")
    store = SessionStore()
    store[SESSION_KEY] = str(user.pk)
    store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    store[HASH_SESSION_KEY] = user.get_session_auth_hash()
    store.save()
    made[name] = {"session": store.session_key, "token": create_jwt_for_user(user)}
ada = User.objects.get(username="ada")
ada.user_permissions.add(Permission.objects.get(codename="add_item"))
User.objects.filter(username="gone").update(is_active=False)
made["key"] = APIKey.issue("k", owner="acme", scopes="read")[1]
print(json.dumps(made))
"""


@dataclass
class Site:
    served: Served
    people: dict[str, Any]
    project: Project

    def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> Any:
        """Status and body of an answer."""
        data = None if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.served.url + path, data, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, text, self.headers = answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            status, text, self.headers = error.code, error.read(), error.headers
        return status, json.loads(text) if text else None

    def bearer(self, name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.people[name]['token']}"}

    def cookie(self, name: str) -> dict[str, str]:
        morsel = http.cookies.SimpleCookie({"sessionid": self.people[name]["session"]})
        return {"cookie": morsel.output(header="").strip()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    project = Project(tmp_path_factory.mktemp("site"))
    project.settings(SETTINGS)
    project.write("shop/api.py", API)
    project.run("migrate", "-v0")
    seeded = project.run("shell", "-v0", "-c", SEED)
    people = json.loads(seeded.splitlines()[-1])
    with project.serve("--processes", "2") as served:
        yield Site(served, people, project)


def test_the_user_behind_a_token(site: Site) -> None:
    ada = site.bearer("ada")
    assert site.ask("/async", **ada) == (200, {"name": "ada", "again": "ada"})
    assert site.ask("/sync", **ada) == (200, {"name": "ada"})
    assert site.ask("/current", **ada) == (200, {"name": "ada"})
    assert site.ask("/maybe", **ada) == (200, {"name": "ada"})


def test_a_user_costs_one_query_when_somebody_looks(site: Site) -> None:
    for times, cost in ((0, 0), (1, 1), (5, 1)):
        assert site.ask(f"/queries/{times}", **site.bearer("ada")) == (200, cost)
    assert site.ask("/queries/5") == (200, 0)


def test_nobody_is_anonymous(site: Site) -> None:
    assert site.ask("/async") == (200, {"name": "", "again": ""})
    assert site.ask("/sync") == (200, {"name": ""})
    assert site.ask("/maybe") == (200, {"name": None})
    assert site.ask("/current")[0] == 401
    assert site.headers["www-authenticate"] == "Bearer"


def test_who_may_not_log_in_any_more_is_nobody(site: Site) -> None:
    assert site.ask("/sync", **site.bearer("gone")) == (200, {"name": ""})
    assert site.ask("/current", **site.bearer("gone"))[0] == 401
    assert site.ask("/session", **site.cookie("gone"))[0] == 401


def test_a_session_of_djangos(site: Site) -> None:
    status, told = site.ask("/session", **site.cookie("ada"))
    assert (status, told["name"], told["auth_backend"], told["is_staff"]) == (
        *(200, "ada", "session"),
        True,
    )
    assert site.ask("/session", **site.bearer("bob"))[1]["auth_backend"] == "jwt"
    for cookie in ("sessionid=", "sessionid=made-up", "sessionid=a; sessionid=b"):
        assert site.ask("/session", cookie=cookie)[0] == 401
    assert site.ask("/session")[0] == 401


def test_guards_judge_the_user_of_a_session(site: Site) -> None:
    ada, bob = site.cookie("ada"), site.cookie("bob")
    assert [site.ask("/staff", **who)[0] for who in (ada, bob, {})] == [200, 403, 401]
    assert [site.ask("/sellers", **who)[0] for who in (ada, bob)] == [200, 403]


def test_another_site_changes_nothing_by_a_session(site: Site) -> None:
    ada = site.cookie("ada")
    assert site.ask("/session", "POST", {}, **ada)[0] == 200
    assert site.ask("/session", "POST", {}, origin="https://evil.example", **ada)[0] == 403


@pytest.mark.parametrize("store", ["orm", "cache"])
def test_login_refresh_and_logout(site: Site, store: str) -> None:
    wrong = {"username": "bob", "password": "guess"}
    assert site.ask(f"/{store}/login", "POST", wrong)[0] == 401
    right = {"username": "bob", "password": "pass of bob"}
    status, first = site.ask(f"/{store}/login", "POST", right)
    assert (status, first["token_type"], first["expires_in"]) == (200, "bearer", 900)

    def shows(token: str) -> dict[str, str]:
        return {"authorization": f"Bearer {token}"}

    me = f"/{store}/me"
    assert site.ask(me, **shows(first["access_token"]))[0] == 200
    assert site.ask(me, **shows(first["refresh_token"]))[0] == 401
    refresh = f"/{store}/refresh"
    assert site.ask(refresh, "POST", **shows(first["access_token"]))[0] == 401
    status, second = site.ask(refresh, "POST", **shows(first["refresh_token"]))
    assert status == 200
    assert site.ask(me, **shows(second["access_token"]))[0] == 200
    # Whoever shows the old one again ends the login, for both.
    assert site.ask(refresh, "POST", **shows(first["refresh_token"]))[0] == 401
    assert site.ask(refresh, "POST", **shows(second["refresh_token"]))[0] == 401
    assert site.ask(me, **shows(second["access_token"]))[0] == 401

    third = site.ask(f"/{store}/login", "POST", right)[1]
    assert site.ask(f"/{store}/logout", "POST", **shows(third["access_token"]))[0] == 204
    assert site.ask(me, **shows(third["access_token"]))[0] == 401
    assert site.ask(refresh, "POST", **shows(third["refresh_token"]))[0] == 401


def test_a_store_that_is_away_lets_nobody_pass(site: Site) -> None:
    assert site.ask("/broken/me", **site.bearer("ada"))[0] == 503


def test_keys_that_the_project_issued(site: Site) -> None:
    status, told = site.ask("/issued", x_api_key=site.people["key"])
    assert (status, told["owner"], told["permissions"]) == (200, "acme", ["read"])
    assert site.ask("/issued", x_api_key=site.people["key"] + "x")[0] == 401


def test_a_key_of_the_command_is_good_until_it_is_revoked(site: Site) -> None:
    """Issued, rotated and revoked by the command while both processes serve."""

    def command(*arguments: str) -> Any:
        return json.loads(site.project.run("ratelimit_keys", *arguments, "--json"))

    def becomes(key: str, status: int) -> None:
        """Wait until every process answers so."""

        def all_do() -> bool:
            return all(site.ask("/issued", x_api_key=key)[0] == status for _ in range(12))

        wait(f"the key gets {status}", all_do, 10)

    key = command("issue", "Acme", "--owner", "acme", "--scopes", "read", "--expires", "365d")[
        "key"
    ]
    becomes(key, 200)
    assert site.ask("/issued", x_api_key=key)[1]["owner"] == "acme"
    bare = command("issue", "Without scopes")["key"]
    becomes(bare, 403)
    turned = command("rotate", key[:11], "--grace", "1d")["key"]
    becomes(turned, 200)
    becomes(key, 200)
    again = command("rotate", turned[:11])["key"]
    becomes(again, 200)
    becomes(turned, 401)
    command("revoke", key[:11])
    becomes(key, 401)
    assert site.ask("/issued", x_api_key=again)[0] == 200


TURNED = """
from tollway.bolt import BoltAPI, create_jwt_for_user
from tollway.bolt.auth import IsAuthenticated, JWTAuthentication

api = BoltAPI()


@api.get("/new")
async def new():
    return create_jwt_for_user(7)


@api.get("/", auth=[JWTAuthentication()], guards=[IsAuthenticated()])
async def index():
    return {}
"""


def test_a_secret_that_was_changed_is_good_for_as_long_as_it_is_named(project: Project) -> None:
    secrets = [f"secret {number}, which is as long as it takes" for number in range(3)]
    project.settings(f"SECRET_KEY, SECRET_KEY_FALLBACKS = {secrets[0]!r}, [{secrets[1]!r}]")
    project.write("shop/api.py", TURNED)
    with project.serve() as served, httpx.Client(base_url=served.url) as client:
        shown = [create_jwt_for_user(7, secret) for secret in secrets] + [client.get("/new").text]
        told = [client.get("/", headers={"Authorization": f"Bearer {one}"}) for one in shown]
    assert [answer.status_code for answer in told] == [200, 200, 401, 200]
    assert Token.decode(shown[-1], secrets[0]).sub == "7", "the new one signs"


LOCAL = """
from tollway.bolt import BoltAPI
from tollway.bolt.auth import DjangoCacheRevocation, InMemoryRevocation, JWTAuthentication

api = BoltAPI()


@api.get("/", auth=[JWTAuthentication(revocation_store={store})])
async def index():
    return {{}}
"""


@pytest.mark.parametrize("store", ["InMemoryRevocation()", 'DjangoCacheRevocation("local")'])
def test_a_store_that_one_process_knows_is_told(project: Project, store: str) -> None:
    project.settings(SETTINGS)
    project.write("shop/api.py", LOCAL.format(store=store))
    with project.serve("--processes", "2") as served:
        told = "\n".join(served.lines)
    assert f"{store.partition('(')[0]} keeps revoked tokens in the memory of one process" in told
    with project.serve() as served:
        assert "keeps revoked tokens" not in "\n".join(served.lines)


REVOKE = """
import asyncio
import time
from tollway.bolt.auth import DjangoORMRevocation


async def main():
    store = DjangoORMRevocation()
    await store.revoke("old", exp=time.time() - 1_000)
    await store.revoke("new", exp=time.time() + 1_000)
    known = [await store.is_revoked(jti) for jti in ("old", "new", "other")]
    print(known, await store.cleanup(), await store.is_revoked("new"))


asyncio.run(main())
"""


@pytest.mark.parametrize("zones", ["USE_TZ = True", "USE_TZ = False; TIME_ZONE = 'Asia/Tokyo'"])
def test_revocations_in_a_database_with_or_without_zones(project: Project, zones: str) -> None:
    project.settings(f"{SETTINGS}\n{zones}")
    project.run("migrate", "-v0")
    told = project.run("shell", "-v0", "-c", REVOKE)
    assert told.splitlines()[-1] == "[True, True, False] 1 True"


def test_a_store_that_remembers_nothing_stops_the_start(project: Project) -> None:
    project.settings(SETTINGS)
    project.write("shop/api.py", LOCAL.format(store='DjangoCacheRevocation("dummy")'))
    told = project.manage("runbolt", "--check")
    assert told.returncode != 0
    assert "remembers nothing: no token could be revoked" in told.stderr
