"""One check in one process, from Python: Tollway against `limits`, both in memory."""

import itertools
import time
from collections.abc import Callable, Iterator

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter, RateLimiter

from bench.results import Row, Section, interleaved
from tollway import Limiter, Policy

CALLS = 50_000
PER_MINUTE = 1_000_000_000


def keys(count: int) -> Iterator[str]:
    return itertools.cycle([f"10.0.{number >> 8}.{number & 255}" for number in range(count)])


def timed(check: Callable[[str], object], stream: Iterator[str]) -> float:
    """Nanoseconds a call, the loop and the key included, the same for everybody."""
    taken = list(itertools.islice(stream, CALLS))
    began = time.perf_counter_ns()
    for key in taken:
        check(key)
    return (time.perf_counter_ns() - began) / CALLS


def ours(algorithm: str, rate: str) -> Callable[[str], object]:
    limiter, policy = Limiter("memory://"), Policy("bench", rate, algorithm=algorithm)
    return lambda key: limiter.check(policy, key)


def theirs(kind: type[RateLimiter], permits: int) -> Callable[[str], object]:
    limiter, item = kind(MemoryStorage()), RateLimitItemPerMinute(permits)
    return lambda key: limiter.hit(item, key)


def measure(rounds: int) -> Section:
    section = Section("A check from Python, in memory", "ns")
    cases = {
        "fixed window, 1 key, allowed": (1, PER_MINUTE, "fixed_window", FixedWindowRateLimiter),
        "fixed window, 10,000 keys": (10_000, PER_MINUTE, "fixed_window", FixedWindowRateLimiter),
        "fixed window, 1 key, refused": (1, 5, "fixed_window", FixedWindowRateLimiter),
        "gcra / moving window, 1 key, refused": (1, 5, "gcra", MovingWindowRateLimiter),
    }
    for case, (count, permits, algorithm, kind) in cases.items():
        contenders = {
            "tollway": ours(algorithm, f"{permits}/m"),
            "limits": theirs(kind, permits),
        }
        rows = {name: Row(case, name, []) for name in contenders}
        for check in contenders.values():
            timed(check, keys(count))
        for _, name in interleaved(rounds, list(contenders)):
            rows[name].rounds.append(timed(contenders[name], keys(count)))
        section.rows.extend(rows.values())
    return section
