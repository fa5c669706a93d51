"""For the tests of those who use Tollway: time as a value, and what to say of an answer.

:mod:`tollway.django.testing` has what a Django project needs besides.

>>> from tollway import Limiter, Policy
>>> clock = ManualClock()
>>> limiter, policy = Limiter(clock=clock), Policy("login", "1/m")
>>> [bool(limiter.check(policy, "ada")) for _ in range(2)]
[True, False]
>>> clock.advance(60)
>>> bool(limiter.check(policy, "ada"))
True
"""

from __future__ import annotations

from typing import Any

from tollway._tollway import ManualClock, check_store

__all__ = [
    "ManualClock",
    "assert_not_rate_limited",
    "assert_rate_limited",
    "assert_remaining",
    "check_store",
]


def assert_rate_limited(response: Any, *, retry_after: int | None = None) -> None:
    """That an answer is a refusal, and with ``retry_after`` that it says to wait so many seconds.

    ``response`` is one of Django, of its test client, of httpx, requests or Starlette.
    """
    assert response.status_code == 429, (
        f"expected 429, got {response.status_code}; {_told(response)}"
    )
    if retry_after is not None:
        said = response.headers.get("Retry-After")
        assert said == str(retry_after), f"expected Retry-After {retry_after}, got {said}"


def assert_not_rate_limited(response: Any) -> None:
    """That an answer is no refusal, whatever else it is."""
    assert response.status_code != 429, f"got 429; {_told(response)}"


def assert_remaining(response: Any, remaining: int) -> None:
    """How many permits an answer says are left, by ``X-RateLimit-Remaining``."""
    said = response.headers.get("X-RateLimit-Remaining")
    assert said is not None, f"the answer says nothing of a limit: {dict(response.headers)}"
    assert int(said) == remaining, f"expected {remaining} left, got {said}; {_told(response)}"


def _told(response: Any) -> str:
    """The limits an answer tells of."""
    names = ("RateLimit-Policy", "RateLimit", "Retry-After")
    told = [f"{name}: {response.headers[name]}" for name in names if name in response.headers]
    return "; ".join(told) or "it tells of no limit"
