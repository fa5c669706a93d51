"""Logins that lock: failed tries on one account from many addresses, over all processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from django.db import OperationalError

from tests.bolt.project import Project
from tollway import ConfigError, Limiter
from tollway.bolt import BoltAPI, Depends, Unauthorized
from tollway.bolt.auth import (
    InMemoryRevocation,
    JWTAuthViews,
    LoginCredentials,
    LoginLockout,
    LoginTries,
)
from tollway.bolt.testing import TestClient
from tollway.testing import ManualClock

SETTINGS = """
SECRET_KEY = "a key of the tests that is long enough for every hash there is, really"
INSTALLED_APPS = [
    "django.contrib.auth", "django.contrib.contenttypes", "tollway.bolt", "shop",
]
PASSWORD_HASHERS = ["shop.hashing.Noted"]
BOLT_TRUSTED_PROXIES = ["127.0.0.1/32"]
"""

HASHING = """
from pathlib import Path

from django.contrib.auth.hashers import MD5PasswordHasher

NOTES = Path(__file__).parent.parent / "hashed"


class Noted(MD5PasswordHasher):
    algorithm = "noted"

    def encode(self, password, salt):
        with NOTES.open("a") as notes:
            notes.write("x")
        return super().encode(password, salt)
"""

API = """
import os

from tollway.bolt import BoltAPI
from tollway.bolt.auth import DjangoORMRevocation, JWTAuthViews

api = BoltAPI()
store = DjangoORMRevocation()
api.include_router(JWTAuthViews("/usual", store=store))
api.include_router(
    JWTAuthViews("/strict", store=store, login_rate=None, lockout={"username": "6/h"})
)
api.include_router(
    JWTAuthViews("/address", store=store, login_rate=None, lockout={"ip": "4/h"})
)


@api.get("/pid")
async def pid():
    return os.getpid()
"""

SEED = """
from django.contrib.auth import get_user_model
for name in ("ada", "bob", "cleo", "dan", "eve"):
    get_user_model().objects.create_user(name, password="pass of " + name)
"""


@dataclass
class Site:
    client: httpx.Client
    notes: Path

    def login(self, path: str, username: str, password: str, ip: str) -> httpx.Response:
        """One try."""
        body = {"username": username, "password": password}
        return self.client.post(f"{path}/login", json=body, headers={"X-Forwarded-For": ip})

    def guess(self, path: str, username: str, count: int, net: int) -> list[httpx.Response]:
        """Wrong passwords, each from an address of its own."""
        addresses = [f"203.0.{net}.{host}" for host in range(1, count + 1)]
        return [self.login(path, username, "guess", ip) for ip in addresses]

    def hashed(self) -> int:
        """How many passwords were hashed so far."""
        return self.notes.stat().st_size


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    project = Project(tmp_path_factory.mktemp("site"))
    project.settings(SETTINGS)
    project.write("shop/hashing.py", HASHING)
    project.write("shop/api.py", API)
    project.run("migrate", "-v0")
    project.run("shell", "-v0", "-c", SEED)
    # A connection for each request, so that both processes get some.
    alone = httpx.Limits(max_keepalive_connections=0)
    with (
        project.serve("--processes", "2") as served,
        httpx.Client(base_url=served.url, limits=alone, timeout=20) as client,
    ):
        assert len({client.get("/pid").json() for _ in range(40)}) == 2, "both answer"
        yield Site(client, project.folder / "hashed")


def codes(answers: list[httpx.Response]) -> list[int]:
    return [answer.status_code for answer in answers]


def test_an_account_is_locked_whoever_guesses(site: Site) -> None:
    assert codes(site.guess("/strict", "ada", 20, 1)) == [401] * 6 + [429] * 14
    before = site.hashed()
    refused = site.login("/strict", "ada", "pass of ada", "198.51.100.7")
    assert refused.status_code == 429, "also the right password"
    assert 0 < int(refused.headers["retry-after"]) <= 3600
    assert refused.headers["content-type"] == "application/problem+json"
    assert site.hashed() == before, "a refusal hashes no password"
    assert site.login("/strict", "bob", "pass of bob", "198.51.100.7").status_code == 200


def test_no_spelling_of_a_name_has_tries_of_its_own(site: Site) -> None:
    names = ["dan", "DAN", "Dan ", "\uff44an", "d\u00e1n", "da\u200bn"]
    assert [site.login("/strict", name, "guess", "203.0.2.1").status_code for name in names] == [
        401
    ] * 6
    assert site.login("/strict", "dan", "pass of dan", "203.0.2.9").status_code == 429


def test_nobody_learns_whether_an_account_is_there(site: Site) -> None:
    known, unknown = (site.guess("/strict", name, 8, 3) for name in ("cleo", "nobody"))
    assert codes(known) == codes(unknown) == [401] * 6 + [429] * 2
    for one, other in zip(known, unknown, strict=True):
        assert one.content == other.content
        assert set(one.headers) == set(other.headers)


def test_an_unknown_name_costs_a_hash_as_a_known_one_does(site: Site) -> None:
    costs = []
    for name in ("eve", "no one"):
        before = site.hashed()
        assert site.login("/strict", name, "guess", "203.0.4.1").status_code == 401
        costs.append(site.hashed() - before)
    assert costs == [1, 1]


def test_a_success_forgets_the_failures_of_the_account(site: Site) -> None:
    for _ in range(3):
        assert codes(site.guess("/strict", "bob", 5, 5)) == [401] * 5
        assert site.login("/strict", "bob", "pass of bob", "203.0.5.99").status_code == 200


def test_an_address_is_locked_whatever_it_guesses(site: Site) -> None:
    def tried(name: str, password: str, ip: str = "203.0.6.1") -> int:
        return site.login("/address", name, password, ip).status_code

    assert [tried(f"name{n}", "guess") for n in range(3)] == [401] * 3
    assert tried("bob", "pass of bob") == 200, "which clears nothing of the address"
    assert [tried(f"name{n}", "guess") for n in range(2)] == [401, 429]
    assert tried("bob", "pass of bob") == 429
    assert tried("bob", "pass of bob", "203.0.6.2") == 200
    # The addresses of one IPv6 network are one guesser's.
    net = "2001:db8:0:1::"
    assert [tried("x", "guess", f"{net}{host}") for host in range(1, 6)] == [401] * 4 + [429]


def test_a_name_that_no_database_stores_is_not_looked_for(site: Site) -> None:
    """PostgreSQL takes no zero byte, and whoever sent one would be told of a broken server."""
    answer = site.login("/usual", "a\0b", "guess", "203.0.10.1")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", "username"]


def test_as_many_at_once_are_bounded(site: Site) -> None:
    def guess(host: int) -> int:
        return site.login("/strict", "hurried", "guess", f"203.0.7.{host}").status_code

    with ThreadPoolExecutor(12) as threads:
        found = Counter(threads.map(guess, range(1, 41)))
    assert found == {401: 6, 429: 34}


def test_what_holds_when_nothing_is_said(site: Site) -> None:
    """Five failures of one address at one account: nobody else is in the way of its owner."""
    tries = [site.login("/usual", "eve", "guess", "203.0.8.1") for _ in range(6)]
    assert codes(tries) == [401] * 5 + [429]
    assert site.login("/usual", "eve", "pass of eve", "203.0.8.2").status_code == 200
    assert codes(site.guess("/usual", "stranger", 101, 9)) == [401] * 100 + [429]
    # Another login has limits of its own, and counts of its own.
    assert codes(site.guess("/strict", "stranger", 1, 9)) == [401]


LOCKOUT = LoginLockout({"username": "2/10m"})
api = BoltAPI()


@api.post("/login")
def login(outcome: str, tries: Annotated[LoginTries, Depends(LOCKOUT)]) -> Any:
    with tries.attempt("ada") as succeeded:
        if outcome == "wrong":
            raise Unauthorized("no")
        if outcome == "away":
            raise OperationalError("the database is away")
        succeeded()
        if outcome == "away later":
            raise OperationalError("the database is away")
    return {}


class Shown:
    """A login of one's own, with limits that are counted wherever the settings say."""

    def __init__(self, **settings: Any) -> None:
        self.client = TestClient(api, settings=settings, raise_server_exceptions=False)

    def tried(self, *outcomes: str) -> list[int]:
        asked = [self.client.post("/login", params={"outcome": outcome}) for outcome in outcomes]
        return codes(asked)


