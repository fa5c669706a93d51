"""The same Django for every contender, and this one's app."""

from stock.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tollway.bolt"]  # noqa: F405
BOLT_SECURITY_HEADERS = False  # django-bolt sends none of its own.
