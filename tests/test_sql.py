"""The Python face over real databases: counts across processes, and what happens without them."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.databases import PostgresServer, postgres_server
from tests.servers import free_port
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


def patient(url: str, **options: Any) -> Limiter:
    """A limiter that fails aloud, and waits longer than a busy machine needs."""
    return Limiter(url, fail_mode="closed", connect_timeout=10, command_timeout=10, **options)


def _hammer(url: str, calls: int, start: float) -> tuple[int, float, float]:
    """In a process of its own: how many of the calls passed, and between which times."""
    limiter, policy = patient(url, near_cache=0), Policy("hammered", "100/60s")
    limiter.ping()
    time.sleep(max(0.0, start - time.time()))
    first = time.time()
    passed = sum(limiter.check(policy, "k").allowed for _ in range(calls))
    return passed, first, time.time()


def test_eight_processes_get_one_limit(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(8) as pool:
        start = time.time() + 2
        rows = pool.starmap(_hammer, [(url, 60, start)] * 8)
    passed = sum(row[0] for row in rows)
    span = max(row[2] for row in rows) - min(row[1] for row in rows)
    assert 100 <= passed <= 100 + int(span * 100 / 60) + 1


def _exit_after(answer: Callable[[], bool]) -> None:
    """In a forked child: says by its exit code whether it was answered as it should be."""
    code = 1
    try:
        code = 0 if answer() else 2
    finally:
        os._exit(code)


def _fork(url: str) -> None:
    """In a process of its own: what children are told that are forked while threads are served."""
    limiter, policy = patient(url), Policy("forked", "100000/d", algorithm="fixed_window")
    stop, counts = threading.Event(), [0] * 4

    def serve(number: int) -> None:
        while not stop.is_set():
            assert limiter.check(policy, "k").allowed
            counts[number] += 1

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(len(counts))]
    for thread in threads:
        thread.start()
    children = 0
    for _ in range(25):
        child = os.fork()
        if child == 0:  # pragma: no cover - the child
            _exit_after(lambda: limiter.check(policy, "k").allowed)
        other = multiprocessing.get_context("fork").Process(
            target=_exit_after, args=(lambda: limiter.check(policy, "k").allowed,)
        )
        other.start()
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        other.join()
        assert other.exitcode == 0
        children += 2
    stop.set()
    for thread in threads:
        thread.join()
    assert min(counts) > 0
    assert limiter.check(policy, "k", 0).remaining == 100_000 - children - sum(counts)


def test_forked_children_use_their_own_connection_whatever_the_parent_does(url: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_fork, args=(url,))
    process.start()
    process.join(120)
    process.kill()
    assert process.exitcode == 0


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
    end = time.monotonic() + 20
    while limiter.check(policy, "k").degraded:
        assert time.monotonic() < end, "the database was not found again"
        time.sleep(0.02)


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
    deleted = 0
    while deleted < 10:
        assert time.monotonic() < end, f"{deleted} of 10 rows are deleted"
        deleted += limiter.cleanup(4)
    assert limiter.cleanup() == 0
    assert Limiter().cleanup() == 0
