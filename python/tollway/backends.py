"""Where counts are kept, as settings and decorators of the Django doors name it."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import Any

from tollway import ConfigError, Limiter
from tollway.stores import Store

Place = str | Store
"""One backend: a URL, or one of the project's own."""

Backend = Place | Limiter | tuple[Place, ...]
"""A place, several that stand in for each other, or a limiter made elsewhere."""


def stated(value: Any) -> Backend:
    """A backend as it was written; names and dotted paths are left for :func:`loaded`."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list | tuple) and value:
        places = tuple(_place(item) for item in value)
        return places[0] if len(places) == 1 else places
    if isinstance(value, Store):
        return value
    if isinstance(value, Limiter) or (hasattr(value, "check") and hasattr(value, "acheck")):
        limiter: Limiter = value
        return limiter
    raise ConfigError(
        f'{_shown(value)} is no backend; write a URL such as "redis://127.0.0.1:6379/0", a list of '
        "URLs, or the dotted path of a Store"
    )


def _shown(value: object) -> str:
    """What cannot be a backend, for a message: without the passwords that may be in it."""
    return repr(value) if value is None or isinstance(value, int | float) else type(value).__name__


def _place(value: Any) -> Place:
    found = loaded(stated(value))
    if isinstance(found, tuple | Limiter) or not isinstance(found, str | Store):
        raise ConfigError(
            f"{_shown(value)} cannot stand in a list of backends: use URLs and Stores"
        )
    return found


def loaded(value: Backend) -> Backend:
    """The same with a dotted path replaced by what it names: a Limiter, a Store or its class."""
    if isinstance(value, str) and (value == "django" or value.startswith("django://")):
        from tollway.django.orm import store

        return store(value)
    if not isinstance(value, str) or "://" in value or "." not in value:
        return value
    try:
        found = pkgutil.resolve_name(value)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"backend {value!r} cannot be imported: {error}") from error
    if isinstance(found, type) or not (isinstance(found, Store) or hasattr(found, "acheck")):
        if not callable(found):
            raise ConfigError(f"backend {value!r} is neither a Store nor a Limiter")
        found = found()
    return stated(found)


def known(value: object) -> Backend:
    """A backend that can be opened. A bare name is left to be looked up."""
    found = loaded(stated(value))
    if isinstance(found, str):
        if "://" in found or not found.isidentifier():
            Limiter(found)
    elif isinstance(found, tuple):
        Limiter(list(found))
    return found


def named(value: object) -> dict[str, Backend]:
    """Backends by name."""
    if not isinstance(value, Mapping):
        raise ConfigError(f'{_shown(value)} is not a mapping such as {{"logins": "redis://…"}}')
    for name in value:
        if not isinstance(name, str) or "://" in name or "." in name or name == "django":
            raise ConfigError(f"{name!r} is no name for a backend; write one such as 'logins'")
    return {name: known(backend) for name, backend in value.items()}


def url_of(value: Backend) -> str:
    """What messages call a backend; for several, the first."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return url_of(value[0])
    return value.name if isinstance(value, Store) else str(getattr(value, "url", value))
