"""What the tests of the Django door share: settings of their own, a limiter on a clock."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from django.apps import apps
from django.conf import settings
from django.test import RequestFactory, override_settings

from tests.asgi.serving import dead_port
from tollway import Limiter

MEMORY = Path("/dev/shm")
FOLDER = tempfile.TemporaryDirectory(
    prefix="tollway-django-", dir=MEMORY if MEMORY.is_dir() else None
)
"""Where the database is: a file, since threads have connections of their own. It need not be
durable."""

DATABASE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": str(Path(FOLDER.name) / "db.sqlite3"),
    "OPTIONS": {"timeout": 30},
}

if not settings.configured:
    settings.configure(
        SECRET_KEY="for tests",
        USE_TZ=True,
        DATABASES={"default": DATABASE},
        INSTALLED_APPS=[
            *("django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes"),
            *("django.contrib.messages", "django.contrib.sessions", "tollway.django"),
        ],
    )
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


@pytest.fixture(scope="session")
def tables() -> None:
    """The tables of all apps."""
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


@pytest.fixture
def database(tables: None) -> Iterator[None]:
    """A database whose tables are empty again afterwards."""
    from django.core.management import call_command
    from django.db import connections

    yield
    call_command("flush", interactive=False, verbosity=0)
    connections.close_all()


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
