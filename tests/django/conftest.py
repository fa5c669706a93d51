"""What the tests of the Django door share: settings of their own, a limiter on a clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import django
import pytest
from django.apps import apps
from django.conf import settings
from django.test import RequestFactory, override_settings

from tests.asgi.serving import dead_port
from tollway import Limiter
from tollway.testing import ManualClock

if not settings.configured:
    settings.configure(SECRET_KEY="for tests", USE_TZ=True)
if not apps.ready:
    django.setup()

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {
            "loaders": [
                (
                    "django.template.loaders.locmem.Loader",
                    {"slow.html": "<p>{{ status }}: wait {{ decision.retry_after_seconds }}</p>"},
                )
            ]
        },
    }
]


@pytest.fixture
def clock() -> ManualClock:
    """Time as a value."""
    return ManualClock()


@pytest.fixture
def limiter(clock: ManualClock) -> Limiter:
    """A limiter that lives on that clock."""
    return Limiter("memory://", clock=clock)


@pytest.fixture(autouse=True)
def ratelimit_settings(limiter: Limiter) -> Iterator[None]:
    """Settings of the test's own, whatever the process has been configured with."""
    with override_settings(
        ALLOWED_HOSTS=["*"],
        DEBUG=False,
        MIDDLEWARE=[],
        ROOT_URLCONF="tests.django.urls",
        TEMPLATES=TEMPLATES,
        RATELIMIT_BACKEND=limiter,
    ):
        yield


@pytest.fixture
def dead_store() -> Iterator[str]:
    """The URL of a Redis that is not there."""
    with dead_port() as port:
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def rf() -> RequestFactory:
    """Requests without a server."""
    return RequestFactory()


class User:
    """As much of a user as a limit looks at."""

    def __init__(self, pk: int, *, authenticated: bool = True) -> None:
        self.pk = pk
        self.is_authenticated = authenticated


def codes(view: Any, requests: Any) -> list[int]:
    """The statuses of a sync view over requests."""
    return [view(request).status_code for request in requests]


async def acodes(view: Any, requests: Any) -> list[int]:
    """The statuses of an async view over requests."""
    return [(await view(request)).status_code for request in requests]
