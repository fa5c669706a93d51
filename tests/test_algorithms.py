"""Algorithms through Python: logs, held permits, calendars, buckets, and one's own."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.servers import redis_server
from tests.sharing import patient
from tollway import ConfigError, Limiter, Policy, Rate, RateError
from tollway.algorithms import Algorithm, Verdict
from tollway.testing import ManualClock

HOUR = 3600.0


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def test_a_log_is_exact_over_any_period() -> None:
    clock = ManualClock(1_700_000_000.0)
    limiter = Limiter("memory://", clock=clock)
    policy = Policy("p", "5/10s", algorithm="sliding_log")
    passed = []
    for _ in range(400):
        if limiter.check(policy, "k"):
            passed.append(clock.now)
        clock.advance(0.17)
    assert len(passed) > 30
    for start in passed:
        assert sum(start <= moment < start + 10 for moment in passed) <= 5


def test_a_log_too_long_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="at most 10000"):
        Policy("p", "10001/h", algorithm="sliding_log")


@pytest.mark.parametrize(
    ("rate", "moment", "opens"),
    [
        ("3/month", at("2024-02-10"), at("2024-03-01")),
        ("3/month Europe/Berlin", at("2024-03-15"), at("2024-04-01", "Europe/Berlin")),
        ("3/day America/New_York", at("2024-03-10T12:00"), at("2024-03-11", "America/New_York")),
        ("3/week UTC", at("2024-03-14"), at("2024-03-18")),
        ("3/year Asia/Tokyo", at("2024-12-31T12:00"), at("2025-01-01", "Asia/Tokyo")),
    ],
)
def test_a_quota_opens_when_the_calendar_turns(rate: str, moment: float, opens: float) -> None:
    clock = ManualClock(moment)
    limiter = Limiter("memory://", clock=clock)
    policy = Policy("p", rate)
    assert policy.rates[0].period is None
    assert all(limiter.check(policy, "k") for _ in range(3))
    refused = limiter.check(policy, "k")
    assert not refused
    assert refused.retry_after == pytest.approx(opens - moment)
    clock.advance(refused.retry_after - 0.001)
    assert not limiter.check(policy, "k")
    clock.advance(0.001)
    assert limiter.check(policy, "k").remaining == 2


def test_a_quota_goes_with_other_rates() -> None:
    limiter = Limiter("memory://", clock=ManualClock(at("2024-02-10")))
    policy = Policy("p", "2/s; 1000/month Europe/Berlin")
    decision = limiter.check(policy, "k", 2)
    assert decision.limit == 2
    assert limiter.peek(policy, "k").retry_after == pytest.approx(0.5)
    assert Rate(1000, "month europe/berlin") == policy.rates[1]


@pytest.mark.parametrize("text", ["5/month Mars/Olympus", "5/day Europe/Berln"])
def test_a_zone_that_does_not_exist_is_named(text: str) -> None:
    with pytest.raises(RateError, match="time zone"):
        Policy("p", text)


def test_held_permits_come_back() -> None:
    limiter = Limiter("memory://")
    exports = Policy("exports", "2/30s", algorithm="concurrency")
    with limiter.hold(exports, "org") as one, limiter.hold(exports, "org") as two:
        assert one and two
        assert one.held
        third = limiter.hold(exports, "org")
        assert not third
        assert not third.held
        assert 0 < third.decision.retry_after <= 30
    assert not one.held
    assert limiter.peek(exports, "org", 2)
    one.release()  # a second time does nothing
    assert limiter.peek(exports, "org", 2)


def test_an_error_inside_gives_the_permit_back() -> None:
    limiter = Limiter("memory://")
    exports = Policy("exports", "1/30s", algorithm="concurrency")
    with pytest.raises(ZeroDivisionError), limiter.hold(exports, "org"):
        _ = 1 / 0
    assert limiter.peek(exports, "org")


def test_a_permit_is_renewed_while_it_is_held() -> None:
    limiter = Limiter("memory://")
    exports = Policy("exports", "1/600ms", algorithm="concurrency")
    with limiter.hold(exports, "org") as held:
        time.sleep(1.5)
        assert held.held
        assert not limiter.check(exports, "org")


def test_who_waits_gets_the_permit_that_comes_back() -> None:
    limiter = Limiter("memory://")
    exports = Policy("exports", "1/1h", algorithm="concurrency")
    held = limiter.hold(exports, "org")
    threading.Timer(0.1, held.release).start()
    patient = limiter.hold(exports, "org", timeout=20)
    assert patient
    assert not limiter.hold(exports, "org", timeout=0.02)


async def test_held_permits_for_await() -> None:
    limiter = Limiter("memory://")
    exports = Policy("exports", "3/30s", algorithm="concurrency")
    most = running = 0

    async def work() -> None:
        nonlocal most, running
        async with await limiter.ahold(exports, "org", timeout=20) as held:
            assert held
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1

    await asyncio.gather(*(work() for _ in range(12)))
    assert most <= 3
    assert (await limiter.apeek(exports, "org", 3)).allowed


def test_a_forked_child_renews_its_own_permits() -> None:
    limiter = Limiter("memory://")
    exports = Policy("exports", "1/600ms", algorithm="concurrency")
    with limiter.hold(exports, "parent"):
        child = os.fork()
        if child == 0:
            with limiter.hold(exports, "child") as held:
                time.sleep(1.5)
                os._exit(0 if held.held and not limiter.check(exports, "child") else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_only_concurrency_can_be_held() -> None:
    with pytest.raises(ConfigError, match="concurrency"):
        Limiter("memory://").hold(Policy("p", "5/m"), "k")


def test_tokens_come_in_lumps() -> None:
    clock = ManualClock(at("2024-02-10T10:20"))
    limiter = Limiter("memory://", clock=clock)
    policy = Policy("p", "100/h", algorithm="token_bucket", refill_every="1h")
    assert limiter.check(policy, "k", 100)
    refused = limiter.check(policy, "k")
    assert refused.retry_after == 40 * 60
    clock.advance(40 * 60)
    assert limiter.check(policy, "k", 66)


def test_new_clients_begin_with_few_tokens_and_earn_more() -> None:
    clock = ManualClock(at("2024-02-10"))
    limiter = Limiter("memory://", clock=clock)
    policy = Policy("p", "100/h", algorithm="token_bucket", initial_tokens=10)
    refused = limiter.check(policy, "k", 20)
    assert (refused.allowed, refused.remaining) == (False, 10)
    assert refused.retry_after == pytest.approx(0.1 * HOUR)
    clock.advance(refused.retry_after)
    assert limiter.check(policy, "k", 20)


def test_what_is_there_is_taken() -> None:
    limiter = Limiter("memory://", clock=ManualClock())
    policy = Policy("p", "100/h", algorithm="token_bucket", allow_partial=True)
    assert limiter.check(policy, "k", 80).cost == 80
    rest = limiter.check(policy, "k", 80)
    assert (rest.allowed, rest.cost, rest.remaining) == (True, 20, 0)
    assert not limiter.check(policy, "k", 80)


def test_a_request_pays_several_tokens() -> None:
    limiter = Limiter("memory://", clock=ManualClock())
    policy = Policy("p", "100/h", algorithm="token_bucket", tokens_per_request=30)
    assert [limiter.check(policy, "k").remaining for _ in range(3)] == [70, 40, 10]
    assert not limiter.check(policy, "k")
    assert limiter.refund(policy, "k").remaining == 40


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"algorithm": "gcra", "initial_tokens": 5}, "token_bucket"),
        ({"algorithm": "token_bucket", "initial_tokens": 101}, "begin with 101"),
        ({"algorithm": "token_bucket", "tokens_per_request": 0}, "at least 1"),
        ({"algorithm": "token_bucket", "refill_every": "2h"}, "refilled"),
        ({"algorithm": "gcraa"}, "use one of gcra"),
        ({"algorithm": "no.such.Thing"}, "cannot be imported"),
        ({"algorithm": object}, "no algorithm"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Policy("p", "100/h", **options)  # type: ignore[arg-type]


def test_a_prefix_is_reset_at_once() -> None:
    limiter = Limiter("memory://")
    policy = Policy("p", "1/h")
    for key in ("org:1:a", "org:1:b", "org:2:a"):
        assert limiter.check(policy, key)
    with pytest.raises(ConfigError, match="takes a key"):
        limiter.reset(policy)


class Trial(Algorithm):
    """So many permits for ever."""

    name = "trial"

    def decide(self, rate: Rate, state: bytes | None, now: int, cost: int) -> tuple[Verdict, bytes]:
        used = int.from_bytes(state or b"")
        allowed = used + cost <= rate.permits
        used += cost if allowed else 0
        return Verdict(allowed, rate.permits - used, retry_after=None), used.to_bytes(4)

    def adjust(self, rate: Rate, state: bytes | None, now: int, delta: int) -> bytes:
        used = int.from_bytes(state or b"") + delta
        return min(max(used, 0), rate.permits).to_bytes(4)


class Faulty(Algorithm):
    name = "faulty"

    def decide(self, rate: Rate, state: bytes | None, now: int, cost: int) -> tuple[Verdict, bytes]:
        raise ZeroDivisionError


def test_an_algorithm_of_ones_own() -> None:
    limiter = Limiter("memory://")
    for given in (Trial, Trial(), "trial", "tests.test_algorithms.Trial"):
        if isinstance(given, str) and "." in given:
            given = f"{Trial.__module__}.Trial"
        policy = Policy("trial", "3/365d", algorithm=given)
        assert policy.algorithm == "trial"
    assert [bool(limiter.check(policy, "k")) for _ in range(4)] == [True, True, True, False]
    assert limiter.check(policy, "k").reason == "cost_above_limit"
    assert limiter.refund(policy, "k", 2).remaining == 2
    with limiter.reserve(policy, "k", 2) as reserved:
        assert reserved.commit(1).remaining == 1
    limiter.reset(policy, "k")
    assert limiter.check(policy, "k").remaining == 2
    assert Policy("trial", "3/365d; 2/d", algorithm="trial") == Policy(
        "trial", "3/365d; 2/d", algorithm=Trial
    )


async def test_an_algorithm_of_ones_own_for_await() -> None:
    limiter = Limiter("memory://")
    policy = Policy("trial", "3/365d", algorithm=Trial)
    answers = await asyncio.gather(*(limiter.acheck(policy, "k") for _ in range(6)))
    assert sum(bool(answer) for answer in answers) == 3


def test_threads_share_an_algorithm_of_ones_own() -> None:
    limiter = Limiter("memory://")
    policy = Policy("trial", "500/365d", algorithm=Trial)
    passed: list[int] = []

    def work() -> None:
        passed.append(sum(bool(limiter.check(policy, "k")) for _ in range(200)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 500


def test_a_broken_algorithm_refuses_and_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: heard.append(args.exc_type))
    decision = Limiter("memory://").check(Policy("p", "3/h", algorithm=Faulty), "k")
    assert not decision
    assert heard == [ZeroDivisionError]


class Asking(Algorithm):
    """A law that asks elsewhere, which is none."""

    name = "asking"

    limiter: Limiter

    def decide(self, rate: Rate, state: bytes | None, now: int, cost: int) -> tuple[Verdict, bytes]:
        self.limiter.check(Policy("others", "9/h"), "k")
        return Verdict(True, 1), b""


def test_an_algorithm_that_asks_a_server_is_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: heard.append(str(args.exc_value)))
    with redis_server() as server:
        Asking.limiter = patient(server.url)
        policy = Policy("p", "3/h", algorithm=Asking)
        for url in (server.url, f"sqlite:///{tmp_path}/limits.db"):
            limiter = patient(url, near_cache=0)
            assert [limiter.check(policy, "k").allowed for _ in range(2)] == [False, False]
    assert len(heard) >= 4
    assert all("decide by the state alone" in error for error in heard)


def test_a_name_is_registered_once() -> None:
    Policy("p", "3/h", algorithm=Trial)

    class Other(Trial):
        """Another law of the same name."""

    with pytest.raises(ConfigError, match="exists already"):
        Policy("p", "3/h", algorithm=Other)


def test_what_cannot_be_adjusted_says_so() -> None:
    class Plain(Algorithm):
        name = "plain"

        def decide(
            self, rate: Rate, state: bytes | None, now: int, cost: int
        ) -> tuple[Verdict, bytes]:
            return Verdict(True, rate.permits), b""

    limiter = Limiter("memory://")
    policy = Policy("p", "3/h", algorithm=Plain)
    assert limiter.check(policy, "k")
    with pytest.raises(ConfigError, match="plain"):
        limiter.refund(policy, "k")


def test_the_clock_of_a_quota_is_utc_by_default() -> None:
    now = datetime.now(UTC)
    limiter = Limiter("memory://")
    decision = limiter.check(Policy("p", "3/year"), "k")
    ends = datetime(now.year + 1, 1, 1, tzinfo=UTC)
    assert decision.reset_after == pytest.approx((ends - now).total_seconds(), abs=60)
