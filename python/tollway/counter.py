"""Counts without a request in sight: for jobs, sockets, mails and whatever else has a rhythm.

>>> from tollway import Limiter
>>> counter = Counter(Limiter())
>>> counter.incr("mails:ada", 60), counter.incr("mails:ada", 60, 4)
(1, 5)
>>> counter.get_count("mails:ada", 60)
5
>>> counter.token_bucket_check("sms", 2, 0.5)[0]
True
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

from tollway._tollway import Decision, Limiter, Policy, Rate
from tollway.errors import ConfigError

COUNT_MAX: Final = 1_000_000_000
"""A count goes no further than this in one period."""


class Counter:
    """Counts and buckets by name, on a limiter and its backend.

    A period is in seconds, from 0.001 to a year; it begins with the first count and ends as a
    whole. Each call is one round trip; those that end in ``_many`` are one for all. With ``a``
    before the name each is the same for ``await``.

    Calls raise :class:`tollway.StoreError` as the limiter does under its fail mode, and
    :class:`tollway.ConfigError` on numbers that cannot be meant.
    """

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter

    def incr(self, key: str, period: float = 60, amount: int = 1) -> int:
        """Count ``amount`` more under ``key``; answers with the count in this period."""
        return _counted(self.limiter.check(_window(period), key, _amount(amount)))

    async def aincr(self, key: str, period: float = 60, amount: int = 1) -> int:
        """:meth:`incr`."""
        return _counted(await self.limiter.acheck(_window(period), key, _amount(amount)))

    def incr_many(self, keys: Iterable[str], period: float = 60) -> list[int]:
        """Count one more under each key."""
        charges = [(_window(period), key, 1) for key in keys]
        return [_counted(decision) for decision in self.limiter.check_many(charges)]

    async def aincr_many(self, keys: Iterable[str], period: float = 60) -> list[int]:
        """:meth:`incr_many`."""
        charges = [(_window(period), key, 1) for key in keys]
        return [_counted(decision) for decision in await self.limiter.acheck_many(charges)]

    def get_count(self, key: str, period: float = 60) -> int:
        """How many were counted in this period."""
        return _counted(self.limiter.peek(_window(period), key, 0))

    async def aget_count(self, key: str, period: float = 60) -> int:
        """:meth:`get_count`."""
        return _counted(await self.limiter.apeek(_window(period), key, 0))

    def get_reset_time(self, key: str, period: float = 60) -> float | None:
        """When the period ends, in seconds since 1970; ``None`` when nothing is counted."""
        return _ends(self.limiter.peek(_window(period), key, 0))

    async def aget_reset_time(self, key: str, period: float = 60) -> float | None:
        """:meth:`get_reset_time`."""
        return _ends(await self.limiter.apeek(_window(period), key, 0))

    def reset(self, key: str, period: float = 60) -> None:
        """Forget what was counted under ``key`` in this period."""
        self.limiter.reset(_window(period), key)

    async def areset(self, key: str, period: float = 60) -> None:
        """:meth:`reset`."""
        await self.limiter.areset(_window(period), key)

    def token_bucket_check(
        self,
        key: str,
        bucket_size: int,
        refill_rate: float,
        initial_tokens: int | None = None,
        tokens_requested: int = 1,
    ) -> tuple[bool, dict[str, Any]]:
        """Take tokens from a bucket of ``bucket_size`` that refills ``refill_rate`` a second.

        Answers whether they could be taken, and ``tokens_remaining``, ``bucket_size``,
        ``refill_rate``, ``time_to_refill`` and ``retry_after`` (both in seconds).
        """
        policy = _bucket("token_bucket", bucket_size, refill_rate, initial_tokens)
        decision = self.limiter.check(policy, key, _amount(tokens_requested))
        return decision.allowed, _bucket_told(decision, refill_rate)

    async def atoken_bucket_check(
        self,
        key: str,
        bucket_size: int,
        refill_rate: float,
        initial_tokens: int | None = None,
        tokens_requested: int = 1,
    ) -> tuple[bool, dict[str, Any]]:
        """:meth:`token_bucket_check`."""
        policy = _bucket("token_bucket", bucket_size, refill_rate, initial_tokens)
        decision = await self.limiter.acheck(policy, key, _amount(tokens_requested))
        return decision.allowed, _bucket_told(decision, refill_rate)

    def leaky_bucket_check(
        self, key: str, capacity: int, leak_rate: float, cost: int = 1
    ) -> tuple[bool, dict[str, Any]]:
        """Pour ``cost`` into a bucket of ``capacity`` that leaks ``leak_rate`` a second.

        Answers whether it fitted, and ``level``, ``capacity``, ``leak_rate``, ``time_to_empty`` and
        ``retry_after`` (both in seconds).
        """
        policy = _bucket("leaky_bucket", capacity, leak_rate)
        decision = self.limiter.check(policy, key, _amount(cost))
        return decision.allowed, _leak_told(decision, leak_rate)

    async def aleaky_bucket_check(
        self, key: str, capacity: int, leak_rate: float, cost: int = 1
    ) -> tuple[bool, dict[str, Any]]:
        """:meth:`leaky_bucket_check`."""
        policy = _bucket("leaky_bucket", capacity, leak_rate)
        decision = await self.limiter.acheck(policy, key, _amount(cost))
        return decision.allowed, _leak_told(decision, leak_rate)


def _amount(value: int) -> int:
    """What the engine takes at most; it says itself what is wrong with less."""
    if value > COUNT_MAX:
        raise ConfigError(f"an amount is a whole number up to {COUNT_MAX}, not {value!r}")
    return value


@lru_cache(maxsize=256)
def _window(period: float) -> Policy:
    rate = Rate(COUNT_MAX, f"{_milliseconds(period)}ms")
    return Policy(f"count/{period:.15g}s", [rate], algorithm="fixed_window:first")


def _milliseconds(seconds: float | Fraction) -> int:
    if isinstance(seconds, bool) or not 0 < seconds < math.inf:
        raise ConfigError(f"period={seconds!r} is not a number of seconds above 0")
    return max(1, round(seconds * 1000))


@lru_cache(maxsize=256)
def _bucket(
    algorithm: str, size: Any, refill_rate: float, initial_tokens: int | None = None
) -> Policy:
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= COUNT_MAX:
        raise ConfigError(f"a bucket of {size!r}: its size is a whole number from 1 to {COUNT_MAX}")
    if isinstance(refill_rate, bool) or not 0 < refill_rate < math.inf:
        raise ConfigError(f"{refill_rate!r} is not a number of permits a second above 0")
    share = Fraction(refill_rate).limit_denominator(100_000)
    rate = Rate(share.numerator, f"{share.denominator}s", burst=size - 1, smooth=True)
    name = f"{algorithm}/{size}/{refill_rate:.15g}"
    return Policy(name, [rate], algorithm=algorithm, initial_tokens=initial_tokens)


def _counted(decision: Decision) -> int:
    return decision.limit - decision.remaining


def _ends(decision: Decision) -> float | None:
    return time.time() + decision.reset_after if decision.reset_after > 0 else None


def _bucket_told(decision: Decision, refill_rate: float) -> dict[str, Any]:
    return {
        "tokens_remaining": decision.remaining,
        "bucket_size": decision.limit,
        "refill_rate": refill_rate,
        "time_to_refill": decision.reset_after,
        "retry_after": _finite(decision.retry_after),
    }


def _leak_told(decision: Decision, leak_rate: float) -> dict[str, Any]:
    return {
        "level": decision.limit - decision.remaining,
        "capacity": decision.limit,
        "leak_rate": leak_rate,
        "time_to_empty": decision.reset_after,
        "retry_after": _finite(decision.retry_after),
    }


def _finite(seconds: float) -> float | None:
    """Seconds to wait, or ``None`` when waiting does not help."""
    return seconds if math.isfinite(seconds) else None
