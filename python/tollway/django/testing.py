"""For the tests of a Django project: limits of the test's own, on a clock that stands still.

For pytest, in ``conftest.py``::

    pytest_plugins = ["tollway.django.fixtures"]

    def test_login(client, rate_limits):
        for _ in range(5):
            client.post("/login/")
        assert_rate_limited(client.post("/login/"), retry_after=60)
        rate_limits.advance(60)
        assert_not_rate_limited(client.post("/login/"))

For Django's runner, :class:`RateLimitTestMixin`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings as django_settings
from django.test import override_settings

from tollway import Limiter
from tollway.testing import (
    ManualClock,
    assert_not_rate_limited,
    assert_rate_limited,
    assert_remaining,
)

__all__ = [
    "FrozenLimits",
    "RateLimitTestMixin",
    "assert_not_rate_limited",
    "assert_rate_limited",
    "assert_remaining",
    "frozen_limits",
    "no_limits",
]


class FrozenLimits:
    """Limits that begin unspent, in memory, on a clock that stands still until told."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.limiter = Limiter("memory://", clock=self.clock)
        """The limiter in place of ``RATELIMIT_BACKEND``; ``limiter.peek`` looks into it."""

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)

    def settings(self) -> dict[str, Any]:
        """The settings that put these limits in place, named backends included."""
        names = getattr(django_settings, "RATELIMIT_BACKENDS", None) or {}
        others = {name: Limiter("memory://", clock=self.clock) for name in names}
        return {"RATELIMIT_BACKEND": self.limiter, "RATELIMIT_BACKENDS": others}


@contextmanager
def frozen_limits(**settings: Any) -> Iterator[FrozenLimits]:
    """Put fresh limits in place while the block runs; ``settings`` are overridden besides.

    A limit on a URL that a decorator names stays where it is.
    """
    limits = FrozenLimits()
    with override_settings(**{**limits.settings(), **settings}):
        yield limits


@contextmanager
def no_limits() -> Iterator[None]:
    """Switch every limit off while the block runs."""
    with override_settings(RATELIMIT_ENABLE=False):
        yield


class RateLimitTestMixin:
    """Fresh limits for each test of a ``TestCase``::

        class LoginTests(RateLimitTestMixin, TestCase):
            def test_login(self):
                self.assert_rate_limited(self.client.post("/login/"), retry_after=60)
                self.rate_limits.advance(60)

    Put it before the test case among the bases.
    """

    rate_limits: FrozenLimits
    assert_rate_limited = staticmethod(assert_rate_limited)
    assert_not_rate_limited = staticmethod(assert_not_rate_limited)
    assert_remaining = staticmethod(assert_remaining)

    def setUp(self) -> None:
        """Put fresh limits in place before the test's own ``setUp``."""
        limits = frozen_limits()
        self.rate_limits = limits.__enter__()
        case: Any = self
        case.addCleanup(limits.__exit__, None, None, None)
        parent: Any = super()
        parent.setUp()
