"""What the server is told of a route's authentication and guards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tollway.bolt.auth.admission import admission
from tollway.bolt.auth.backends import (
    BaseAuthentication,
    JWTAuthentication,
    SessionAuthentication,
)
from tollway.bolt.auth.guards import AllowAny, BaseGuard
from tollway.bolt.auth.users import get_registered_backend, register_auth_backend
from tollway.bolt.params import Depends
from tollway.errors import ConfigError
from tollway.identity import parse_key

__all__ = ["Plan", "plan_of", "stated_backends", "stated_guards"]

VERIFIED: Final = ("user", "user_or_ip", "api_key", "org", "jwt")
"""Kinds of keys that only a verified caller has."""

_BACKENDS: Final = (BaseAuthentication, "backend such as JWTAuthentication()")
_GUARDS: Final = (BaseGuard, "guard such as IsAuthenticated()")

Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class Plan:
    """How callers of one route are verified and judged."""

    native: dict[str, Any] | None
    """As the server reads it; None where everybody may come."""
    dependencies: tuple[Depends, ...] = ()
    """What has to be asked in Python."""
    forgetful: tuple[str, ...] = ()
    """Stores of revocations that other processes know nothing of."""


def plan_of(
    auth: Sequence[BaseAuthentication],
    guards: Sequence[BaseGuard],
    trusted_origins: Sequence[str],
    keys: Sequence[str],
    where: str,
) -> Plan:
    """The plan of a route that counts callers by ``keys``.

    Raises ConfigError that names the place, for what could never let anybody pass.
    """
    backends = _checked(auth, *_BACKENDS, f"{where}: auth")
    conditions = _checked(guards, *_GUARDS, f"{where}: guards")
    closed = [guard for guard in conditions if not isinstance(guard, AllowAny)]
    if closed and not backends:
        raise ConfigError(
            f"{where}: {closed[0]!r} lets nobody pass, because nothing says who is asking: give "
            "auth=[JWTAuthentication()] to the route, its router or its BoltAPI, or set "
            "BOLT_AUTHENTICATION_CLASSES"
        )
    _countable(keys, backends, where)
    if not backends:
        return Plan(None)
    try:
        native = [backend.native() for backend in backends]
        forgetful = _forgetful(backends)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    for backend in backends:
        _loads_users(backend, where)
    told = {
        "backends": native,
        "guards": [guard.native() for guard in conditions],
        "trusted_origins": list(trusted_origins),
    }
    return Plan(told, admission(backends, conditions), forgetful)


def _forgetful(backends: Sequence[BaseAuthentication]) -> tuple[str, ...]:
    stores = [b.revocation_store for b in backends if isinstance(b, JWTAuthentication)]
    return tuple(
        type(store).__name__ for store in stores if store is not None and store.is_private()
    )


def _countable(keys: Sequence[str], backends: Sequence[BaseAuthentication], where: str) -> None:
    """Whether the server can know whom a limit counts."""
    before_python = [b for b in backends if not isinstance(b, SessionAuthentication)]
    for key in keys:
        if parse_key(key).kind in VERIFIED and not before_python:
            why = (
                "a session is known only inside Python"
                if backends
                else "nothing says who is asking: give the route auth=[JWTAuthentication()]"
            )
            raise ConfigError(f'{where}: rate_limit key "{key}" counts verified callers, and {why}')


def _loads_users(backend: BaseAuthentication, where: str) -> None:
    """Have a backend with a ``get_user`` of its own load the users of its scheme."""
    if type(backend).get_user is BaseAuthentication.get_user:
        return
    known = get_registered_backend(backend.scheme)
    if known is not None and type(known) is not type(backend):
        raise ConfigError(
            f"{where}: {type(backend).__name__} and {type(known).__name__} both load the users of "
            f"{backend.scheme}: keep one"
        )
    register_auth_backend(backend.scheme, backend)


def stated_backends(value: Any) -> tuple[BaseAuthentication, ...]:
    """The setting ``BOLT_AUTHENTICATION_CLASSES``."""
    return tuple(_checked(_stated(value), *_BACKENDS, "it"))


def stated_guards(value: Any) -> tuple[BaseGuard, ...]:
    """The setting ``BOLT_DEFAULT_PERMISSION_CLASSES``."""
    return tuple(_checked(_stated(value), *_GUARDS, "it"))


def _checked(given: Any, kind: type[Kind], what: str, where: str) -> list[Kind]:
    """A list of objects of one kind. Raises ConfigError that names the place."""
    found = []
    for item in given:
        if isinstance(item, type) and issubclass(item, kind):
            raise ConfigError(f"{where}: write {item.__name__}(), not {item.__name__}")
        if not isinstance(item, kind):
            raise ConfigError(f"{where}: {item!r} is no {what}")
        found.append(item)
    return found


def _stated(value: Any) -> list[Any]:
    """Objects, classes, or dotted paths of either."""
    from django.utils.module_loading import import_string

    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ConfigError(f"{value!r} is not a list")
    found = []
    for item in value:
        try:
            one = import_string(item) if isinstance(item, str) else item
        except ImportError as error:
            raise ConfigError(f"{item!r} cannot be imported: {error}") from None
        make: Callable[[], Any] | None = one if isinstance(one, type) else None
        found.append(make() if make else one)
    return found
