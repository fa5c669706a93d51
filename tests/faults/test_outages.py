"""One server goes away and comes back, in each way there is and each fail mode."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.faults.calling import MODES, TIME_OUT, Seen, ask, limiter_of, patient, recovered
from tests.faults.conftest import Place
from tests.faults.proxy import port_that_swallows
from tests.servers import free_port
from tollway import Policy, StoreUnavailable

# Nothing comes back of itself while a test runs.
LIMIT = 20
POLICY = Policy("p", f"{LIMIT}/52w")
BEFORE = 8
CALLS = 150


@dataclass(frozen=True)
class Outage:
    """What befalls a server, how it ends, and whether it has forgotten the count then."""

    name: str
    begin: Callable[[Place], None]
    end: Callable[[Place], None]
    forgets: bool = False


def _leave_no_memory(at: Place) -> None:
    at.server.ask("CONFIG", "SET", "maxmemory", "1")


def _leave_memory(at: Place) -> None:
    at.server.ask("CONFIG", "SET", "maxmemory", "0")


def _make_a_replica(at: Place) -> None:
    at.server.ask("REPLICAOF", "127.0.0.1", str(free_port()))


def _make_a_primary(at: Place) -> None:
    at.server.ask("REPLICAOF", "NO", "ONE")


OUTAGES = [
    Outage("killed", lambda at: at.server.kill(), lambda at: at.server.restart(), forgets=True),
    Outage("stopped", lambda at: at.server.freeze(), lambda at: at.server.thaw()),
    Outage("black hole", lambda at: at.between.black_hole(), lambda at: at.between.heal()),
    Outage("slow", lambda at: at.between.slow(0.3), lambda at: at.between.heal()),
    Outage("out of memory", _leave_no_memory, _leave_memory),
    Outage("made a replica", _make_a_replica, _make_a_primary),
]


def _as_the_mode_says(during: Seen, mode: str, calls: int) -> None:
    assert (during.calls, during.counted) == (calls, 0), during
    if mode == "open":
        assert during.degraded_admitted == calls, during
    elif mode == "closed":
        assert during.errors == calls, during
    else:
        assert 1 <= during.degraded_admitted <= LIMIT, during
        assert during.degraded == calls, during


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.name)
def test_an_outage(place: Place, outage: Outage, mode: str) -> None:
    exact, limiter = patient(place.server.url), limiter_of(place.between.url, mode)
    recovered(limiter, POLICY)
    assert ask(exact, POLICY, BEFORE).admitted == BEFORE

    outage.begin(place)
    started = time.perf_counter()
    during = ask(limiter, POLICY, CALLS, slow=TIME_OUT, pause=0.002)
    took = time.perf_counter() - started
    outage.end(place)

    _as_the_mode_says(during, mode, CALLS)
    # 150 time-outs would be 22 s. The first costs one, and each probe of the breaker after it:
    # 0.1 s later, 0.2 s after that, 0.4, 0.8 …
    assert took < 10, during
    assert during.slow <= 15, during

    # Nobody restarts anything: it is exact again as soon as it is there.
    recovered(limiter, POLICY)
    after = ask(limiter, POLICY, 2 * LIMIT)
    left = LIMIT if outage.forgets else LIMIT - BEFORE
    in_doubt = 0 if outage.forgets else during.slow
    assert (after.degraded, after.errors) == (0, 0), after
    assert left - in_doubt <= after.admitted <= left, "only those that timed out may have counted"
    assert not exact.peek(POLICY, "k")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nobody", ["port closed", "no answer to SYN", "accepted and ignored"])
def test_a_server_that_was_never_there(place: Place, nobody: str, mode: str) -> None:
    with port_that_swallows() as swallowing:
        place.between.black_hole()
        ports = {"port closed": free_port(), "no answer to SYN": swallowing}
        port = ports.get(nobody, place.between.port)
        limiter = limiter_of(f"redis://127.0.0.1:{port}", mode)
        started = time.perf_counter()
        during = ask(limiter, POLICY, CALLS, slow=TIME_OUT)
        took = time.perf_counter() - started
        place.between.heal()
    _as_the_mode_says(during, mode, CALLS)
    assert took < 10, during
    assert during.slow <= 15, during


@pytest.mark.parametrize("mode", MODES)
async def test_those_who_come_at_once_wait_at_once(place: Place, mode: str) -> None:
    limiter = limiter_of(place.between.url, mode, command_timeout=0.5)
    recovered(limiter, POLICY)
    place.between.black_hole()
    seen, started = Seen(), time.perf_counter()

    async def one() -> None:
        try:
            decision = await limiter.acheck(POLICY, "k")
        except StoreUnavailable:
            seen.errors += 1
        else:
            seen.degraded_admitted += decision.degraded and decision.allowed
            seen.degraded_refused += decision.degraded and not decision.allowed

    await asyncio.gather(*(one() for _ in range(CALLS)))
    took = time.perf_counter() - started
    place.between.heal()
    _as_the_mode_says(seen, mode, CALLS)
    assert took < 5, "150 time-outs of 0.5 s, all at once"


@pytest.mark.parametrize("mode", MODES)
def test_every_operation_keeps_to_the_fail_mode(place: Place, mode: str) -> None:
    limiter = limiter_of(place.between.url, mode)
    recovered(limiter, POLICY)
    place.between.black_hole()
    other = Policy("other", "5/52w")
    operations: list[Callable[[], Any]] = [
        lambda: limiter.check(POLICY, "k"),
        lambda: limiter.check(POLICY, "k", 3),
        lambda: limiter.peek(POLICY, "k"),
        lambda: limiter.check_all([(POLICY, "k"), (other, "k")]),
        lambda: limiter.check_many([(POLICY, "k"), (other, "k")])[1],
        lambda: limiter.acquire(POLICY, "k", timeout=5),
        lambda: limiter.reserve(POLICY, "k", 2).decision,
    ]
    for number, operation in enumerate(operations):
        started = time.perf_counter()
        if mode == "closed":
            with pytest.raises(StoreUnavailable):
                operation()
        else:
            decision = operation()
            assert decision.allowed and decision.degraded, number
        assert time.perf_counter() - started < 5, number
    if mode != "closed":
        limiter.reserve(POLICY, "k", 2).commit(1)
    # What cannot be done without the backend says so in every mode.
    for demand in (lambda: limiter.refund(POLICY, "k"), lambda: limiter.reset(POLICY, "k")):
        with pytest.raises(StoreUnavailable):
            demand()
    with pytest.raises(StoreUnavailable):
        limiter.ping()
    place.between.heal()
    recovered(limiter, POLICY)


@pytest.mark.parametrize("mode", MODES)
def test_a_reservation_outlives_its_backend(place: Place, mode: str) -> None:
    limiter, exact = limiter_of(place.between.url, mode), patient(place.server.url)
    recovered(limiter, POLICY)
    settled, broken = limiter.reserve(POLICY, "k", 5), limiter.reserve(POLICY, "k", 3)
    place.server.freeze()
    # The work is done: only who asked for errors gets one.
    if mode == "closed":
        with pytest.raises(StoreUnavailable):
            settled.commit(1)
    else:
        assert settled.commit(1).degraded
    # What the block raises goes on, whatever becomes of the reservation.
    with pytest.raises(KeyError), broken:
        raise KeyError("handler failed")
    place.server.thaw()
    recovered(limiter, POLICY)
    left = exact.peek(POLICY, "k", 0).remaining
    assert LIMIT - 8 <= left <= LIMIT, "what was in doubt was given back at most once"


def test_a_ping_that_succeeds_ends_an_outage_at_once(place: Place) -> None:
    limiter = limiter_of(place.between.url, "local")
    recovered(limiter, POLICY)
    place.server.freeze()
    # Long enough for the breaker to pause for seconds.
    ask(limiter, POLICY, 100, pause=0.01)
    place.server.thaw()
    while True:
        try:
            limiter.ping()
        except StoreUnavailable:
            continue
        break
    assert not limiter.check(POLICY, "k").degraded


def test_slower_than_usual_is_no_outage(place: Place) -> None:
    limiter = limiter_of(place.between.url, "closed", connect_timeout=10, command_timeout=10)
    place.between.slow(0.3)
    seen = ask(limiter, Policy("p", "2/52w"), 3, slow=0.3)
    assert (seen.admitted, seen.refused, seen.errors) == (2, 1, 0)
    assert seen.slow == 3, "each went to the server"