def test_a_lock_ends_with_its_time_and_is_not_prolonged() -> None:
    clock = ManualClock()
    shown = Shown(RATELIMIT_BACKEND=Limiter(clock=clock))
    with shown.client:
        assert shown.tried("wrong", "wrong", "wrong", "right") == [401, 401, 429, 429]
        clock.advance(599)
        assert shown.tried("right", "wrong") == [429, 429]
        clock.advance(2)
        assert shown.tried("right", "wrong", "wrong", "wrong") == [200, 401, 401, 429]


def test_a_password_is_in_no_text_about_what_was_shown() -> None:
    """Reports of errors tell the variables of a function that failed."""
    assert repr(LoginCredentials("ada", "sesame")) == "LoginCredentials(username='ada')"


def test_limits_that_are_off_lock_nobody() -> None:
    shown = Shown(RATELIMIT_ENABLE=False)
    with shown.client:
        assert shown.tried(*["wrong"] * 9) == [401] * 9


def test_a_database_that_is_away_locks_nobody() -> None:
    shown = Shown()
    with shown.client:
        assert shown.tried(*["away"] * 5, "wrong", "wrong", "away") == [500] * 5 + [401, 401, 429]


def test_a_database_that_goes_away_after_the_success_is_what_is_told() -> None:
    with TestClient(api) as client:
        with pytest.raises(OperationalError, match="the database is away"):
            client.post("/login", params={"outcome": "away later"})
        assert client.post("/login", params={"outcome": "wrong"}).status_code == 401


def test_a_store_that_is_away_is_answered_as_the_fail_mode_says() -> None:
    nowhere = "redis://127.0.0.1:1/0"
    shown = Shown(RATELIMIT_BACKEND=nowhere, RATELIMIT_FAIL_MODE="closed")
    with shown.client:
        answer = shown.client.post("/login", params={"outcome": "right"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "127.0.0.1" not in answer.text
    shown = Shown(RATELIMIT_BACKEND=nowhere, RATELIMIT_FAIL_MODE="local")
    with shown.client:
        assert shown.tried("wrong", "wrong", "right") == [401, 401, 429]


@pytest.mark.parametrize(
    ("limits", "part"),
    [
        ({"user": "5/m"}, "not counted by 'user'"),
        ({"username+ip": "often"}, "often"),
        ({}, "has 0 limits"),
    ],
)
def test_lock_outs_that_cannot_be(limits: dict[str, str], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        JWTAuthViews(store=InMemoryRevocation(), lockout=limits)
