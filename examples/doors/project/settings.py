"""Settings of the doors: SQLite, one app, and a limiter in memory."""

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("SECRET_KEY", "only for a demonstration on 127.0.0.1")
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "tollway.django",
    "tollway.bolt",
    "shop",
]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DOORS_DATABASE", FOLDER / "db.sqlite3"),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

# One process each here, so memory will do. With several, let them share one limit:
# RATELIMIT_BACKEND = "redis://127.0.0.1:6379/0"
RATELIMIT_BACKEND = os.environ.get("DOORS_BACKEND", "memory://")
