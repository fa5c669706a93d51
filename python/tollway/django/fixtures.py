"""Fixtures for pytest: ``pytest_plugins = ["tollway.django.fixtures"]`` in ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tollway.django.testing import FrozenLimits, frozen_limits, no_limits


@pytest.fixture
def rate_limits() -> Iterator[FrozenLimits]:
    """Fresh limits on a clock that stands still: see :class:`FrozenLimits`."""
    with frozen_limits() as limits:
        yield limits


@pytest.fixture
def no_rate_limits() -> Iterator[None]:
    """Every limit switched off."""
    with no_limits():
        yield
