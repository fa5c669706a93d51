"""What code around views asks for by hand: backends, rates, headers, claims."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from django.http import HttpResponseBase

from tollway import ConfigError, Decision, Policy, Rate
from tollway.counter import Counter
from tollway.django import conf, responses
from tollway.django.limits import limit


def get_backend(name: str | None = None) -> Counter:
    """A backend for counting without a view: ``incr``, ``get_count``, ``token_bucket_check`` …

    ``name`` is one of ``RATELIMIT_BACKENDS``, a URL, or nothing for ``RATELIMIT_BACKEND``. It is
    the same backend that the limits use; see :class:`tollway.counter.Counter`.
    """
    return Counter(conf.current().limiter(name))


def parse_rate(text: str) -> tuple[int, float]:
    """How many permits in how many seconds: ``parse_rate("5/10s")`` is ``(5, 10.0)``.

    Raises ConfigError when the text does not read, or holds several rates or a calendar one:
    :meth:`tollway.Rate.parse` reads those.
    """
    rates = Rate.parse(text)
    if len(rates) != 1 or rates[0].period is None:
        raise ConfigError(f"rate {text!r} is more than a number in a time: use Rate.parse")
    return rates[0].permits, rates[0].period


def validate_rate_config(
    rate: Any = None,
    algorithm: str | None = None,
    algorithm_config: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Raise ConfigError when a decorator with these parameters would.

    For settings of a project's own that end up in ``rate_limit``.
    """
    limit(rate=rate, algorithm=algorithm, algorithm_config=algorithm_config, **options)
    if isinstance(rate, str) or algorithm is not None:
        Policy("check", rate if isinstance(rate, str) else "1/s", algorithm=algorithm)


def add_rate_limit_headers(
    response: HttpResponseBase,
    decision: Decision | None = None,
    *,
    limit: int | None = None,
    remaining: int | None = None,
    reset_after: float | None = None,
) -> HttpResponseBase:
    """Write the headers of a decision, or ``X-RateLimit-*`` from numbers of your own.

    ``reset_after`` is in seconds. Answers the response.
    """
    if decision is not None:
        responses.write_headers(response, decision, conf.current().settings)
        return response
    for name, value in (
        ("Limit", limit),
        ("Remaining", None if remaining is None else max(0, remaining)),
        ("Reset", None if reset_after is None else round(time.time() + reset_after)),
    ):
        if value is not None:
            response.headers[f"X-RateLimit-{name}"] = str(value)
    return response


def add_token_bucket_headers(
    response: HttpResponseBase, told: Mapping[str, Any] | Decision
) -> HttpResponseBase:
    """Write ``X-RateLimit-Bucket-Size`` and ``-Bucket-Remaining``.

    ``told`` is what ``token_bucket_check`` answered, or a decision. Answers the response.
    """
    if isinstance(told, Decision):
        size, left = told.limit, told.remaining
    else:
        size, left = told["bucket_size"], told["tokens_remaining"]
    response.headers["X-RateLimit-Bucket-Size"] = str(size)
    response.headers["X-RateLimit-Bucket-Remaining"] = str(left)
    return response


def get_jwt_claims(request: Any) -> dict[str, Any] | None:
    """The claims of the request's token, verified as ``RATELIMIT_JWT`` says; else ``None``."""
    verifier = conf.current().settings.jwt
    if verifier is None:
        raise ConfigError("RATELIMIT_JWT does not say how tokens are verified")
    token = verifier.token(request.META.get("HTTP_AUTHORIZATION"), request.COOKIES)
    return verifier.claims(token)
