"""The Django app."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from tollway.bolt.conf import read_settings, unknown_settings
from tollway.errors import ConfigError


class TollwayBoltConfig(AppConfig):
    """Adds ``manage.py runbolt`` and the checks of the ``BOLT_*`` settings."""

    name = "tollway.bolt"
    label = "tollway_bolt"
    verbose_name = "Tollway Bolt"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        register(check_settings, "tollway")


def check_settings(**_: Any) -> list[CheckMessage]:
    """``manage.py check``: settings that cannot be used, and names that mean nothing."""
    found: list[CheckMessage] = [
        Warning(
            f"The setting {name} does nothing.",
            hint=hint or "Remove it, or see docs/bolt.md for the settings there are.",
            id="tollway_bolt.W001",
        )
        for name, hint in unknown_settings(settings)
    ]
    try:
        read_settings(settings)
    except ConfigError as error:
        found.append(Error(str(error), id="tollway_bolt.E001"))
    return found
