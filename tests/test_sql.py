"""The Python face over real databases: counts across processes, and what happens without them."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import PostgresServer, postgres_server
from tests.servers import free_port
from tests.sharing import eight_processes_get_one_limit, forked_children_are_answered, patient
from tests.waiting import wait
from tollway import ConfigError, Limiter, Policy, StoreError, StoreUnavailable


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["postgres", "mysql", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of each database in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/limits.db"
    if request.param == "mysql":
        mysql: str = request.getfixturevalue("mysql_url")
        return mysql
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url


def test_eight_processes_get_one_limit(url: str) -> None:
    eight_processes_get_one_limit(url, calls=60)


def test_forked_children_use_their_own_connection_whatever_the_parent_does(url: str) -> None:
    forked_children_are_answered(url)


def test_tasks_share_transactions(url: str) -> None:
    limiter, policy = patient(url), Policy("tasks", "200/h")

    async def all_at_once() -> list[bool]:
        decisions = await asyncio.gather(*(limiter.acheck(policy, "k") for _ in range(500)))
        return [decision.allowed for decision in decisions]

    assert sum(asyncio.run(all_at_once())) in range(200, 202)


def test_every_operation(url: str) -> None:
    limiter = patient(url)
    policy, wide = Policy("operations", "5/d"), Policy("wide", "100/d")
    assert limiter.check(policy, "a", 3).remaining == 2
    assert limiter.peek(policy, "a").remaining == 1
    assert not limiter.check_all([(wide, "all"), (policy, "a", 3)]).allowed
    assert limiter.peek(wide, "all", 0).remaining == 100
    reservation = limiter.reserve(policy, "a", 2)
    reservation.cancel()
    assert limiter.peek(policy, "a", 0).remaining == 2
    limiter.reset(policy, "a")
    assert limiter.check(policy, "a", 5).allowed
    held = Policy("held", "2/h", algorithm="concurrency")
    assert [limiter.check(held, "k").allowed for _ in range(3)] == [True, True, False]
    assert [
        limiter.check(Policy("log", "2/h", algorithm="sliding_log"), "k").allowed for _ in "123"
    ] == [
        True,
        True,
        False,
    ]


def test_a_database_that_is_away_is_named() -> None:
    url = f"postgres://me:hunter2@127.0.0.1:{free_port()}/shop"
    limiter = patient(url)
    with pytest.raises(StoreUnavailable, match=r"nothing listens at 127\.0\.0\.1") as caught:
        limiter.ping()
    assert "hunter2" not in str(caught.value) + limiter.url
    # Without an answer of the store the local limit stands in.
    assert Limiter(url).check(Policy("p", "5/m"), "k").degraded


def test_a_database_that_comes_back_is_used_again(postgres: PostgresServer) -> None:
    limiter, policy = Limiter(postgres.url), Policy("back", "5/h")
    limiter.ping()
    postgres.kill()
    assert limiter.check(policy, "k").degraded
    postgres.start()
    wait("the database is found again", lambda: not limiter.check(policy, "k").degraded, 20)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("postgres://localhost/shop", "names no user"),
        ("postgres://me@localhost/shop?table=Drop Table", "the table"),
        (
            "postgres://me@localhost/shop?sslmode=verify-full&sslrootcert=/nowhere.pem",
            "/nowhere.pem",
        ),
        ("mysql://me@localhost", "names no database"),
        ("sqlite://limits.db", "names a host"),
        ("sqlite:///no/such/limits.db", "four slashes"),
        ("postgre://me@localhost/shop", "Did you mean postgres"),
    ],
)
def test_a_url_that_cannot_work_is_named_when_the_limiter_is_made(url: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        Limiter(url)


def test_the_database_of_django_is_not_touched(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "db.sqlite3")
    database.execute("create table django_migrations (id integer)")
    database.commit()
    with pytest.raises(StoreError, match="another program's database"):
        patient(f"sqlite:///{tmp_path}/db.sqlite3").ping()


def test_rows_that_have_expired_are_deleted_at_once(url: str) -> None:
    limiter, quick = patient(url, prefix="expired"), Policy("quick", "1/ms")
    for number in range(10):
        limiter.check(quick, f"k{number}")
    end = time.monotonic() + 20
    deleted = idle = 0
    # The store deletes some of them by itself, so how many are left for us is not known.
    while deleted == 0 or idle < 50:
        assert time.monotonic() < end, "no row is deleted"
        some = limiter.cleanup(4)
        assert some <= 4
        deleted, idle = deleted + some, 0 if some else idle + 1
    assert deleted <= 10
    assert limiter.cleanup() == 0
    assert Limiter().cleanup() == 0
