"""Rate limits for Django: a decorator, a middleware and settings.

Add ``"tollway.django"`` to ``INSTALLED_APPS`` for the system checks, then::

    from tollway.django import rate_limit

    @rate_limit(key="ip", rate="5/10s")
    def ping(request): ...

The same decorator serves sync and async views, methods and class-based views.
"""

from __future__ import annotations

from tollway.django.calls import (
    add_rate_limit_headers,
    add_token_bucket_headers,
    get_backend,
    get_jwt_claims,
    parse_rate,
    validate_rate_config,
)
from tollway.django.decorators import rate_limit, ratelimit
from tollway.django.identity import agenerate_key, generate_key, get_client_ip

__all__ = [
    "add_rate_limit_headers",
    "add_token_bucket_headers",
    "agenerate_key",
    "generate_key",
    "get_backend",
    "get_client_ip",
    "get_jwt_claims",
    "parse_rate",
    "rate_limit",
    "ratelimit",
    "validate_rate_config",
]
