"""A primary is replaced, by sentinels or in a cluster, while callers of every fail mode ask."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.faults.calling import MODES, Callers, Seen, ask, limiter_of, patient, recovered
from tests.servers import (
    RedisServer,
    Watched,
    redis_cluster,
    stand_still,
    watched_servers,
)
from tests.waiting import wait
from tollway import Breaker, Policy

LIMIT = 300
# What the limiters of these tests give up after: a server with much to do is slow and not away.
GIVE_UP: dict[str, Any] = {
    "connect_timeout": 1,
    "command_timeout": 0.5,
    "breaker": Breaker(max_pause=0.5),
}
# Of those whom nothing befalls: longer than a busy machine needs.
NEVER: dict[str, Any] = {"connect_timeout": 10, "command_timeout": 10}


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with watched_servers() as servers:
        yield servers


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[RedisServer]]:
    with redis_cluster(replicas=1) as nodes:
        yield nodes


def _policies(name: str) -> dict[str, Policy]:
    """One for each mode: each has a budget of its own, and nothing comes back meanwhile."""
    return {mode: Policy(f"{name}-{mode}", f"{LIMIT}/52w") for mode in MODES}


class Everybody:
    """Callers of each fail mode, all asking the same servers."""

    def __init__(
        self, url: str, name: str, key: str = "k", give_up: dict[str, Any] = GIVE_UP
    ) -> None:
        self.policies = _policies(name)
        self.limiters = {mode: limiter_of(url, mode, **give_up) for mode in MODES}
        for mode, limiter in self.limiters.items():
            recovered(limiter, self.policies[mode], key)
        self.callers = {
            mode: Callers(self.limiters[mode], self.policies[mode], pause=0.01, key=key)
            for mode in MODES
        }

    def wait_until_well(self) -> None:
        """Wait until each mode is answered by the backend again, and for a while."""
        for mode, callers in self.callers.items():
            wait(f"{mode} is answered again", partial(self._is_well, callers))

    @staticmethod
    def _is_well(callers: Callers) -> bool:
        before = callers.seen.degraded + callers.seen.errors
        callers.wait_for(20)
        return callers.seen.degraded + callers.seen.errors == before

    def stop(self) -> dict[str, Seen]:
        return {mode: callers.stop() for mode, callers in self.callers.items()}


def _is_refused(callers: Callers) -> bool:
    return callers.seen.refused > 20


def _judge(seen: dict[str, Seen], failovers: int) -> None:
    for mode, what in seen.items():
        print(mode, what)
        # A failover forgets what was not replicated: one limit more at most, and hardly any.
        assert what.admitted <= LIMIT * (1 + failovers), (mode, what)
        assert what.slowest < 10, (mode, what)
    assert seen["open"].errors == seen["local"].errors == 0
    assert seen["closed"].degraded == 0
    assert seen["local"].degraded_admitted <= LIMIT


def test_sentinels_swap_primary_and_replica(watched: Watched) -> None:
    everybody = Everybody(watched.url, "swap")
    everybody.callers["closed"].wait_for(20)
    watched.fail_over()
    everybody.wait_until_well()
    _judge(everybody.stop(), failovers=1)
    watched.primary, watched.replica = watched.replica, watched.primary
    watched.wait_until_in_step()


def test_a_primary_that_stops_is_replaced_by_sentinels(watched: Watched) -> None:
    everybody, spent = Everybody(watched.url, "stop"), 100
    exact = Policy("exact", f"{LIMIT}/52w")
    assert ask(patient(watched.url), exact, spent).admitted == spent
    watched.wait_until_in_step()
    watched.primary.freeze()
    try:
        wait("the replica takes over", lambda: watched.role(watched.replica) == "master")
        everybody.wait_until_well()
    finally:
        watched.primary.thaw()
    _judge(everybody.stop(), failovers=1)
    # What was replicated is not forgotten: to the permit.
    again = limiter_of(watched.url, "closed", **GIVE_UP)
    assert recovered(again, exact) < 30
    assert ask(again, exact, LIMIT).admitted == LIMIT - spent
    watched.primary, watched.replica = watched.replica, watched.primary


def test_a_sentinel_and_a_replica_that_stop_are_passed_over(watched: Watched) -> None:
    process, _ = watched.sentinels[0]
    stand_still(process.pid)
    watched.replica.freeze()
    try:
        # It is the first of the URL; each sentinel gets its share of the time to connect.
        limiter = limiter_of(watched.url, "closed", connect_timeout=4, command_timeout=4)
        seen = ask(limiter, Policy("sentinel", "5/52w"), 10)
    finally:
        watched.replica.thaw()
        process.send_signal(signal.SIGCONT)
    assert (seen.admitted, seen.refused, seen.errors) == (5, 5, 0)
    assert seen.slow == 0


def test_no_sentinel_is_needed_while_the_primary_lives(watched: Watched) -> None:
    limiter = limiter_of(watched.url, "closed", connect_timeout=4, command_timeout=10)
    plenty = Policy("plenty", "1000000/52w")
    recovered(limiter, plenty)
    for process, _ in watched.sentinels:
        stand_still(process.pid)
    try:
        # Longer than the second after which a limiter asks them again.
        seen = ask(limiter, plenty, 30, pause=0.05)
    finally:
        for process, _ in watched.sentinels:
            process.send_signal(signal.SIGCONT)
    assert (seen.admitted, seen.errors) == (30, 0), seen


def _url(nodes: list[RedisServer]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes[:3])


def _slot(nodes: list[RedisServer], key: str) -> int:
    return int(nodes[-1].ask("CLUSTER", "KEYSLOT", key)[1:])


def _owner(nodes: list[RedisServer], slot: int) -> RedisServer:
    """The node that says it is the primary of a slot."""

    def has(node: RedisServer) -> bool:
        lines = node.read("CLUSTER", "NODES").splitlines()
        mine = next(line for line in lines if "myself" in line).split()
        ranges = [part.partition("-") for part in mine[8:] if part[0] != "["]
        return "master" in mine[2] and any(
            int(first) <= slot <= int(last or first) for first, _, last in ranges
        )

    found: list[RedisServer] = []

    def look() -> bool:
        for node in nodes:
            if node.process.poll() is None and not node.frozen and has(node):
                found.append(node)
        return bool(found)

    wait(f"somebody has slot {slot}", look)
    return found[0]


def _key_elsewhere(nodes: list[RedisServer], owner: RedisServer) -> str:
    keys = (f"e{number}" for number in range(1000))
    return next(key for key in keys if _owner(nodes, _slot(nodes, key)) is not owner)


def test_a_slot_that_moves_is_followed_unseen(nodes: list[RedisServer]) -> None:
    everybody = Everybody(_url(nodes), "move", give_up=NEVER)
    slot = _slot(nodes, "k")
    source = _owner(nodes, slot)
    target = _owner(nodes, _slot(nodes, _key_elsewhere(nodes, source)))
    names = {node: node.read("CLUSTER", "MYID").strip() for node in (source, target)}
    everybody.callers["local"].wait_for(20)
    target.ask("CLUSTER", "SETSLOT", str(slot), "IMPORTING", names[source])
    source.ask("CLUSTER", "SETSLOT", str(slot), "MIGRATING", names[target])
    for policy in everybody.policies.values():
        key = f"tollway:{policy.name}:{{k}}"
        answer = source.ask("MIGRATE", "127.0.0.1", str(target.port), key, "0", "5000")
        assert answer == b"+OK"
        everybody.callers["closed"].wait_for(10)
    for node in (target, source):
        assert node.ask("CLUSTER", "SETSLOT", str(slot), "NODE", names[target]) == b"+OK"
    for callers in everybody.callers.values():
        wait("the limit is reached", partial(_is_refused, callers))
    for mode, seen in everybody.stop().items():
        assert (seen.errors, seen.degraded) == (0, 0), (mode, seen)
        assert seen.admitted == LIMIT, (mode, seen)


@pytest.mark.parametrize("how", ["stops", "dies"])
def test_a_primary_of_a_cluster_is_replaced(nodes: list[RedisServer], how: str) -> None:
    slot = _slot(nodes, "k" if how == "stops" else "z")
    key = "k" if how == "stops" else "z"
    primary = _owner(nodes, slot)
    everybody = Everybody(_url(nodes), how, key)
    exact, spent = Policy(f"exact-{how}", f"{LIMIT}/52w"), 100
    calm = patient(_url(nodes))
    assert sum(calm.check(exact, key).allowed for _ in range(spent)) == spent
    wait("it is replicated", lambda: primary.ask("WAIT", "1", "1000") == b":1")
    others = Callers(
        limiter_of(_url(nodes), "closed", **NEVER),
        Policy(f"others-{how}", "1000000/52w"),
        key=_key_elsewhere(nodes, primary),
        pause=0.01,
    )
    others.wait_for(20)
    batch = [(Policy(f"batch-{how}", "5/52w"), each) for each in (key, others.key)]
    local = everybody.limiters["local"]
    assert not any(decision.degraded for decision in local.check_many(batch))
    (primary.freeze if how == "stops" else primary.kill)()
    try:
        assert all(decision.degraded for decision in local.check_many(batch))
        wait("its replica takes over", lambda: _owner(nodes, slot) is not primary)
        everybody.wait_until_well()
    finally:
        primary.thaw() if how == "stops" else primary.restart()
    _judge(everybody.stop(), failovers=1)
    elsewhere = others.stop()
    assert (elsewhere.errors, elsewhere.refused) == (0, 0), "the other slots go on"
    again = limiter_of(_url(nodes), "closed", **GIVE_UP)
    recovered(again, exact, key)
    assert sum(again.check(exact, key).allowed for _ in range(LIMIT)) == LIMIT - spent
