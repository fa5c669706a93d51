"""``algorithm_config=``: the options of an algorithm, in the words that people know."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from tollway import ConfigError, Policy, Rate
from tollway.counter import COUNT_MAX
from tollway.django.settings import choose

Options = tuple[tuple[str, Any], ...]
"""Options of a :class:`tollway.Policy`, ready to be part of a key."""

_ENGINE: Final = ("initial_tokens", "tokens_per_request", "allow_partial", "refill_every")
_KNOWN: Final = {
    "token_bucket": ("bucket_size", "refill_rate", *_ENGINE),
    "leaky_bucket": ("bucket_size", "capacity", "leak_rate"),
    "leaky_bucket:queue": ("bucket_size", "capacity", "leak_rate"),
}
_SAME: Final = {"capacity": "bucket_size", "leak_rate": "refill_rate"}


class AlgorithmConfig:
    """What ``algorithm_config=`` says, checked.

    ``bucket_size`` is how many permits a bucket holds, ``refill_rate`` how many come back in a
    second (for ``leaky_bucket`` also ``capacity`` and ``leak_rate``). Either may be left out: then
    it is what the rate says. ``initial_tokens``, ``tokens_per_request``, ``allow_partial`` and
    ``refill_every`` are those of :class:`tollway.Policy`.

    Raises ConfigError on a name or a value that the algorithm does not know.
    """

    def __init__(self, algorithm: object, stated: Mapping[str, Any]) -> None:
        if not isinstance(algorithm, str) or algorithm not in _KNOWN:
            raise ConfigError(
                f"algorithm_config= is for algorithm= {', '.join(_KNOWN)}; {algorithm!r} has no "
                "options"
            )
        known = {}
        for name, value in stated.items():
            choose("option", str(name), _KNOWN[algorithm])
            known[_SAME.get(name, name)] = value
        size, rate = known.pop("bucket_size", None), known.pop("refill_rate", None)
        if size is not None and (
            isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= COUNT_MAX
        ):
            raise ConfigError(f"bucket_size={size!r} is not a whole number from 1 to {COUNT_MAX}")
        if rate is not None and (
            isinstance(rate, bool)
            or not isinstance(rate, int | float | Fraction)
            or not 0 < rate < math.inf
        ):
            raise ConfigError(f"refill_rate={rate!r} is not a number of permits a second above 0")
        self.bucket_size: int | None = size
        self.refill_rate: float | Fraction | None = rate
        self.options: Options = tuple(known.items())

    def rates(self, stated: tuple[Rate, ...] | None) -> tuple[Rate, ...] | None:
        """The rates with size and refill in place of what they say."""
        if self.bucket_size is None and self.refill_rate is None:
            return stated
        if stated is None and (self.bucket_size is None or self.refill_rate is None):
            raise ConfigError(
                "algorithm_config: without rate= both bucket_size and refill_rate are needed"
            )
        if stated is not None and (len(stated) != 1 or stated[0].period is None):
            raise ConfigError("algorithm_config: one rate has a bucket, not several or a calendar")
        size = self.bucket_size or (stated[0].capacity if stated else 1)
        if self.refill_rate is not None:
            share = Fraction(self.refill_rate).limit_denominator(100_000)
            permits, period = share.numerator, Fraction(share.denominator)
        else:
            assert stated is not None, "one of both is there"
            permits, period = stated[0].permits, Fraction(stated[0].period or 1)
        milliseconds = round(period * 1000)
        return (Rate(permits, f"{milliseconds}ms", burst=size - 1, smooth=True),)

    def check(self, algorithm: str, rates: tuple[Rate, ...] | None) -> None:
        """Have the engine say what it thinks of the options."""
        Policy("check", self.rates(rates) or ["1/s"], algorithm=algorithm, **dict(self.options))
