"""The Python face over Redis with TLS and over a Cluster."""

from __future__ import annotations

import asyncio

import pytest

from tests.servers import free_port, redis_cluster, redis_server, redis_tls_server
from tests.test_algorithms import Trial
from tollway import ConfigError, Limiter, Policy, StoreError, StoreUnavailable


def test_redis_keeps_what_memory_keeps() -> None:
    with redis_server() as server:
        for url in ("memory://", f"redis://127.0.0.1:{server.port}"):
            limiter = Limiter(url, fail_mode="closed", connect_timeout=10, command_timeout=10)
            trial = Policy("trial", "3/365d", algorithm=Trial)
            for key in ("org:1:a", "org:1:b", "org:2", "x" * 200):
                passed = [bool(limiter.check(trial, key)) for _ in range(4)]
                assert passed == [True, True, True, False]
            limiter.reset(trial, prefix="org:1:")
            left = [
                limiter.peek(trial, key, 0).remaining for key in ("org:1:a", "org:1:b", "org:2")
            ]
            assert left == [3, 3, 0]
            limiter.reset(trial, prefix="")
            assert limiter.peek(trial, "x" * 200, 0).remaining == 3

            jobs = Policy("jobs", "2/30s", algorithm="concurrency")
            with limiter.hold(jobs, "k") as one, limiter.hold(jobs, "k") as two:
                assert one and two and not limiter.hold(jobs, "k")
            assert limiter.peek(jobs, "k", 0).remaining == 2


def test_tls_counts_and_tells_who_is_not_trusted() -> None:
    policy = Policy("p", "3/h")
    with redis_tls_server() as (server, url, authority):
        rules = ("~tollway:*", "+evalsha", "+script|load", "+get", "+set", "+del", "+time", "+ping")
        assert server.ask("ACL", "SETUSER", "rl", "on", ">hunter2", *rules) == b"+OK"
        named = url.replace("://", "://rl:hunter2@") + f"?ca={authority}"
        limiter = Limiter(named, fail_mode="closed", connect_timeout=10, command_timeout=10)
        assert [limiter.check(policy, "k").allowed for _ in range(4)] == [True] * 3 + [False]
        assert "hunter2" not in limiter.url
        stranger = Limiter(url, fail_mode="closed", connect_timeout=10, command_timeout=10)
        with pytest.raises(StoreError, match="nobody trusted here signed"):
            stranger.ping()
        # Without an answer of the store the local limit stands in.
        assert Limiter(url).check(policy, "k").degraded


def test_a_file_that_is_absent_is_named_when_the_limiter_is_made() -> None:
    with pytest.raises(ConfigError, match=r"/nowhere/ca\.pem"):
        Limiter("rediss://127.0.0.1?ca=/nowhere/ca.pem")


def test_a_cluster_counts_keys_of_all_slots() -> None:
    with redis_cluster() as nodes:
        url = f"redis+cluster://127.0.0.1:{nodes[0].port}"
        limiter = Limiter(url, fail_mode="closed", connect_timeout=10, command_timeout=10)
        limiter.ping()
        policy, users = Policy("p", "5/h"), Policy("users", "2/h")

        async def all_at_once() -> list[bool]:
            keys = [f"user-{number % 40}" for number in range(400)]
            decisions = await asyncio.gather(*(limiter.acheck(policy, key) for key in keys))
            return [decision.allowed for decision in decisions]

        assert sum(asyncio.run(all_at_once())) == 200
        # Two identities, two slots: both or neither.
        charges = [(policy, "org"), (users, "somebody")]
        assert [limiter.check_all(charges).allowed for _ in range(4)] == [True, True, False, False]
        assert limiter.peek(policy, "org", 0).remaining == 3
        limiter.reset(users, "somebody")
        assert limiter.check_all(charges)


def test_sentinels_that_are_away_are_named() -> None:
    url = f"redis+sentinel://127.0.0.1:{free_port()}/orders"
    limiter = Limiter(url, fail_mode="closed")
    with pytest.raises(StoreUnavailable, match="no sentinel names the primary of"):
        limiter.ping()
