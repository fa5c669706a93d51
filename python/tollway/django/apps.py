"""The Django app: models, admin and commands; registers the system checks."""

from __future__ import annotations

from django.apps import AppConfig


class TollwayConfig(AppConfig):
    """``INSTALLED_APPS = [..., "tollway.django"]``."""

    name = "tollway.django"
    label = "tollway"
    verbose_name = "Tollway"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks that ``manage.py check`` runs."""
        from tollway.django import checks

        checks.register()
