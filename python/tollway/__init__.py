"""Tollway: rate limits decided in Rust.

>>> from tollway import Limiter, Policy
>>> limiter = Limiter("memory://")
>>> login = Policy("login", rates=["5/m", "100/d"])
>>> limiter.check(login, "203.0.113.7").remaining
4

Importing this package loads neither Django nor FastAPI; their doors are ``tollway.django``,
``tollway.fastapi``, ``tollway.asgi`` and ``tollway.bolt``.
"""

from tollway._tollway import (
    BackendHealth,
    Breaker,
    ClientAddress,
    Decision,
    Health,
    Held,
    Limiter,
    Policy,
    Rate,
    Reservation,
    __version__,
    hash_identity,
)
from tollway.errors import (
    ConfigError,
    RateError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    TollwayError,
)

__all__ = [
    "BackendHealth",
    "Breaker",
    "ClientAddress",
    "ConfigError",
    "Decision",
    "Health",
    "Held",
    "Limiter",
    "Policy",
    "Rate",
    "RateError",
    "Reservation",
    "StoreError",
    "StoreTimeout",
    "StoreUnavailable",
    "TollwayError",
    "__version__",
    "hash_identity",
]
