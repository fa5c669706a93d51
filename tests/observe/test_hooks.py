"""Functions that are called after decisions and errors."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers import RedisServer, redis_server
from tollway import ConfigError, Decision, Limiter, Policy, StoreUnavailable, observe
from tollway.observe import Call
from tollway.rules import Rules, Subject

Heard = list[tuple[str, Call]]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def policy(name: str) -> Policy:
    return Policy(name, "3/h")


def hooks(heard: Heard) -> dict[str, Any]:
    """Functions that note what they are told."""

    def on_decision(decision: Decision, call: Call) -> None:
        heard.append((decision.outcome, call))

    def on_error(error: Exception, call: Call) -> None:
        heard.append((type(error).__name__, call))

    return {"on_decision": on_decision, "on_error": on_error}


async def asked_every_way(limiter: Limiter, policy: Policy) -> None:
    other = Policy(f"{policy.name}-other", "100/h")
    limiter.check(policy, "a")
    await limiter.acheck(policy, "a", 2)
    limiter.check_all([(policy, "b"), (other, "b")])
    await limiter.acheck_all([(policy, "b"), (other, "b")])
    limiter.check_many([(policy, "c"), (other, "d", 5)])
    await limiter.acheck_many([(policy, "c"), (other, "d", 5)])
    with limiter.reserve(policy, "e", 3):
        pass
    async with await limiter.areserve(policy, "e", 1):
        pass
    limiter.acquire(policy, "f", timeout=0)
    await limiter.aacquire(policy, "f", timeout=0)
    Rules().check(limiter, [(policy, "g")], Subject())
    await Rules().acheck(limiter, [(policy, "g")], Subject())
    limiter.peek(policy, "a")


@pytest.mark.parametrize("waited", [False, True])
async def test_every_way_to_ask_is_heard(waited: bool, policy: Policy, redis: RedisServer) -> None:
    heard: Heard = []
    with Limiter(redis.url if waited else "memory://", **hooks(heard)) as limiter:
        await asked_every_way(limiter, policy)
        url = limiter.url
    name, other = policy.name, f"{policy.name}-other"
    told = [
        (call.operation, outcome, call.policies, call.keys, call.costs) for outcome, call in heard
    ]
    assert told == [
        ("check", "allowed", (name,), ("a",), (1,)),
        ("check", "allowed", (name,), ("a",), (2,)),
        ("check", "allowed", (name, other), ("b", "b"), (1, 1)),
        ("check", "allowed", (name, other), ("b", "b"), (1, 1)),
        ("check", "allowed", (name,), ("c",), (1,)),
        ("check", "allowed", (other,), ("d",), (5,)),
        ("check", "allowed", (name,), ("c",), (1,)),
        ("check", "allowed", (other,), ("d",), (5,)),
        ("reserve", "allowed", (name,), ("e",), (3,)),
        ("reserve", "refused", (name,), ("e",), (1,)),
        ("acquire", "allowed", (name,), ("f",), (1,)),
        ("acquire", "allowed", (name,), ("f",), (1,)),
        ("check", "allowed", (name,), ("g",), (1,)),
        ("check", "allowed", (name,), ("g",), (1,)),
    ]
    for _, call in heard:
        assert call.backend == url
        assert call.waited is waited
        assert call.error is None and call.answered
        assert 0 <= call.seconds < 60
        assert call.began_ns > 1_700_000_000 * 10**9
        assert call.operation in repr(call)


def test_held_permits_are_heard(name: str) -> None:
    heard: Heard = []
    limiter = Limiter(**hooks(heard))
    policy = Policy(name, "1/m", algorithm="concurrency")
    with limiter.hold(policy, "k"), limiter.hold(policy, "k"):
        pass
    assert [(outcome, call.operation) for outcome, call in heard] == [
        ("allowed", "hold"),
        ("refused", "hold"),
    ]


async def test_an_error_is_heard_before_the_decision_in_its_place(
    policy: Policy, dead_store: str
) -> None:
    heard: Heard = []
    with Limiter(dead_store, fail_mode="open", **hooks(heard)) as limiter:
        limiter.check(policy, "k")
        await limiter.acheck(policy, "k")
    assert [what for what, _ in heard] == ["StoreUnavailable", "degraded_allowed"] * 2
    assert all(call.answered for _, call in heard)
    assert all(isinstance(call.error, StoreUnavailable) for _, call in heard)
    heard.clear()
    with Limiter(dead_store, fail_mode="closed", **hooks(heard)) as limiter:
        with pytest.raises(StoreUnavailable):
            limiter.check(policy, "k")
        with pytest.raises(StoreUnavailable):
            await limiter.acheck(policy, "k")
    assert [(what, call.answered) for what, call in heard] == [("StoreUnavailable", False)] * 2


async def test_they_are_called_in_the_callers_context_and_thread(
    policy: Policy, redis: RedisServer
) -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    found = []

    def on_decision(_: Decision, call: Call) -> None:
        found.append((request.get(), call.keys[0], threading.get_ident()))

    async def one(number: int) -> None:
        request.set(f"r{number}")
        await limiter.acheck(policy, f"r{number}")

    with Limiter(redis.url, on_decision=on_decision) as limiter:
        await asyncio.gather(*(one(number) for number in range(20)))
        request.set("sync")
        limiter.check(policy, "sync")
    assert len(found) == 21
    assert {(seen, thread) for seen, _, thread in found} == {
        (key, threading.get_ident()) for _, key, _ in found
    }


def test_what_they_raise_is_logged_once_and_breaks_nothing(
    policy: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    def on_decision(_: Decision, call: Call) -> None:
        raise LookupError("of the hook's own")

    limiter = Limiter(on_decision=on_decision)
    with caplog.at_level(logging.ERROR, "tollway"):
        allowed = [limiter.check(policy, "k").allowed for _ in range(5)]
    assert allowed == [True] * 3 + [False] * 2
    [record] = caplog.records
    assert "on_decision" in record.getMessage()
    assert record.exc_info is not None and isinstance(record.exc_info[1], LookupError)


def test_an_interrupt_goes_on(policy: Policy) -> None:
    def on_decision(_: Decision, call: Call) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Limiter(on_decision=on_decision).check(policy, "k")


def test_what_cannot_be_called_is_refused() -> None:
    async def later(_: Decision, call: Call) -> None: ...

    for wrong in (3, later):
        with pytest.raises(ConfigError, match="on_error is a plain function of two arguments"):
            Limiter(on_error=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs on_decision, on_error or both"):
        observe.add()


def test_hooks_of_all_limiters_come_and_go(policy: Policy, redis: RedisServer) -> None:
    heard: Heard = []
    waits: Heard = []
    remove = observe.add(**hooks(heard))
    remove_waits = observe.add(**hooks(waits), only_waits=True)
    try:
        Limiter().check(policy, "k")
        with Limiter(redis.url, **hooks(heard)) as limiter:
            limiter.check(policy, "k")
    finally:
        remove()
        remove_waits()
    Limiter().check(policy, "k")
    assert [outcome for outcome, _ in heard] == ["allowed"] * 3
    assert [call.waited for _, call in waits] == [True]


def test_a_limiter_in_its_own_hook_is_collected(policy: Policy) -> None:
    class Owner:
        def __init__(self) -> None:
            self.limiter = Limiter(on_decision=self.heard)

        def heard(self, _: Decision, call: Call) -> None: ...

    owner = Owner()
    owner.limiter.check(policy, "k")
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None
