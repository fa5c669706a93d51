"""Settings of the shop. `SHOP_BACKEND` says where counts are kept; everything else stays."""

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("SECRET_KEY", "only for a demonstration on 127.0.0.1")
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "rest_framework",
    "tollway.django",
    "catalog",
]
MIDDLEWARE = [
    "catalog.middleware.name_worker",
    "tollway.django.middleware.RateLimitMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
ASGI_APPLICATION = "config.asgi.application"
LOGIN_REDIRECT_URL = "/"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", FOLDER / "db.sqlite3"),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_THROTTLE_CLASSES": [
        "tollway.django.throttles.AnonRateThrottle",
        "tollway.django.throttles.UserRateThrottle",
    ],
    "DEFAULT_THROTTLE_RATES": {"anon": "20/hour", "user": "500/hour"},
}

# shm:// is one limit for all processes of this host. Others: redis://127.0.0.1:6379/0,
# postgres://me@127.0.0.1/shop, sqlite:///counts.sqlite3
RATELIMIT_BACKEND = os.environ.get("SHOP_BACKEND", "shm://shop")
RATELIMIT_KEY_PREFIX = os.environ.get("SHOP_PREFIX", "shop")
RATELIMIT_COMMAND_TIMEOUT = float(os.environ.get("SHOP_COMMAND_TIMEOUT", "0.1"))
RATELIMIT_DEFAULT_LIMIT = "1000/h"
RATELIMIT_MIDDLEWARE = {
    "RATE_LIMITS": {"/api/": "500/h", "POST /api/": "100/h"},
    "SKIP_PATHS": ["/health/"],
}
