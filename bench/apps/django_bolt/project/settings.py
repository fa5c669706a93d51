"""The same Django for every contender, and this one's app."""

from stock.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "django_bolt"]  # noqa: F405
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"django.server": {"level": "WARNING"}},
}
