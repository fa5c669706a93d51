"""Faults that no caller sees: no error and no degraded answer, in no fail mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.faults.calling import Callers, ask, limiter_of, patient, recovered
from tests.faults.conftest import Place
from tollway import Policy

LIMIT = 20
POLICY = Policy("p", f"{LIMIT}/52w")
BEFORE = 8


@dataclass(frozen=True)
class Blow:
    """What befalls a server between two calls, and what it makes of the count."""

    name: str
    strike: Callable[[Place], object]
    forgets: bool = False
    #: Permits that may be counted twice, because an answer was lost.
    twice: int = 0


def _kill_clients(place: Place) -> None:
    place.server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


BLOWS = [
    Blow("scripts flushed", lambda at: at.server.ask("SCRIPT", "FLUSH")),
    Blow("keys flushed", lambda at: at.server.ask("FLUSHALL"), forgets=True),
    Blow("clients killed", _kill_clients),
    Blow("connections reset", lambda at: at.between.reset()),
    Blow("a reply cut in the middle", lambda at: at.between.cut_replies(1), twice=1),
    Blow("two replies cut in the middle", lambda at: at.between.cut_replies(2), twice=2),
    Blow("restarted empty", lambda at: at.server.restart(), forgets=True),
]


# "closed" shows every error that the other modes would answer for.
@pytest.mark.parametrize("blow", BLOWS, ids=lambda blow: blow.name)
def test_between_two_calls(place: Place, blow: Blow) -> None:
    limiter = limiter_of(place.between.url, "closed", connect_timeout=10, command_timeout=10)
    before = ask(limiter, POLICY, BEFORE)
    blow.strike(place)
    after = ask(limiter, POLICY, 2 * LIMIT)
    assert (before.admitted, before.errors) == (BEFORE, 0)
    left = LIMIT if blow.forgets else LIMIT - BEFORE
    assert (after.errors, after.degraded) == (0, 0), after
    assert left - blow.twice <= after.admitted <= left, after


@pytest.mark.parametrize("blow", BLOWS[:-2], ids=lambda blow: blow.name)
def test_again_and_again_under_load(place: Place, blow: Blow) -> None:
    plenty = Policy("plenty", "1000000/52w")
    limiter = limiter_of(place.between.url, "closed", connect_timeout=10, command_timeout=10)
    recovered(limiter, plenty)
    callers = Callers(limiter, plenty, threads=4, pause=0)
    for _ in range(12):
        blow.strike(place)
        callers.wait_for(40)
    seen = callers.stop()
    assert (seen.errors, seen.degraded, seen.refused) == (0, 0, 0), seen
    spent = 1_000_000 - patient(place.server.url).peek(plenty, "k", 0).remaining
    if blow.forgets:
        assert 0 < spent <= seen.admitted
    else:
        # Whoever was on the way when an answer was lost may count twice, and never not at all.
        assert seen.admitted <= spent <= seen.admitted + 12 * 4, (seen, spent)
