"""The names of pyrate-limiter that code for fastapi-limiter 0.2 uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from tollway import ConfigError
from tollway import Limiter as Engine
from tollway import Rate as EngineRate


class Duration(IntEnum):
    """Milliseconds: ``Duration.SECOND * 5``."""

    SECOND = 1000
    MINUTE = 60_000
    HOUR = 3_600_000
    DAY = 86_400_000
    WEEK = 604_800_000


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many milliseconds."""

    limit: int
    interval: int

    def compiled(self) -> EngineRate:
        """It as the engine knows it."""
        return EngineRate(self.limit, f"{int(self.interval)}ms")


class Limiter:
    """Rates, and where they are counted: the place of ``FastAPILimiter.init()``, or ``engine``."""

    def __init__(self, rates: Rate | Sequence[Rate], engine: Engine | None = None) -> None:
        stated = [rates] if isinstance(rates, Rate) else list(rates)
        if not stated or not all(isinstance(rate, Rate) for rate in stated):
            raise ConfigError(
                "Limiter() takes a Rate or a list of these, from tollway.compat.fastapi_limiter"
            )
        self.rates = [rate.compiled() for rate in stated]
        self.engine = engine
