"""More callers than a queue holds: the fail mode answers the rest at once."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tests.faults.calling import MODES, PATIENCE, Seen, limiter_of, patient, recovered
from tests.faults.conftest import Place
from tollway import Limiter, Policy, StoreUnavailable

CROWD = 400
LIMIT = 5
POLICY = Policy("p", f"{LIMIT}/52w")


async def _all_at_once(limiter: Limiter) -> tuple[Seen, list[str]]:
    seen, texts = Seen(), []

    async def one() -> None:
        try:
            seen.note(await limiter.acheck(POLICY, "k"))
        except StoreUnavailable as error:
            seen.note(None)
            texts.append(str(error))

    await asyncio.gather(*(one() for _ in range(CROWD)))
    return seen, texts


def _judge(seen: Seen, mode: str, queue: int) -> None:
    assert seen.calls == CROWD
    # Those who found room were answered by the server, and exactly.
    assert seen.admitted == LIMIT, seen
    assert queue <= seen.counted < CROWD, seen
    if mode == "closed":
        assert seen.errors == CROWD - seen.counted
    else:
        assert seen.errors == 0
    if mode == "local":
        assert seen.degraded_admitted <= LIMIT, "never more than the local limit"


@pytest.mark.parametrize("mode", MODES)
async def test_a_crowd_of_tasks_before_a_small_queue(place: Place, mode: str) -> None:
    queue = 8
    limiter = limiter_of(place.between.url, mode, queue=queue, command_timeout=10)
    recovered(limiter, POLICY)
    place.between.slow(0.3)
    started = time.perf_counter()
    seen, texts = await _all_at_once(limiter)
    took = time.perf_counter() - started
    place.between.heal()
    _judge(seen, mode, queue)
    assert took < 10
    if mode == "closed":
        assert any(f"the queue is full: {queue} calls wait already" in text for text in texts)
    # The server did not fail: the next one is exact again at once.
    assert not limiter.check(Policy("next", "1/52w"), "k").degraded


@pytest.mark.parametrize("mode", MODES)
def test_a_crowd_of_threads_before_a_small_queue(place: Place, mode: str) -> None:
    queue = 8
    limiter = limiter_of(place.between.url, mode, queue=queue, command_timeout=10)
    recovered(limiter, POLICY)
    place.between.slow(0.2)
    seen, gate = Seen(), threading.Event()

    def one() -> None:
        gate.wait(PATIENCE)
        seen.call(lambda: limiter.check(POLICY, "k"), PATIENCE)

    threads = [threading.Thread(target=one) for _ in range(CROWD)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(PATIENCE)
    place.between.heal()
    _judge(seen, mode, queue)
    recovered(limiter, POLICY)
    assert not patient(place.server.url).peek(POLICY, "k")


async def test_a_crowd_that_fits_is_counted_to_the_last(place: Place) -> None:
    limiter = limiter_of(place.between.url, "closed", connect_timeout=10, command_timeout=10)
    place.between.slow(0.1)
    seen, _ = await _all_at_once(limiter)
    assert (seen.admitted, seen.refused) == (LIMIT, CROWD - LIMIT)
