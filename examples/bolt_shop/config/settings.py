"""Settings of the shop on Bolt. `DATABASE_URL` is `postgres://…`, or SQLite's file is used."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

FOLDER = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("SECRET_KEY", "only for a demonstration on 127.0.0.1, never elsewhere")
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "tollway.bolt",
    "store",
]
ROOT_URLCONF = "config.urls"


def database(place: str) -> dict[str, object]:
    """Django's words for a URL."""
    url = urlsplit(place)
    if url.scheme == "sqlite":
        # Two processes write: each waits for the other, from the beginning of its transaction on.
        wait = {"timeout": 20, "transaction_mode": "IMMEDIATE"}
        journal = {"init_command": "PRAGMA journal_mode=WAL"}
        name = url.path.removeprefix("/")
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": wait | journal}
    if url.scheme not in ("postgres", "postgresql"):
        raise ImproperlyConfigured(
            f"DATABASE_URL begins with sqlite:/// or postgres://, not {url.scheme}:"
        )
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.path.removeprefix("/"),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": url.hostname or "",
        "PORT": url.port or "",
        "CONN_MAX_AGE": 60,
    }


DATABASES = {
    "default": database(os.environ.get("DATABASE_URL", f"sqlite:///{FOLDER / 'db.sqlite3'}"))
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

# Pictures that sellers upload, and the only folder that files are sent from.
MEDIA_ROOT = Path(os.environ.get("SHOP_MEDIA", FOLDER / "media"))
MEDIA_ROOT.mkdir(exist_ok=True)
BOLT_ALLOWED_FILE_PATHS = [str(MEDIA_ROOT)]
BOLT_SECURITY_HEADERS = True

# The page of another origin that may call the API from a browser.
CORS_ALLOWED_ORIGINS = [os.environ.get("SHOP_PAGE", "http://127.0.0.1:8001")]
