"""Redis 6.2, Redis 8 and Valkey, beside the Redis 7 that everything else here runs on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.editions import EDITIONS, is_offered
from tests.faults.calling import limiter_of, recovered
from tests.servers import redis_cluster, redis_server, watched_servers
from tests.sharing import patient
from tests.waiting import wait
from tollway import Limiter, Policy

MANUAL = Path(__file__).parent.parent / "docs" / "redis.md"
VERSIONS = {"redis-6.2": "redis:6.2.5", "redis-8": "redis:8.2.3", "valkey": "valkey:9.1.2"}


@pytest.fixture(scope="module", params=EDITIONS)
def edition(request: pytest.FixtureRequest) -> str:
    """Each of them that there is for this Python and machine."""
    if not is_offered(request.param):
        pytest.skip(f"nothing has {request.param} for this Python and machine")
    return str(request.param)


@pytest.fixture(scope="module")
def limiter(edition: str) -> Iterator[Limiter]:
    with redis_server(edition=edition) as server:
        name, _, version = VERSIONS[edition].partition(":")
        assert f"{name}_version:{version}\r\n" in server.read("INFO", "server")
        assert version in MANUAL.read_text(), "the manual names what is tested"
        yield patient(server.url, near_cache=0)


@pytest.mark.parametrize(
    ("algorithm", "rate"),
    [
        *(("gcra", "3/h"), ("token_bucket", "3/h"), ("leaky_bucket", "3/h")),
        *(("fixed_window", "3/365d"), ("fixed_window:first", "3/h"), ("sliding_window", "3/365d")),
        *(("sliding_log", "3/h"), ("concurrency", "3/h"), ("calendar", "3/year UTC")),
    ],
)
def test_every_algorithm_counts(limiter: Limiter, algorithm: str, rate: str) -> None:
    policy = Policy(f"one-{algorithm.replace(':', '-')}", rate, algorithm=algorithm)
    assert [limiter.check(policy, "k").remaining for _ in range(3)] == [2, 1, 0]
    refused = limiter.check(policy, "k")
    assert not refused and refused.retry_after > 0
    assert limiter.refund(policy, "k", 2).remaining == 2
    limiter.reset(policy, "k")
    assert limiter.peek(policy, "k", 0).remaining == 3


def test_several_limits_pass_together_or_not_at_all(limiter: Limiter) -> None:
    wide, logged = Policy("wide", "5/h; 9/d"), Policy("logged", "2/h", algorithm="sliding_log")
    charges = [(wide, "org"), (logged, "user")]
    assert [limiter.check_all(charges).allowed for _ in range(3)] == [True, True, False]
    assert limiter.peek(wide, "org", 0).remaining == 3


def test_a_cost_is_settled_afterwards(limiter: Limiter) -> None:
    tokens = Policy("tokens", "1000/365d")
    with limiter.reserve(tokens, "k", cost=500) as reservation:
        assert reservation.commit(actual=137).remaining == 863
    assert limiter.reserve(tokens, "k", 800).commit(1_000).remaining == 0
    assert not limiter.check(tokens, "k")


def test_permits_are_held_and_come_back(limiter: Limiter) -> None:
    jobs = Policy("jobs", "2/30s", algorithm="concurrency")
    with limiter.hold(jobs, "k") as one, limiter.hold(jobs, "k") as two:
        assert one and two and not limiter.hold(jobs, "k")
    assert limiter.peek(jobs, "k", 0).remaining == 2


def test_keys_that_begin_alike_are_forgotten_together(limiter: Limiter) -> None:
    policy = Policy("alike", "3/h")
    for key in ("org:1:a", "org:1:b", "org:2"):
        limiter.check(policy, key, 3)
    limiter.reset(policy, prefix="org:1:")
    left = [limiter.peek(policy, key, 0).remaining for key in ("org:1:a", "org:1:b", "org:2")]
    assert left == [3, 3, 0]


def test_a_cluster_counts_keys_of_all_slots(edition: str) -> None:
    with redis_cluster(edition=edition) as nodes:
        limiter = patient(f"redis+cluster://127.0.0.1:{nodes[0].port}", near_cache=0)
        policy, users = Policy("p", "5/h"), Policy("users", "2/h")
        passed = [limiter.check(policy, f"user-{number % 20}").allowed for number in range(120)]
        assert passed == [True] * 100 + [False] * 20
        charges = [(policy, "org"), (users, "somebody")]
        assert [limiter.check_all(charges).allowed for _ in range(3)] == [True, True, False]
        limiter.reset(policy, prefix="")
        assert limiter.peek(policy, "user-7", 0).remaining == 5


def test_sentinels_replace_a_primary_that_dies(edition: str) -> None:
    policy = Policy("p", "10/365d")
    with watched_servers(edition) as watched:
        limiter = limiter_of(watched.url, "closed", connect_timeout=1, command_timeout=0.5)
        recovered(limiter, policy)
        assert limiter.check(policy, "k", 4).remaining == 6
        watched.wait_until_in_step()
        watched.primary.kill()
        wait("the replica takes over", lambda: watched.role(watched.replica) == "master")
        recovered(limiter, policy)
        assert limiter.check(policy, "k").remaining == 5
