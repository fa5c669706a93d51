"""What has to be asked in Python before a handler runs: sessions, and stores of revocations."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tollway._tollway import Request, admit_session, awaits_session, challenge
from tollway.bolt.auth.backends import BaseAuthentication, JWTAuthentication, SessionAuthentication
from tollway.bolt.auth.guards import PERMISSIONS, BaseGuard, Requires
from tollway.bolt.auth.revocation import RevocationStore
from tollway.bolt.auth.tokens import flags_of
from tollway.bolt.exceptions import HTTPException, ServiceUnavailable, Unauthorized
from tollway.bolt.params import Depends

__all__ = ["admission"]

log = logging.getLogger("tollway.bolt.auth")


def admission(
    backends: Sequence[BaseAuthentication], guards: Sequence[BaseGuard]
) -> tuple[Depends, ...]:
    """What stands before a handler: nothing where Rust has decided everything."""
    stores = [
        backend.revocation_store
        for backend in backends
        if isinstance(backend, JWTAuthentication)
        and backend.revocation_store is not None
        and backend.revocation_store.native is None
    ]
    found: list[Callable[..., Any]] = [revocation_check(store) for store in dict.fromkeys(stores)]
    if any(isinstance(backend, SessionAuthentication) for backend in backends):
        found.append(session_check(guards))
    return tuple(Depends(check) for check in found)


def revocation_check(store: RevocationStore) -> Callable[..., Any]:
    """Refuses a token that a store knows as revoked."""

    async def not_revoked(request: Request) -> None:
        claims = request.auth
        context = request.context
        if claims is None or context is None or context["auth_backend"] != "jwt":
            return
        keys = [f"{name}:{claims[name]}" for name in ("jti", "fam") if claims.get(name)]
        try:
            async with asyncio.timeout(store.timeout):
                revoked = await store.contains(keys)
        except Exception as error:
            log.error("%s cannot be asked: %s", type(store).__name__, error)
            raise ServiceUnavailable("nobody can say now whether this token was revoked") from error
        if revoked:
            detail = "the token was revoked"
            shown = challenge(request, detail) or "Bearer"
            raise Unauthorized(detail, headers={"WWW-Authenticate": shown})

    return not_revoked


def session_check(guards: Sequence[BaseGuard]) -> Callable[..., Any]:
    """Looks a session up, and asks the guards about its user."""
    permissions = any(
        isinstance(guard, Requires) and guard.claim == PERMISSIONS for guard in guards
    )

    async def known_session(request: Request) -> None:
        if not awaits_session(request):
            return
        from asgiref.sync import sync_to_async

        look_up = sync_to_async(_session_user, thread_sensitive=True)
        session, user, claims = await look_up(request.cookies, permissions)
        request.state["session"] = session
        refusal = admit_session(request, None if claims is None else msgspec.json.encode(claims))
        request.user = user
        if refusal is not None:
            status, detail, shown = refusal
            raise HTTPException(status, detail, {"WWW-Authenticate": shown} if shown else None)

    return known_session


class _Holder:
    """As much of a request as Django needs to find the user of a session."""

    def __init__(self, session: Any) -> None:
        self.session = session


def _session_user(cookies: Any, permissions: bool) -> tuple[Any, Any, dict[str, Any] | None]:
    from importlib import import_module

    from django.conf import settings
    from django.contrib.auth import get_user

    engine = import_module(settings.SESSION_ENGINE)
    session = engine.SessionStore(cookies.get(settings.SESSION_COOKIE_NAME))
    holder: Any = _Holder(session)
    user: Any = get_user(holder)
    if not user.is_authenticated:
        return session, user, None
    claims = {"sub": str(user.pk), "username": user.get_username(), **flags_of(user)}
    if permissions:
        claims[PERMISSIONS] = sorted(user.get_all_permissions())
    return session, user, claims
