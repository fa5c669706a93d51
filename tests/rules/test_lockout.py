"""Lock-out: counted by outcome, exactly, under concurrency."""

from __future__ import annotations

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tollway import ConfigError, Limiter
from tollway.rules import Lockout
from tollway.testing import ManualClock

ANNA = {"username": "anna", "ip": "203.0.113.7"}


def locked(clock: ManualClock | None = None, **options: object) -> Lockout:
    limiter = Limiter(clock=clock) if clock else Limiter()
    return Lockout(limiter, "login", {"username+ip": "3/15m", "ip": "10/h"}, **options)  # type: ignore[arg-type]


def test_failures_lock_and_the_lock_ends_when_it_said() -> None:
    clock = ManualClock()
    lockout = locked(clock)
    for _ in range(3):
        with lockout.attempt(**ANNA) as attempt:
            assert attempt
        clock.advance(60)
    for _ in range(5):
        refused = lockout.attempt(**ANNA)
        assert not refused and refused.combination == "username+ip"
        assert refused.decision.status == 429
        refused.failed()
    assert refused.decision.retry_after == 12 * 60
    clock.advance(12 * 60 - 0.001)
    assert not lockout.peek(**ANNA)
    clock.advance(0.001)
    assert lockout.peek(**ANNA).remaining == 2


def test_a_success_clears_the_pair_but_not_the_address() -> None:
    lockout = locked()
    for _ in range(2):
        lockout.attempt(**ANNA).failed()
    lockout.attempt(**ANNA).succeeded()
    assert lockout.peek(**ANNA).remaining == 2
    assert lockout.peek(ip="203.0.113.7").remaining == 7, "two failures, and the peek's own"

    # An attacker logs in to an account of their own between guesses at others.
    for turn in range(20):
        with lockout.attempt(username=f"victim-{turn}", ip="198.51.100.1"):
            pass
        mine = lockout.attempt(username="mine", ip="198.51.100.1")
        if not mine:
            break
        mine.succeeded()
    assert turn == 9 and mine.combination == "ip"


def test_a_success_clears_what_it_is_told_to() -> None:
    lockout = locked(clears=["ip"])
    lockout.attempt(**ANNA).failed()
    lockout.attempt(**ANNA).succeeded()
    assert lockout.peek(ip="203.0.113.7").remaining == 9
    assert lockout.peek(**ANNA).remaining == 1
    with pytest.raises(ConfigError, match='does not count "user"'):
        locked(clears=["user"])


def test_an_exception_counts_as_a_failure_and_a_cancel_does_not() -> None:
    lockout = locked()
    with pytest.raises(PermissionError), lockout.attempt(**ANNA):
        raise PermissionError("wrong password")
    with lockout.attempt(**ANNA) as attempt:
        attempt.cancel()
    assert lockout.peek(**ANNA).remaining == 1
    with pytest.raises(ConfigError, match="told already"):
        attempt.succeeded()
    lockout.clear(**ANNA)
    assert lockout.peek(**ANNA).remaining == 2


def test_fields_that_are_missing_and_combinations_that_are_none() -> None:
    lockout = locked()
    assert lockout.attempt(username=None, ip="203.0.113.7").combination == "ip"
    with pytest.raises(ConfigError, match=r'"login" counts username\+ip, ip'):
        lockout.attempt(username="anna")
    with pytest.raises(ConfigError, match="has 0 limits"):
        Lockout(Limiter(), "login", {})


