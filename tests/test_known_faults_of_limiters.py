"""Faults that limiters are known for, one test each: Tollway has none of them.

Those that need a server to fail are in `tests/faults`, and the laws in `test_laws.py`.
"""

from __future__ import annotations

import os
import re
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers import RedisServer, redis_server
from tollway import ConfigError, Limiter, Policy, Rate
from tollway.testing import ManualClock

START = 1_699_999_200.0


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def remote(server: RedisServer) -> Limiter:
    server.ask("FLUSHALL")
    return patient(server)


@pytest.fixture(params=["memory", "redis"])
def either(request: pytest.FixtureRequest) -> Limiter:
    made: Limiter = request.getfixturevalue("limiter" if request.param == "memory" else "remote")
    return made


def patient(server: RedisServer) -> Limiter:
    return Limiter(
        server.url, fail_mode="closed", near_cache=0, connect_timeout=10, command_timeout=10
    )


def commands(server: RedisServer) -> dict[str, int]:
    """How often the server was asked each command by clients, calls of scripts included."""
    text = server.read("INFO", "commandstats")
    found = re.findall(r"cmdstat_([^:]+):calls=(\d+)", text)
    return {name: int(calls) for name, calls in found}


# What a refusal costs.


def test_refused_requests_lock_a_client_out(either: Limiter) -> None:
    policy = Policy("p", "5/52w")
    assert sum(either.check(policy, "k").allowed for _ in range(500)) == 5
    # A refund frees what was spent: the hundreds of refusals were not counted.
    either.refund(policy, "k", 1)
    assert either.check(policy, "k")


def test_refused_requests_make_the_state_grow(server: RedisServer, remote: Limiter) -> None:
    policy = Policy("p", ["100/52w", "50/26w"], algorithm="sliding_window")
    for _ in range(2_000):
        remote.check(policy, "k")
    assert len(server.read("GET", "tollway:p:{k}")) < 200
    assert server.ask("DBSIZE") == b":1", "one key, and no index of keys beside it"


def test_a_refused_large_cost_is_counted_all_the_same(either: Limiter) -> None:
    for algorithm in ("token_bucket", "sliding_window"):
        policy = Policy(algorithm, "10/52w", algorithm=algorithm)
        assert either.check(policy, "k", 9)
        assert not either.check(policy, "k", 50)
        assert not either.check(policy, "k", 2)
        assert either.check(policy, "k"), "the tenth was never spent"


def test_a_refusal_makes_the_key_live_longer(server: RedisServer, remote: Limiter) -> None:
    policy = Policy("p", "2/52w", algorithm="fixed_window:first")
    for _ in range(2):
        assert remote.check(policy, "k")
    due = server.ask("PEXPIRETIME", "tollway:p:{k}")
    assert int(due[1:]) > 0, "and it does expire"
    for _ in range(20):
        assert not remote.check(policy, "k")
    assert server.ask("PEXPIRETIME", "tollway:p:{k}") == due


def test_the_time_of_a_check_grows_with_the_hits(limiter: Limiter) -> None:
    policy = Policy("p", "1000000/52w", algorithm="sliding_window")

    def cost() -> float:
        rounds = []
        for _ in range(9):
            started = time.perf_counter()
            for _ in range(500):
                limiter.check(policy, "k")
            rounds.append(time.perf_counter() - started)
        return statistics.median(rounds)

    few = cost()
    limiter.check(policy, "k", 100_000)
    for _ in range(100_000):
        limiter.check(policy, "k")
    assert cost() < 10 * few, "a log of 17 000 hits made another limiter 54 times as slow"


def test_the_time_of_a_check_grows_with_the_keys(clock: ManualClock) -> None:
    policy = Policy("p", "5/h", algorithm="token_bucket")

    def cost(name: str, limiter: Limiter, keys: int) -> float:
        started = time.perf_counter()
        for number in range(keys):
            limiter.check(policy, f"{name}-{number}")
        return (time.perf_counter() - started) / keys

    room = min(cost("a", Limiter("memory://", max_keys=50_000), 5_000) for _ in range(3))
    small = Limiter("memory://", max_keys=5_000)
    cost("full", small, 5_000)
    assert min(cost(name, small, 10_000) for name in "bcd") < 20 * room, "full, it scans nothing"


# Several limits at once.


