"""Marks on endpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

SKIPS: Final = "_tollway_skips"


def skip_limiter(endpoint: Endpoint) -> Endpoint:
    """An endpoint that every ``RateLimiter`` lets pass."""
    setattr(endpoint, SKIPS, True)
    return endpoint