def test_a_name_stands_for_the_same_limits_wherever_it_is_counted(redis_url: str) -> None:
    limiter = Limiter()
    login = Lockout(limiter, "login", {"username+ip": "5/15m", "ip": "100/h"})
    with pytest.raises(ConfigError) as told:
        Lockout(limiter, "login", {"ip": "3/h"})
    here = [int(line) for line in re.findall(rf"{re.escape(__file__)}:(\d+)", str(told.value))]
    assert str(told.value) == (
        f'lock-out "login" counts ip as 100/h (fixed_window:first) at {__file__}:{here[0]} and as '
        f"3/h (fixed_window:first) at {__file__}:{here[1]}, in one count: give one of them another "
        "name"
    )
    assert here[1] == here[0] + 2
    with pytest.raises(ConfigError, match=r"100/h \(sliding_log\)"):
        Lockout(limiter, "login", {"ip": "100/h"}, algorithm="sliding_log")

    # Where nothing is shared, or nothing differs, nothing is wrong.
    Lockout(limiter, "login", {"ip": "100 per hour"}, clears=["ip"], hold=False)
    Lockout(limiter, "login", {"username": "3/h"})
    Lockout(limiter, "reset", {"ip": "3/h"})
    Lockout(Limiter(), "login", {"ip": "3/h"})

    # Limits that have changed are no twins of those that they replace.
    del login, told
    Lockout(limiter, "login", {"ip": "3/h"})

    far = Lockout(Limiter(f"{redis_url}/10"), "twins", {"ip": "5/h"})
    with pytest.raises(ConfigError, match="ip as 5/h"):
        Lockout(Limiter(f"{redis_url}/10"), "twins", {"ip": "6/h"})
    Lockout(Limiter(f"{redis_url}/10", prefix="other"), "twins", {"ip": "6/h"})
    assert far.peek(ip="203.0.113.7")


def test_an_error_shows_no_password_of_the_backend() -> None:
    url = "redis://:sesame@127.0.0.1:1/0"
    first = Lockout(Limiter(url), "secret", {"ip": "5/h"})
    with pytest.raises(ConfigError) as told:
        Lockout(Limiter(url), "secret", {"ip": "6/h"})
    assert "sesame" not in str(told.value) and "sesame" not in repr(first)


@pytest.mark.parametrize("seed", range(3))
def test_never_more_failures_than_the_limit_however_many_run_at_once(seed: int) -> None:
    lockout = Lockout(Limiter(), f"login-{seed}", {"username": "5/h"})
    together, running = threading.Barrier(16), threading.Barrier(16)

    def guess() -> int:
        together.wait(10)
        with lockout.attempt(username="anna") as attempt:
            allowed = bool(attempt)
            running.wait(10)  # all of them have begun before any has an outcome
        return allowed

    with ThreadPoolExecutor(16) as threads:
        passed = sum(future.result() for future in [threads.submit(guess) for _ in range(16)])
    assert passed == 5


def test_counting_afterwards_never_stands_in_the_way_of_successes() -> None:
    lockout = Lockout(Limiter(), "missing", {"ip": "2/h"}, hold=False)
    at_once = [lockout.attempt(ip="203.0.113.7") for _ in range(50)]
    assert all(at_once)
    for attempt in at_once[2:]:
        attempt.succeeded()
    assert lockout.peek(ip="203.0.113.7").remaining == 1
    for attempt in at_once[:2]:
        attempt.failed()
    assert not lockout.attempt(ip="203.0.113.7")


async def test_await_on_a_real_redis(redis_url: str) -> None:
    limiter = Limiter(f"{redis_url}/10")
    lockout = Lockout(limiter, "login", {"username+ip": "5/15m", "ip": "100/h"})
    await lockout.aclear(**ANNA)

    async def guess() -> bool:
        async with await lockout.aattempt(**ANNA) as attempt:
            await asyncio.sleep(0.01)
            return attempt.allowed

    assert sum(await asyncio.gather(*(guess() for _ in range(40)))) == 5
    await lockout.aclear(username="anna", ip="203.0.113.7")
    attempt = await lockout.aattempt(**ANNA)
    await attempt.asucceeded()
    assert (await lockout.apeek(**ANNA)).remaining == 4
    attempt = await lockout.aattempt(**ANNA)
    await attempt.acancel()
    await (await lockout.aattempt(**ANNA)).afailed()
    assert (await lockout.apeek(**ANNA)).remaining == 3