def test_the_looser_of_two_limits_is_charged_when_the_tighter_refuses(either: Limiter) -> None:
    policy = Policy("p", ["100/52w", "3/26w"])
    assert sum(either.check(policy, "k").allowed for _ in range(50)) == 3
    wide, tight = Policy("wide", "100/52w"), Policy("tight", "3/26w")
    for _ in range(50):
        either.check_all([(wide, "k"), (tight, "k")])
    assert either.peek(wide, "k", 0).remaining == 97


def test_the_stricter_of_two_limits_is_not_enforced(either: Limiter) -> None:
    for rates in (["100/52w", "3/26w"], ["3/26w", "100/52w"]):
        policy = Policy("-".join(rates).replace("/", "-"), rates)
        assert sum(either.check(policy, "k").allowed for _ in range(20)) == 3


def test_the_shortest_wait_is_told_and_not_the_longest(limiter: Limiter) -> None:
    policy = Policy("p", ["2/10s", "2/h"], algorithm="fixed_window:first")
    for _ in range(2):
        limiter.check(policy, "k")
    assert limiter.check(policy, "k").retry_after == 3600


def test_two_policies_of_one_rate_share_a_bucket(either: Limiter) -> None:
    one, other = Policy("one", "3/52w"), Policy("other", "3/52w")
    assert sum(either.check(one, "k").allowed for _ in range(5)) == 3
    assert sum(either.check(other, "k").allowed for _ in range(5)) == 3


def test_all_clients_share_one_bucket(either: Limiter) -> None:
    policy = Policy("p", "5/52w")
    passed = [
        sum(either.check(policy, f"client-{number}").allowed for _ in range(7))
        for number in range(50)
    ]
    assert passed == [5] * 50


def test_strange_identities_meet(either: Limiter) -> None:
    policy = Policy("p", "1/52w")
    strange = ["", "a", "a:b", "a:b:c", "{a}", "{", "}", "a b", "a%20b", "ä", "a\n", "\x00", "A"]
    strange += ["x" * 10_000, "x" * 10_001, "2001:db8::5", "2001:db8:", "*", "a/b", "'"]
    assert all(either.check(policy, key) for key in strange)
    assert not any(either.check(policy, key) for key in strange)


# Numbers.


@pytest.mark.parametrize("algorithm", ["gcra", "token_bucket", "leaky_bucket"])
def test_a_limit_without_a_burst_admits_one(limiter: Limiter, algorithm: str) -> None:
    policy = Policy("p", Rate(100, "1m"), algorithm=algorithm)
    assert sum(limiter.check(policy, "k").allowed for _ in range(200)) == 100


def test_a_rate_of_one_is_unlimited_for_those_who_are_quick(
    limiter: Limiter, clock: ManualClock
) -> None:
    policy, passed = Policy("p", "1/s"), 0
    for _ in range(100_000):
        passed += limiter.check(policy, "k").allowed
        clock.advance(1e-6)
    assert passed == 1, "a tenth of a second passed"


@pytest.mark.parametrize("capacity", [5, 10, 50])
def test_who_pauses_gets_nearly_twice_the_burst(
    limiter: Limiter, clock: ManualClock, capacity: int
) -> None:
    policy = Policy("p", f"1/s burst {capacity - 1}")
    assert sum(limiter.check(policy, "k").allowed for _ in range(99)) == capacity
    clock.advance(2 * (capacity - 1))
    assert sum(limiter.check(policy, "k").allowed for _ in range(99)) == capacity


def test_a_fast_rate_rounds_up_to_a_faster_one(limiter: Limiter, clock: ManualClock) -> None:
    policy = Policy("p", Rate(600_000_000, "1s"))
    assert limiter.check(policy, "k", 600_000_000)
    clock.advance(0.5)
    assert limiter.check(policy, "k", 300_000_000)
    assert not limiter.check(policy, "k")


def test_a_window_below_a_second_never_ends(limiter: Limiter, clock: ManualClock) -> None:
    for algorithm in ("fixed_window", "fixed_window:first", "sliding_window", "gcra"):
        policy = Policy(algorithm.replace(":", "-"), "2/250ms", algorithm=algorithm)
        for _ in range(4):
            assert sum(limiter.check(policy, "k").allowed for _ in range(9)) == 2
            clock.advance(0.5)


