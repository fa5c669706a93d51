"""The same Django for every contender, and this one's app."""

import os

from stock.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tollway.bolt"]  # noqa: F405
RATELIMIT_BACKEND = os.environ.get("BENCH_BACKEND", "memory://")
