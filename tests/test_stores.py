"""Backends written in Python keep the promises of every store."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.servers import redis_server
from tests.sharing import patient
from tollway import ConfigError, Decision, Limiter, Policy, StoreTimeout, StoreUnavailable, stores
from tollway.stores import Loaded, Store
from tollway.testing import check_store


class Dictionary(Store):
    """The smallest backend: the value names itself."""

    name = "dictionary://"

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.lock = threading.Lock()

    def load(self, key: str) -> Loaded:
        return self.values.get(key)

    def swap(self, key: str, expected: bytes | None, value: bytes | None, ttl: float) -> bool:
        with self.lock:
            if self.values.get(key) != expected:
                return False
            if value is None:
                del self.values[key]
            else:
                self.values[key] = value
            return True


class Rows(Store):
    """A real database with row versions, asked asynchronously."""

    def __init__(self, path: Path) -> None:
        self.database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.database.execute("pragma synchronous = off")
        self.database.execute("create table rows (key text primary key, value blob, version int)")

    async def load(self, key: str) -> Loaded:
        await asyncio.sleep(0)
        found = self.database.execute("select value, version from rows where key = ?", (key,))
        row = found.fetchone()
        return None if row is None else (row[0], str(row[1]).encode())

    async def swap(self, key: str, expected: bytes | None, value: bytes | None, ttl: float) -> bool:
        await asyncio.sleep(0)
        if expected is None:
            put = "insert into rows values (?, ?, 1) on conflict do nothing"
            return self.database.execute(put, (key, value)).rowcount == 1
        if value is None:
            drop = "delete from rows where key = ? and version = ?"
            return self.database.execute(drop, (key, int(expected))).rowcount == 1
        change = "update rows set value = ?, version = version + 1 where key = ? and version = ?"
        return self.database.execute(change, (value, key, int(expected))).rowcount == 1


def test_a_dictionary_conforms() -> None:
    check_store(Dictionary())


def test_async_rows_conform(tmp_path: Path) -> None:
    check_store(Rows(tmp_path / "rows.sqlite3"))


def test_a_backend_that_forgets_does_not_conform() -> None:
    class Forgetful(Dictionary):
        def load(self, key: str) -> Loaded:
            return None

        def swap(self, key: str, expected: bytes | None, value: bytes | None, ttl: float) -> bool:
            return True

    with pytest.raises(AssertionError, match="dictionary://"):
        check_store(Forgetful())


def test_threads_together_get_the_limit() -> None:
    limiter = Limiter(Dictionary(), fail_mode="closed", near_cache=0)
    policy = Policy("p", "50/h")
    with ThreadPoolExecutor(8) as pool:
        passed = sum(pool.map(lambda _: limiter.check(policy, "k").allowed, range(400)))
    assert passed == 50


async def test_sync_and_async_callers_of_both_kinds(tmp_path: Path) -> None:
    for store in (Dictionary(), Rows(tmp_path / "rows.sqlite3")):
        limiter, policy = Limiter(store, fail_mode="closed"), Policy("p", "5/h")
        decisions = await asyncio.gather(*(limiter.acheck(policy, "k") for _ in range(20)))
        assert sum(decision.allowed for decision in decisions) == 5
        assert not limiter.check(policy, "k")
        await limiter.areset(policy, "k")
        assert limiter.check(policy, "k").remaining == 4


def test_a_child_that_is_forked_while_a_thread_asks_is_served(tmp_path: Path) -> None:
    with stores._lock:  # as another thread has it that asks right now
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # ends a child that waits for a thread of its parent
            rows = Rows(tmp_path / "rows.sqlite3")
            limiter = Limiter(rows, fail_mode="closed", command_timeout=10)
            os._exit(0 if limiter.check(Policy("p", "5/h"), "k").allowed else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_exception_is_a_backend_that_is_away() -> None:
    class Broken(Dictionary):
        def load(self, key: str) -> Loaded:
            raise OSError("disk on fire")

    policy = Policy("p", "2/h")
    with pytest.raises(StoreUnavailable, match=r"dictionary://.*disk on fire"):
        Limiter(Broken(), fail_mode="closed").check(policy, "k")
    decisions = [Limiter(Broken()).check(policy, "k") for _ in range(2)]
    assert all(decision.degraded for decision in decisions)


def test_a_slow_backend_is_given_up() -> None:
    class Slow(Store):
        async def load(self, key: str) -> Loaded:
            await asyncio.sleep(60)
            return None

        async def swap(
            self, key: str, expected: bytes | None, value: bytes | None, ttl: float
        ) -> bool:
            return True

    limiter = Limiter(Slow(), fail_mode="closed", command_timeout=0.05)
    with pytest.raises(StoreTimeout):
        limiter.check(Policy("p", "2/h"), "k")


def test_something_else_is_no_backend() -> None:
    with pytest.raises(ConfigError, match=r"load\(\) and swap\(\)"):
        Limiter(object())  # type: ignore[arg-type]


class Watched(Dictionary):
    """A backend that asks a limiter of its own before it answers."""

    name = "watched://"

    def __init__(self, url: str) -> None:
        super().__init__()
        self.limiter, self.policy = patient(url, near_cache=0), Policy("loads", "1000/d")

    def load(self, key: str) -> Loaded:
        assert self.limiter.check(self.policy, "everybody").allowed
        return super().load(key)

    def loads(self) -> int:
        return 1_000 - self.limiter.check(self.policy, "everybody", 0).remaining


def test_a_backend_may_ask_a_limiter() -> None:
    policy = Policy("p", "100/h", algorithm="fixed_window")
    with redis_server() as server:
        backend = Watched(server.url)
        # Alone, and behind one that is away: then it is asked while others are waited for.
        for limiter in (Limiter(backend), Limiter(["redis://127.0.0.1:1/0", backend])):

            async def await_some(limiter: Limiter = limiter) -> None:
                decisions = await asyncio.gather(*(limiter.acheck(policy, "k") for _ in range(5)))
                assert all(decisions)

            for _ in range(5):
                assert limiter.check(policy, "k")
            asyncio.run(await_some())
            assert not limiter.check(policy, "k", 0).degraded
        assert Limiter(backend).check(policy, "k", 0).remaining == 80
        assert backend.loads() >= 20


class Nested(Dictionary):
    """A backend that asks a limiter over another one."""

    name = "nested://"

    def __init__(self, inner: Store) -> None:
        super().__init__()
        self.limiter = Limiter(inner, fail_mode="closed", command_timeout=60)

    def load(self, key: str) -> Loaded:
        assert self.limiter.check(Policy("loads", "1000/d"), key).allowed
        return super().load(key)


def test_backends_that_ask_backends_wait_for_no_thread_that_waits_for_them() -> None:
    limiter, policy = Limiter(Nested(Dictionary()), fail_mode="closed"), Policy("p", "100/h")

    async def await_many() -> list[Decision]:
        asked = (limiter.acheck(policy, str(number)) for number in range(200))
        async with asyncio.timeout(30):
            return await asyncio.gather(*asked)

    assert all(asyncio.run(await_many()))


class Stuck(Dictionary):
    """A backend that answers when it is let go."""

    name = "stuck://"

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()

    def load(self, key: str) -> Loaded:
        self.begun.release()
        assert self.go_on.wait(60)
        return super().load(key)


def test_stuck_backends_are_told_of_and_hold_up_no_others() -> None:
    backend, policy = Stuck(), Policy("p", "100/h")
    limiter = Limiter(backend, fail_mode="closed", command_timeout=0.2)

    async def ask_more_than_fit(url: str) -> list[Decision]:
        waiting = [asyncio.ensure_future(limiter.acheck(policy, str(n))) for n in range(64)]
        for _ in waiting:
            await asyncio.to_thread(backend.begun.acquire)
        with pytest.raises(StoreUnavailable, match="64 calls are at work"):
            await limiter.acheck(policy, "one more")
        # Its name is looked up on a thread of the same kind.
        assert await patient(url.replace("127.0.0.1", "localhost")).acheck(policy, "k")
        backend.go_on.set()
        return await asyncio.gather(*waiting)

    with redis_server() as server:
        assert all(asyncio.run(ask_more_than_fit(server.url)))
