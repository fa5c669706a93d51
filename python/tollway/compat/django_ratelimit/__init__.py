"""django-ratelimit's names on this engine.

Put ``tollway.compat.django_ratelimit`` where a project says ``django_ratelimit``; its decorator,
helpers, exception, middleware and settings do what the documentation of that library says. What is
different is better: one atomic check in one round trip, several limits all or nothing, async views,
and a refusal that is not counted.
"""

from __future__ import annotations

from tollway.compat.django_ratelimit.core import (
    ALL,
    UNSAFE,
    get_usage,
    get_usage_extended,
    is_ratelimited,
)
from tollway.compat.django_ratelimit.decorators import ratelimit
from tollway.compat.django_ratelimit.exceptions import Ratelimited

__all__ = [
    "ALL",
    "UNSAFE",
    "Ratelimited",
    "get_usage",
    "get_usage_extended",
    "is_ratelimited",
    "ratelimit",
]