def test_whole_seconds_and_whole_tokens_lose_some(limiter: Limiter, clock: ManualClock) -> None:
    policy, passed = Policy("p", "5/3s", algorithm="token_bucket"), 0
    for _ in range(600):
        passed += limiter.check(policy, "k").allowed
        clock.advance(0.02)
    assert passed == 5 + 19, "five at first, and one each 0.6 s in the 11.98 s after them"


def test_parts_of_a_token_never_become_one(limiter: Limiter, clock: ManualClock) -> None:
    policy = Policy("p", "1/7s", algorithm="token_bucket")
    assert limiter.check(policy, "k")
    for _ in range(7 * 40 - 1):
        clock.advance(0.025)
        assert not limiter.check(policy, "k")
    clock.advance(0.025)
    assert limiter.check(policy, "k")


def test_a_sliding_window_lets_twice_the_limit_pass_at_its_edge(
    limiter: Limiter, clock: ManualClock
) -> None:
    policy = Policy("p", "10/2s", algorithm="sliding_window")
    clock.advance(1.99)
    assert sum(limiter.check(policy, "k").allowed for _ in range(99)) == 10
    clock.advance(0.01)
    assert sum(limiter.check(policy, "k").allowed for _ in range(99)) == 0
    clock.advance(0.2)
    assert sum(limiter.check(policy, "k").allowed for _ in range(99)) == 1, "a tenth out of sight"


def test_the_busiest_span_of_a_log_holds_more_than_the_limit(
    limiter: Limiter, clock: ManualClock
) -> None:
    policy, passed = Policy("p", "10/2s", algorithm="sliding_log"), []
    clock.advance(1.5)
    for step in range(800):
        if limiter.check(policy, "k"):
            passed.append(step)
        clock.advance(0.01)
    assert max(sum(first <= at < first + 200 for at in passed) for first in passed) == 10
    assert len(passed) == 40


def test_a_cost_above_the_limit_is_promised_a_time(either: Limiter) -> None:
    refused = either.check(Policy("p", "5/52w"), "k", 6)
    assert (refused.reason, refused.retry_after) == ("cost_above_limit", float("inf"))


def test_a_rate_of_nothing_becomes_another_algorithm() -> None:
    for rates in ("0/s", "5/0s"):
        with pytest.raises(ConfigError):
            Policy("p", rates, algorithm="token_bucket")


# What a client is told.


def test_retry_after_is_rounded_down_and_so_too_early(limiter: Limiter, clock: ManualClock) -> None:
    policy = Policy("p", "1/2s", algorithm="fixed_window:first")
    limiter.check(policy, "k")
    for wait, told in ((0.001, 2), (0.999, 1), (0.401, 1)):
        clock.advance(wait)
        assert limiter.check(policy, "k").retry_after_seconds == told


@pytest.mark.parametrize("algorithm", ["fixed_window", "fixed_window:first", "sliding_log"])
def test_the_whole_period_is_told_and_not_what_is_left_of_it(
    limiter: Limiter, clock: ManualClock, algorithm: str
) -> None:
    policy = Policy("p", "1/m", algorithm=algorithm)
    assert limiter.check(policy, "k")
    clock.advance(48)
    assert limiter.check(policy, "k").retry_after == 12


def test_the_period_is_told_for_a_bucket(limiter: Limiter) -> None:
    policy = Policy("p", "5/m", algorithm="token_bucket")
    for _ in range(5):
        limiter.check(policy, "k")
    assert limiter.check(policy, "k").retry_after == 12


def test_nothing_is_said_to_remain_when_much_does(limiter: Limiter) -> None:
    decision = limiter.check(Policy("p", Rate(100, "1m")), "k")
    assert (decision.limit, decision.remaining) == (100, 99)


# Many at once.


def test_threads_race_past_the_limit() -> None:
    policy = Policy("p", "10/52w")
    with ThreadPoolExecutor(4) as pool:
        for _ in range(100):
            limiter = Limiter()
            gate = threading.Barrier(4)

            def hammer(limiter: Limiter = limiter, gate: threading.Barrier = gate) -> int:
                gate.wait(30)
                return sum(limiter.check(policy, "k").allowed for _ in range(20))

            assert sum(pool.map(lambda task: task(), [hammer] * 4)) == 10


def test_who_comes_at_once_is_refused_though_there_is_room() -> None:
    limiter, policy = Limiter(), Policy("p", "1000000/52w")
    with ThreadPoolExecutor(16) as pool:
        task = [lambda: sum(limiter.check(policy, "k").allowed for _ in range(2_000))] * 16
        assert sum(pool.map(lambda each: each(), task)) == 32_000


