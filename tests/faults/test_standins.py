"""Two servers stand in for each other: one fails, comes back, and may have forgotten everything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.calling import Callers, limiter_of, recovered
from tests.servers import RedisServer, redis_server
from tests.waiting import wait
from tollway import Limiter, Policy

LIMIT = 100
POLICY = Policy("p", f"{LIMIT}/52w")


@pytest.fixture
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    with redis_server() as first, redis_server() as second:
        yield first, second


def _holder(pair: tuple[RedisServer, RedisServer]) -> RedisServer:
    """The one that counts the key now, when only one does."""
    (found,) = [server for server in pair if server.ask("EXISTS", "tollway:p:{k}") == b":1"]
    return found


def _both(limiter: Limiter) -> bool:
    return all(backend.up for backend in limiter.health().backends)


@pytest.mark.parametrize("strategy", ["first_healthy", "priority", "round_robin"])
@pytest.mark.parametrize("how", ["stops", "dies"])
def test_the_one_in_use_fails(
    pair: tuple[RedisServer, RedisServer], strategy: str, how: str
) -> None:
    urls = [server.url for server in pair]
    limiter = limiter_of(urls, "closed", strategy=strategy, command_timeout=0.3)
    limiter.check(POLICY, "k")
    holder = _holder(pair)
    callers = Callers(limiter, POLICY, threads=4)
    callers.wait_for(20)
    (holder.freeze if how == "stops" else holder.kill)()
    callers.wait_for(200)
    (holder.thaw if how == "stops" else holder.restart)()
    wait("both answer", lambda: _both(limiter))
    callers.wait_for(400)
    seen = callers.stop()
    # Nobody sees an error: whoever waited for the one is answered by the other.
    assert (seen.errors, seen.degraded) == (0, 0), seen
    # The limit at each; the one that died forgot what it had counted.
    budgets = 2 if how == "stops" else 3
    assert LIMIT < seen.admitted <= budgets * LIMIT, seen
    assert seen.slowest < 10
    # All is well again, and nothing is left at the one that is asked.
    assert not limiter.check(POLICY, "k")


@pytest.mark.parametrize("mode", ["open", "closed", "local"])
def test_both_fail(pair: tuple[RedisServer, RedisServer], mode: str) -> None:
    limiter = limiter_of([server.url for server in pair], mode)
    limiter.check(POLICY, "k")
    for server in pair:
        server.kill()
    callers = Callers(limiter, POLICY, threads=4)
    callers.wait_for(300)
    seen = callers.stop()
    assert seen.counted == 0
    if mode == "closed":
        assert (seen.errors, seen.degraded) == (seen.calls, 0)
    elif mode == "open":
        assert seen.degraded_admitted == seen.calls
    else:
        assert seen.degraded_admitted == LIMIT
    pair[1].restart()
    recovered(limiter, POLICY)
