"""One check in one process, from Python: Tollway against `limits`, both in memory."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from bench.progress import Progress
from bench.results import Measuring, Section, Target
from tollway import Limiter, Policy

CALLS = 50_000
PER_MINUTE = 1_000_000_000


def keys(count: int) -> Iterator[str]:
    return itertools.cycle([f"10.0.{number >> 8}.{number & 255}" for number in range(count)])


def timed(check: Callable[[Any, str], object], item: object, stream: Iterator[str]) -> float:
    """Nanoseconds a call, the loop included, the same for everybody."""
    taken = list(itertools.islice(stream, CALLS))
    began = time.thread_time_ns()
    for key in taken:
        check(item, key)
    return (time.thread_time_ns() - began) / CALLS


def contender(check: Callable[[Any, str], object], item: object, count: int) -> Callable[[], float]:
    timed(check, item, keys(count))  # lets the keys in
    return lambda: timed(check, item, keys(count))


def measure(rounds: int, progress: Progress) -> Section:
    measuring = Measuring(Section("A check from Python, in memory", "ns"), rounds, progress)
    cases = {
        "fixed window, 1 key, allowed": (1, PER_MINUTE, "fixed_window", FixedWindowRateLimiter),
        "fixed window, 10,000 keys": (10_000, PER_MINUTE, "fixed_window", FixedWindowRateLimiter),
        "fixed window, 1 key, refused": (1, 5, "fixed_window", FixedWindowRateLimiter),
        "gcra / moving window, 1 key, refused": (1, 5, "gcra", MovingWindowRateLimiter),
    }
    for case, (count, permits, algorithm, kind) in cases.items():
        policy = Policy("bench", f"{permits}/m", algorithm=algorithm)
        item = RateLimitItemPerMinute(permits)
        target = Target(20, ("limits",), 150) if kind is FixedWindowRateLimiter else None
        ours = contender(Limiter("memory://").check, policy, count)
        theirs = contender(kind(MemoryStorage()).hit, item, count)

        measuring.case(case, {"tollway": ours, "limits": theirs}, target)
    return measuring.section