def test_one_who_waits_holds_up_the_others() -> None:
    limiter, slow, quick = Limiter(), Policy("slow", "1/2s"), Policy("quick", "1000/52w")
    assert limiter.check(slow, "k")
    waiting = threading.Thread(target=lambda: limiter.acquire(slow, "k", timeout=30))
    waiting.start()
    passed = 0
    while waiting.is_alive() and passed < 500:
        assert limiter.check(quick, "k")
        passed += 1
    assert passed == 500, "all of them while the other waited"
    waiting.join(30)


def test_each_bucket_brings_a_thread() -> None:
    limiter, policy = Limiter(), Policy("p", "5/h")

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    before = threads()
    for number in range(20_000):
        limiter.check(policy, f"k{number}")
    others = [Limiter() for _ in range(200)]
    for other in others:
        other.check(policy, "k")
    # What other tests left behind may come and go.
    assert threads() <= before + 8


# The way to the server.


def test_a_cost_is_as_many_round_trips(server: RedisServer, remote: Limiter) -> None:
    policy = Policy("p", ["1000/52w", "500/26w", "400/13w"])
    remote.check(policy, "k")
    server.ask("CONFIG", "RESETSTAT")
    remote.check(policy, "k", 10)
    asked = commands(server)
    assert asked.get("evalsha") == 1
    assert asked.get("eval") is None, "the script itself is not sent again"
    assert set(asked) <= {"evalsha", "get", "set", "time", "config|resetstat", "info"}
    assert (asked["get"], asked["set"], asked["time"]) == (1, 1, 1)
    server.ask("CONFIG", "RESETSTAT")
    remote.check_many([(policy, f"k{number}") for number in range(50)])
    assert commands(server).get("evalsha") == 1


@pytest.mark.parametrize(
    ("algorithm", "code"),
    [
        ("fixed_window", "w"),
        ("fixed_window:first", "f"),
        ("sliding_window", "s"),
        ("token_bucket", "b"),
        ("leaky_bucket", "b"),
    ],
)
def test_another_algorithm_than_the_chosen_one_is_used(
    server: RedisServer, remote: Limiter, algorithm: str, code: str
) -> None:
    remote.check(Policy("p", "5/52w", algorithm=algorithm), "k")
    assert server.read("GET", "tollway:p:{k}").split()[1].startswith(f"{code}5/")


def test_a_key_is_left_that_never_expires(server: RedisServer, remote: Limiter) -> None:
    for algorithm in ("gcra", "fixed_window", "fixed_window:first", "sliding_window"):
        policy = Policy(algorithm.replace(":", "-"), ["3/m", "9/52w"], algorithm=algorithm)
        for _ in range(5):
            remote.check(policy, "k")
        remote.refund(policy, "k")
        key = f"tollway:{policy.name}:{{k}}"
        assert int(server.ask("PTTL", key)[1:]) > 0, algorithm


def test_a_short_limit_is_stored_for_no_time_at_all(remote: Limiter) -> None:
    for algorithm in ("gcra", "fixed_window", "sliding_window"):
        policy = Policy(algorithm, "1/1ms", algorithm=algorithm)
        started = time.perf_counter()
        passed = sum(remote.check(policy, "k").allowed for _ in range(300))
        took = time.perf_counter() - started
        assert passed <= 2 + took * 1_000, algorithm


def test_several_backends_multiply_the_limit(server: RedisServer) -> None:
    server.ask("FLUSHALL")
    policy = Policy("p", "10/52w")
    with redis_server() as second:
        for strategy in ("round_robin", "first_healthy", "priority"):
            for each in (server, second):
                each.ask("FLUSHALL")
            limiter = Limiter(
                [server.url, second.url],
                fail_mode="closed",
                strategy=strategy,
                near_cache=0,
                connect_timeout=10,
                command_timeout=10,
            )
            for key in ("a", "b", "c", "d"):
                passed = sum(limiter.check(policy, key).allowed for _ in range(30))
                assert passed == 10, (strategy, key)


def test_the_last_permit_is_given_to_two_who_looked_first(either: Limiter) -> None:
    policy = Policy("p", "1/52w")
    assert either.peek(policy, "k")
    assert either.peek(policy, "k")
    assert [either.check(policy, "k").allowed for _ in range(2)] == [True, False]
