"""The Python face over a real Redis: counts across processes, and what happens when it is away."""

from __future__ import annotations

import asyncio
import logging
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers import RedisServer, redis_server
from tests.sharing import eight_processes_get_one_limit, forked_children_are_answered, patient
from tests.waiting import wait
from tollway import ConfigError, Decision, Limiter, Policy, StoreUnavailable


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def test_eight_processes_get_one_limit(server: RedisServer) -> None:
    eight_processes_get_one_limit(server.url, calls=400)


def test_forked_children_use_their_own_connection(server: RedisServer) -> None:
    forked_children_are_answered(server.url)


# A hook that was registered before Tollway's runs after it.
ASKED_WHILE_FORKING = """
import os, sys

def ask():
    answers.append(limiter.check(policy, "k").remaining)

os.register_at_fork(before=ask)

from tollway import Limiter, Policy

answers, policy = [], Policy("p", "5/h")
limiter = Limiter(sys.argv[1], fail_mode="closed", connect_timeout=10, command_timeout=10)
ask()
child = os.fork()
if child == 0:
    os._exit(limiter.check(policy, "k").remaining)
print(*answers, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_who_asks_while_the_process_forks_is_answered(server: RedisServer) -> None:
    # From Python 3.12 on a fork with threads about is warned of, which is what this is about.
    knowing = ["-W", "ignore:This process:DeprecationWarning"]
    program = [sys.executable, *knowing, "-c", ASKED_WHILE_FORKING, server.url]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("4 3 2\n", "")


class Asking(logging.Handler):
    """A handler that asks a limiter before it takes a line."""

    def __init__(self, limiter: Limiter) -> None:
        super().__init__()
        self.limiter, self.lines = limiter, queue.Queue[str]()

    def emit(self, record: logging.LogRecord) -> None:
        assert self.limiter.check(Policy("lines", "100/h"), "everybody").allowed
        self.lines.put(record.getMessage())


def test_whoever_hears_of_a_failure_may_ask_a_limiter(server: RedisServer) -> None:
    policy, logger = Policy("p", "5/h"), logging.getLogger("tollway")
    handler = Asking(patient(server.url))
    logger.addHandler(handler)
    try:
        away = Limiter("redis://127.0.0.1:1/0", fail_mode="open")
        assert away.check(policy, "k").degraded
        assert "redis://127.0.0.1:1/0" in handler.lines.get_nowait()
        away = Limiter("redis://127.0.0.1:1/1", fail_mode="open")
        assert asyncio.run(_one_answer(away, policy)).degraded
        assert "redis://127.0.0.1:1/1" in handler.lines.get(timeout=30)
    finally:
        logger.removeHandler(handler)


async def _one_answer(limiter: Limiter, policy: Policy) -> Decision:
    return await limiter.acheck(policy, "k")


async def test_four_hundred_at_once_get_five(server: RedisServer) -> None:
    limiter, policy = patient(server.url), Policy("p", "5/h")
    decisions = await asyncio.gather(*(limiter.acheck(policy, "k") for _ in range(400)))
    assert sum(decision.allowed for decision in decisions) == 5


def test_refusals_leave_the_state_alone(server: RedisServer) -> None:
    limiter = patient(server.url, near_cache=0)
    policy = Policy("p", "3/h")
    for _ in range(3):
        assert limiter.check(policy, "k")
    key = "tollway:p:{k}"
    before = server.read("GET", key)
    assert before
    refused = [limiter.check(policy, "k") for _ in range(10)]
    assert not any(refused)
    assert server.read("GET", key) == before


def test_several_loops_share_a_limiter(server: RedisServer) -> None:
    limiter, policy = patient(server.url), Policy("p", "100/h")

    async def twice() -> list[Decision]:
        return [await limiter.acheck(policy, "k"), await limiter.acheck(policy, "k")]

    left = [decision.remaining for _ in range(3) for decision in asyncio.run(twice())]
    assert left == [99, 98, 97, 96, 95, 94]


def test_threads_and_tasks_come_and_go(server: RedisServer) -> None:
    """Whoever waits drives the stores, or a thread of their own does: nobody waits for nobody."""
    limiter, policy = patient(server.url), Policy("p", "1000000/d", algorithm="fixed_window")
    # Shorter and longer than a thread that drives is waited for.
    pauses = [0, 0, 0, 0, 0.001, 0, 0.006, 0, 0.012, 0.003]

    def block(number: int) -> int:
        for turn in range(100):
            assert limiter.check(policy, "k")
            time.sleep(pauses[(turn + number) % len(pauses)])
        return 100

    async def await_some() -> int:
        for turn in range(100):
            assert await limiter.acheck(policy, "k")
            await asyncio.sleep(pauses[turn % len(pauses)] * 2)
        return 100

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(block, number) for number in range(3)]
        calls.append(pool.submit(lambda: asyncio.run(await_some())))
        spent = sum(call.result() for call in calls)
    assert limiter.check(policy, "k", 0).remaining == 1_000_000 - spent


def test_a_frozen_server_costs_one_time_out(server: RedisServer) -> None:
    limiter, policy = Limiter(server.url), Policy("p", "5/h")
    assert not limiter.check(policy, "k").degraded
    server.freeze()
    try:
        started = time.perf_counter()
        decisions = [limiter.check(policy, "k") for _ in range(200)]
        took = time.perf_counter() - started
    finally:
        server.thaw()
    assert all(decision.degraded for decision in decisions)
    assert sum(decision.allowed for decision in decisions) == 5, "the local limit"
    # One time-out of 0.1 s, a few probes at most; 200 time-outs would be 20 s.
    assert took < 2


def test_it_comes_back_by_itself(server: RedisServer) -> None:
    limiter, policy = Limiter(server.url), Policy("p", "1000/h")
    assert not limiter.check(policy, "k").degraded
    server.kill()
    assert limiter.check(policy, "k").degraded
    server.restart()
    wait("the breaker asks again by itself", lambda: not limiter.check(policy, "k").degraded, 15)
    assert limiter.check(policy, "k").remaining > 900


def test_scripts_flushed_and_keys_flushed_go_unnoticed(server: RedisServer) -> None:
    limiter, policy = patient(server.url), Policy("p", "5/h")
    assert limiter.check(policy, "k").remaining == 4
    server.ask("SCRIPT", "FLUSH")
    assert limiter.check(policy, "k").remaining == 3
    server.ask("FLUSHALL")
    assert limiter.check(policy, "k").remaining == 4


async def test_a_reset_is_effective_at_once(server: RedisServer) -> None:
    limiter, policy = patient(server.url), Policy("p", "1/h")
    assert await limiter.acheck(policy, "k")
    assert not await limiter.acheck(policy, "k")
    assert not limiter.check(policy, "k")
    await limiter.areset(policy, "k")
    assert limiter.check(policy, "k")


def test_a_reset_from_elsewhere_is_seen_within_the_hold(server: RedisServer) -> None:
    near = patient(server.url, near_cache=0.05)
    policy = Policy("p", "1/h")
    near.check(policy, "k")
    assert not near.check(policy, "k")
    Limiter(server.url).reset(policy, "k")
    wait("the reset is known", lambda: near.check(policy, "k"), 5)


def test_several_backends_stand_in_for_each_other(server: RedisServer) -> None:
    with redis_server() as second:
        limiter = Limiter([server.url, second.url], fail_mode="closed", strategy="priority")
        policy = Policy("p", "10/h")
        assert [limiter.check(policy, "k").remaining for _ in range(3)] == [9, 8, 7]
        server.kill()
        assert [limiter.check(policy, "k").remaining for _ in range(3)] == [9, 8, 7]
        second.kill()
        with pytest.raises(StoreUnavailable):
            limiter.check(policy, "k")
    with pytest.raises(ConfigError, match="strategy"):
        Limiter([server.url], strategy="random")
    with pytest.raises(ConfigError, match="at least one"):
        Limiter([])


def test_a_wrong_password_is_told_without_showing_it(server: RedisServer) -> None:
    server.ask("CONFIG", "SET", "requirepass", "right")
    url = f"redis://:wrong-secret@127.0.0.1:{server.port}"
    limiter = Limiter(url, fail_mode="closed")
    with pytest.raises(Exception, match="refuses the connection") as caught:
        limiter.ping()
    assert "wrong-secret" not in str(caught.value)
    Limiter(f"redis://:right@127.0.0.1:{server.port}").ping()
