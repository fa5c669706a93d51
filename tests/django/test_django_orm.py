"""Counts in the project's own database: `RATELIMIT_BACKEND = "django"`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pymysql
import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.http import HttpResponse
from django.test import RequestFactory, override_settings
from django.utils import timezone

from tests.django.conftest import codes
from tollway import ConfigError, Limiter, Policy
from tollway.django import conf, rate_limit
from tollway.django.models import State
from tollway.django.orm import DatabaseStore, digest, store
from tollway.testing import check_store

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def counts() -> Iterator[DatabaseStore]:
    made = DatabaseStore()
    yield made
    made.close()


def known_as(alias: str, engine: str, url: str) -> str:
    """Add a database to those of Django, with its tables; its alias."""
    place = urlsplit(url)
    stated = {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": place.path.strip("/"),
        "HOST": place.hostname,
        "PORT": place.port,
        "USER": place.username,
    }
    databases = {"default": dict(connections.settings["default"]), alias: stated}
    connections.settings[alias] = connections.configure_settings(databases)[alias]
    call_command("migrate", "tollway", database=alias, verbosity=0)
    connections[alias].close()
    return alias


@pytest.fixture
def postgres(postgres_url: str) -> str:
    """A real PostgreSQL as a database of Django."""
    return known_as("postgres", "postgresql", postgres_url)


@pytest.fixture
def mysql(mysql_url: str) -> str:
    """A real MariaDB as a database of Django, over a driver that needs no compiler."""
    pymysql.version_info = (2, 2, 8, "final", 0)  # what Django wants of mysqlclient
    pymysql.install_as_MySQLdb()
    return known_as("mysql", "mysql", mysql_url)


@pytest.fixture(params=["default", "postgres", "mysql"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[DatabaseStore]:
    """Counts in each kind of database."""
    alias = request.param
    made = DatabaseStore(alias if alias == "default" else request.getfixturevalue(alias))
    yield made
    State.objects.using(alias).all().delete()
    connections[alias].close()
    made.close()


def test_it_keeps_the_laws_of_a_store(anywhere: DatabaseStore) -> None:
    check_store(anywhere)


def test_a_count_survives_the_request_that_is_rolled_back(rf: RequestFactory) -> None:
    """With ATOMIC_REQUESTS a failed request would otherwise give its permit back."""

    def broken(request: Any) -> HttpResponse:
        raise RuntimeError("the view broke")

    with override_settings(RATELIMIT_BACKEND="django", RATELIMIT_COMMAND_TIMEOUT=20):
        view = rate_limit(rate="2/h")(broken)
        for _ in range(2):
            with pytest.raises(RuntimeError), transaction.atomic():
                view(rf.get("/"))
        with transaction.atomic():
            assert codes(view, [rf.get("/")]) == [429]


async def test_async_views(rf: RequestFactory) -> None:
    async def ok(request: Any) -> HttpResponse:
        return HttpResponse("ok")

    with override_settings(RATELIMIT_BACKEND="django://default", RATELIMIT_COMMAND_TIMEOUT=20):
        view = rate_limit(rate="2/h")(ok)
        assert [(await view(rf.get("/"))).status_code for _ in range(3)] == [200, 200, 429]
        assert conf.current().limiter().url == "django://default"


def test_many_at_once_admit_exactly_the_limit(anywhere: DatabaseStore) -> None:
    limiter = Limiter(anywhere, command_timeout=20, fail_mode="closed")
    policy, admitted, lock = Policy("crowd", "20/h"), [0], threading.Lock()

    def ask() -> None:
        for _ in range(10):
            passed = limiter.check(policy, "k").allowed
            with lock:
                admitted[0] += passed

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admitted == [20]


def test_a_row_made_again_is_not_taken_for_the_old_one(counts: DatabaseStore) -> None:
    key = digest("k")
    assert counts._swap(key, None, b"1", 60)
    first = counts._load(key)
    assert first is not None
    assert not counts._swap(key, None, b"2", 60)
    assert counts._swap(key, first[1], None, 0)
    assert counts._swap(key, None, b"1", 60)
    assert not counts._swap(key, first[1], b"3", 60)
    assert counts._load(key) != first
    assert not counts._swap(key, None, None, 0)


def test_counts_that_are_over_are_deleted(counts: DatabaseStore) -> None:
    limiter = Limiter(counts, command_timeout=20)
    limiter.check(Policy("short", "5/s"), "k")
    row = State.objects.get()
    assert row.expires < timezone.now() + timedelta(seconds=10)
    State.objects.update(expires=timezone.now() - timedelta(seconds=1))
    call_command("cleanup_ratelimit", verbosity=0)
    assert not State.objects.exists()


def test_keys_are_told_apart_whatever_the_database_thinks() -> None:
    keys = ("user:A", "user:a", "user:a ", "user:\udc80", "x" * 10_000)
    assert len({digest(key) for key in keys}) == len(keys)
    assert {len(digest(key)) for key in keys} == {32}


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("django://nowhere", "no database 'nowhere' in DATABASES; there are: default"),
        ("django://default?thread=4", "not understood"),
        ("django://default?threads=0", "from 1 to 64"),
        ("django://default/x", "not understood"),
    ],
)
def test_what_cannot_be_is_named(url: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        store(url)


def test_the_settings_know_it() -> None:
    with override_settings(
        RATELIMIT_BACKEND="django", RATELIMIT_BACKENDS={"b": "django://default"}
    ):
        setup = conf.current()
        assert setup.limiter().url == "django://"
        assert setup.limiter("b").url == "django://default"
    with override_settings(RATELIMIT_BACKENDS={"django": "memory://"}), pytest.raises(ConfigError):
        conf.current()


def test_a_database_that_is_away_is_told_and_not_waited_for(
    counts: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(State._meta, "db_table", "not_there")
    limiter = Limiter(counts, command_timeout=20)
    decision = limiter.check(Policy("p", "5/h"), "k")
    assert decision.allowed and decision.degraded
    connections.close_all()
