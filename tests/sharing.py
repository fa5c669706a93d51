"""What several processes see that share a limit over a remote store, whichever it is."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tollway import Limiter, Policy


def patient(url: str | list[str], **options: Any) -> Limiter:
    """A limiter that fails aloud, and waits longer than a busy machine needs."""
    return Limiter(url, fail_mode="closed", connect_timeout=10, command_timeout=10, **options)


def _hammer(url: str, calls: int, start: float) -> tuple[int, float, float]:
    """In a process of its own: how many of the calls passed, and between which times."""
    limiter, policy = patient(url, near_cache=0), Policy("hammered", "100/60s")
    limiter.ping()
    time.sleep(max(0.0, start - time.time()))
    first = time.time()
    passed = sum(limiter.check(policy, "k").allowed for _ in range(calls))
    return passed, first, time.time()


def eight_processes_get_one_limit(url: str, calls: int) -> None:
    """Eight processes begin together: what passes is what the rate allows in that time."""
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        start = time.time() + 2
        rows = pool.starmap(_hammer, [(url, calls, start)] * 8)
    passed = sum(row[0] for row in rows)
    span = max(row[2] for row in rows) - min(row[1] for row in rows)
    assert 100 <= passed <= 100 + int(span * 100 / 60) + 1


def _exit_after(answer: Callable[[], bool]) -> None:
    """In a forked child: says by its exit code whether it was answered as it should be."""
    code = 1
    try:
        code = 0 if answer() else 2
    finally:
        os._exit(code)


def _serve_and_fork(url: str) -> None:
    """In a process of its own: what children are told that are forked while threads are served."""
    limiter, policy = patient(url), Policy("forked", "100000/d", algorithm="fixed_window")
    stop, counts = threading.Event(), [0] * 5

    def serve(number: int) -> None:
        while not stop.is_set():
            assert limiter.check(policy, "k").allowed
            counts[number] += 1

    async def serve_tasks() -> None:
        while not stop.is_set():
            decisions = await asyncio.gather(*(limiter.acheck(policy, "k") for _ in range(8)))
            assert all(decision.allowed for decision in decisions)
            counts[-1] += len(decisions)

    def answer() -> bool:
        return limiter.check(policy, "k").allowed

    def fork() -> int:
        child = os.fork()
        if child == 0:  # pragma: no cover - the child
            _exit_after(answer)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def start() -> int | None:
        process = multiprocessing.get_context("fork").Process(target=_exit_after, args=(answer,))
        process.start()
        process.join()
        return process.exitcode

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(4)]
    threads.append(threading.Thread(target=lambda: asyncio.run(serve_tasks())))
    for thread in threads:
        thread.start()
    with ThreadPoolExecutor(2) as forking:
        forks = [
            forking.submit(lambda step=step: [step() for _ in range(30)]) for step in (fork, start)
        ]
        exits = [code for codes in forks for code in codes.result()]
    stop.set()
    for thread in threads:
        thread.join()
    assert exits == [0] * 60, exits
    assert min(counts) > 0
    assert limiter.check(policy, "k", 0).remaining == 100_000 - len(exits) - sum(counts)


def forked_children_are_answered(url: str) -> None:
    """Children of a process whose threads are being served are served too, to the last permit."""
    process = multiprocessing.get_context("spawn").Process(target=_serve_and_fork, args=(url,))
    process.start()
    process.join(120)
    process.kill()
    assert process.exitcode == 0
