"""The laws of a limit, as the users of the Python face can check them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.servers import RedisServer, redis_server
from tollway import Limiter, Policy
from tollway.testing import ManualClock

ALGORITHMS = (
    "gcra",
    "token_bucket",
    "leaky_bucket",
    "leaky_bucket:queue",
    "fixed_window",
    "fixed_window:first",
    "sliding_window",
)
# Those that not every backend keeps.
IN_MEMORY = (*ALGORITHMS, "sliding_log")
BUCKETS = ("gcra", "token_bucket", "leaky_bucket", "leaky_bucket:queue")
# A multiple of every period used here, so that windows begin at it.
START = 1_699_999_200.0
in_memory = pytest.mark.parametrize("algorithm", IN_MEMORY)
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def on(clock: ManualClock) -> Limiter:
    return Limiter("memory://", clock=clock)


def over(server: RedisServer) -> Limiter:
    server.ask("FLUSHALL")
    return Limiter(
        server.url, fail_mode="closed", near_cache=0, connect_timeout=10, command_timeout=10
    )


def stored(server: RedisServer, policy: str, key: str) -> tuple[str, bytes]:
    """What Redis holds for a key: its value, and the instant at which it expires."""
    name = f"tollway:{policy}:{{{key}}}"
    return server.read("GET", name), server.ask("PEXPIRETIME", name)


@every_algorithm
def test_a_refusal_changes_nothing(server: RedisServer, algorithm: str) -> None:
    limiter = over(server)
    policy = Policy("p", ["10/52w", "3/26w"], algorithm=algorithm)
    assert [limiter.check(policy, "k").allowed for _ in range(4)] == [True] * 3 + [False]
    before = stored(server, "p", "k")
    assert not any(limiter.check(policy, "k") for _ in range(20))
    assert not limiter.check(policy, "k", 7)
    assert not limiter.check(policy, "k", 1_000)
    assert not limiter.peek(policy, "k")
    assert stored(server, "p", "k") == before, "neither the value nor when it expires"


@every_algorithm
def test_several_limits_and_keys_pass_together_or_not_at_all(
    server: RedisServer, algorithm: str
) -> None:
    limiter = over(server)
    wide = Policy("wide", ["100/52w", "90/26w"], algorithm=algorithm)
    tight = Policy("tight", "3/52w", algorithm=algorithm)
    charges = [(wide, "org", 2), (wide, "user", 1), (tight, "user", 1)]
    passed = [limiter.check_all(charges).allowed for _ in range(50)]
    assert passed == [True] * 3 + [False] * 47
    assert limiter.peek(wide, "org", 0).remaining == 90 - 6
    assert limiter.peek(wide, "user", 0).remaining == 90 - 3
    before = [stored(server, "wide", "org"), stored(server, "wide", "user")]
    refused = limiter.check_all(charges)
    assert (refused.policy, refused.limit) == ("tight", 3)
    assert [stored(server, "wide", "org"), stored(server, "wide", "user")] == before


@settings(max_examples=150, deadline=None)
@given(
    algorithm=st.sampled_from(IN_MEMORY),
    permits=st.integers(1, 1_000),
    period=st.sampled_from(["10ms", "1s", "7s", "1m", "1h"]),
    traffic=st.lists(
        st.tuples(st.floats(0, 5), st.integers(1, 20)),
        max_size=30,
    ),
)
def test_retry_after_is_the_first_instant_that_passes(
    algorithm: str, permits: int, period: str, traffic: list[tuple[float, int]]
) -> None:
    clocks = [ManualClock(START), ManualClock(START)]
    # Two limiters that saw the same: one is asked too early, the other when it is time.
    early, due = (on(clock) for clock in clocks)
    policy = Policy("p", f"{permits}/{period}", algorithm=algorithm)
    unit = (policy.rates[0].period or 1.0) / permits
    for wait, cost in traffic:
        for clock in clocks:
            clock.advance(wait * unit)
        cost = min(cost, permits)
        answers = [limiter.check(policy, "k", cost) for limiter in (early, due)]
        assert answers[0].allowed == answers[1].allowed
        if not answers[0]:
            nanoseconds = answers[0].retry_after_ns
            assert nanoseconds > 0
            # The clocks of tests tick in microseconds.
            before, then = (nanoseconds - 1) // 1_000, -(-nanoseconds // 1_000)
            clocks[0].advance(before / 1e6)
            assert not early.peek(policy, "k", cost), "earlier than it was promised"
            clocks[0].advance((then - before) / 1e6)
            clocks[1].advance(then / 1e6)
            assert due.peek(policy, "k", cost), "later than it was promised"


PLAIN = [("7/s", 0), ("3/10ms", 0), ("1000/1s", 0)]
WITH_BURST = [("11/13ms burst 4", 4), ("1/7s burst 2", 2)]


@pytest.mark.parametrize(
    ("algorithm", "rate", "burst"),
    [
        *(("gcra", *rate) for rate in PLAIN + WITH_BURST),
        *(("token_bucket", *rate) for rate in PLAIN + WITH_BURST),
        *(("fixed_window", *rate) for rate in PLAIN),
    ],
)
def test_periods_admit_exactly_their_rate_and_the_burst_once(
    algorithm: str, rate: str, burst: int
) -> None:
    clock = ManualClock(START)
    limiter, policy = on(clock), Policy("p", rate, algorithm=algorithm)
    permits, period = policy.rates[0].permits, policy.rates[0].period
    assert period is not None
    steps, periods, passed = 3 * permits + 1, 40, 0
    if algorithm == "fixed_window":
        # The windows of a clock begin at multiples of the period.
        clock.advance(-START % period)
    ticks = round(period * 1e6)
    for step in range(periods * steps):
        passed += limiter.check(policy, "k").allowed
        passed += limiter.check(policy, "k").allowed if step == 0 else 0
        moved = ticks * (step + 1) // steps - ticks * step // steps
        clock.advance(moved / 1e6)
    whole = periods * permits
    if algorithm == "fixed_window":
        assert passed == whole
    else:
        # What is left at the end was not spent, and belongs to the count.
        assert passed + limiter.peek(policy, "k", 0).remaining == whole + permits + burst


@pytest.mark.parametrize("per", ["1ms", "1s", "1d", "52w"])
@pytest.mark.parametrize("permits", [1, 2_000, 600_000_000, 1_000_000_000])
@every_algorithm
def test_no_rate_rounds_to_nothing_or_to_everything(
    server: RedisServer, algorithm: str, permits: int, per: str
) -> None:
    policy = Policy("p", f"{permits}/{per}", algorithm=algorithm)
    clock = ManualClock(START)
    limiter = on(clock)
    assert limiter.check(policy, "k", permits)
    refused = limiter.check(policy, "k")
    assert not refused
    assert refused.retry_after_ns > 0
    clock.advance(refused.reset_after + 1e-6)
    assert limiter.check(policy, "k", permits), "all of it comes back"
    if per == "52w":
        remote = over(server)
        assert remote.check(policy, "k", permits)
        assert remote.check(policy, "k", permits).allowed is False


@in_memory
def test_a_client_that_keeps_knocking_gets_its_fair_rate(algorithm: str) -> None:
    clock = ManualClock(START)
    limiter, policy = on(clock), Policy("p", "5/3s", algorithm=algorithm)
    passed = 0
    # At three times its rate, for 12 seconds: four periods of five.
    for _ in range(60):
        passed += limiter.check(policy, "k").allowed
        clock.advance(0.2)
    least, most = (24, 25) if algorithm in BUCKETS else (17, 20)
    assert least <= passed <= most


@in_memory
def test_a_spray_of_keys_frees_nobody_who_is_refused(algorithm: str) -> None:
    clock = ManualClock(START)
    keys = 1_000
    limiter = Limiter("memory://", max_keys=keys, clock=clock)
    policy = Policy("p", "5/h", algorithm=algorithm)
    assert sum(limiter.check(policy, "attacker").allowed for _ in range(10)) == 5
    for number in range(2 * keys):
        limiter.check(policy, f"junk-{number}")
    assert not limiter.check(policy, "attacker")
    for number in range(2 * keys):
        limiter.check(policy, f"more-{number}")
        if number % 100 == 0:
            assert not limiter.check(policy, "attacker")
