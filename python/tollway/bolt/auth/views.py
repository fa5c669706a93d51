"""Login, refresh and logout, ready to be included."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from typing import Annotated, Any

import msgspec

from tollway import Rate
from tollway.bolt.auth.backends import JWTAuthentication
from tollway.bolt.auth.guards import IsAuthenticated
from tollway.bolt.auth.lockout import LOGIN_LIMITS, LoginLockout, LoginTries
from tollway.bolt.auth.revocation import RevocationStore
from tollway.bolt.auth.tokens import (
    TokenPair,
    TokenRotationError,
    create_token_pair,
    rotate_refresh_token,
)
from tollway.bolt.auth.users import load_user
from tollway.bolt.exceptions import Unauthorized
from tollway.bolt.limits import rate_limit
from tollway.bolt.params import Depends
from tollway.bolt.request import Request
from tollway.bolt.router import Router
from tollway.errors import ConfigError

__all__ = ["JWTAuthViews", "LoginCredentials"]


class LoginCredentials(msgspec.Struct):
    """What a client sends to log in. Its ``repr`` keeps the password to itself."""

    username: Annotated[str, msgspec.Meta(pattern="^[^\\x00]*$")]
    password: str

    def __repr__(self) -> str:
        return f"LoginCredentials(username={self.username!r})"


class JWTAuthViews(Router):
    """``POST /login``, ``/refresh`` and ``/logout`` below a prefix::

        store = DjangoCacheRevocation()
        api.include_router(JWTAuthViews("/auth", store=store))

    Login takes a user name and a password and answers with an access and a refresh token.
    Refresh takes the refresh token in ``Authorization`` and answers with the next pair. Logout
    takes either, and revokes every token of that login: give the same ``store`` to
    ``JWTAuthentication(revocation_store=store)`` where that has to hold at once.

    ``login_rate`` limits the tries of one address, right or wrong; ``lockout`` the failed ones, of
    an account and of an address, as :class:`LoginLockout` counts them. Give None to either to limit
    them yourself.

    ``claims(user)`` is what both tokens say beside the user: permissions for guards, the tier for
    limits. It is a plain function, called on a thread where it may ask the database, at login and
    at each refresh, so that the next token says what holds then::

        def claims(user):
            return {"permissions": sorted(user.get_all_permissions()), "tier": user.plan}
    """

    def __init__(
        self,
        prefix: str = "/auth",
        *,
        store: RevocationStore,
        secret: str | None = None,
        public_key: str | None = None,
        algorithm: str = "HS256",
        access_ttl: int = 900,
        refresh_ttl: int = 604_800,
        login_rate: str | None = "10/m",
        lockout: Mapping[str, str | Rate] | None = LOGIN_LIMITS,
        claims: Callable[[Any], Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(prefix)
        if iscoroutinefunction(claims):
            raise ConfigError("JWTAuthViews: claims runs on a thread: write it without async")
        self.store = store
        made: dict[str, Any] = {
            "secret": secret,
            "algorithm": algorithm,
            "access_ttl": access_ttl,
            "refresh_ttl": refresh_ttl,
        }
        keys = {"public_key": public_key} if public_key else {"secret": secret}

        def by(token_type: str | None) -> JWTAuthentication:
            return JWTAuthentication(
                algorithms=[algorithm], token_type=token_type, revocation_store=store, **keys
            )

        def more(user: Any) -> Mapping[str, Any]:
            return {} if claims is None else claims(user)

        counted = Depends(LoginLockout(lockout))

        # Plain: hashing a password takes a while, and all async queries share one thread.
        def login(credentials: LoginCredentials, tries: Any = counted) -> dict[str, Any]:
            user = user_of(credentials, tries)
            pair = create_token_pair(user, method="pwd", claims=more(user), **made)
            return told(pair, access_ttl)

        async def refresh(request: Request) -> dict[str, Any]:
            from asgiref.sync import sync_to_async

            shown = request.auth or {}
            user = await load_user(str(shown.get("sub")), request.context)
            if user is None:
                raise Unauthorized("this user may not log in")
            try:
                pair = await rotate_refresh_token(
                    shown, store=store, user=user, claims=await sync_to_async(more)(user), **made
                )
            except TokenRotationError as error:
                raise Unauthorized(str(error)) from error
            return told(pair, access_ttl)

        async def logout(request: Request) -> None:
            await end_login(request.auth or {}, store, refresh_ttl)

        if login_rate:
            login = rate_limit(login_rate, key="ip")(login)
        guards = [IsAuthenticated()]
        # The store is asked by the exchange itself: a token that was used twice ends its login.
        exchange = JWTAuthentication(algorithms=[algorithm], token_type="refresh", **keys)
        self.post("/login", auth=[], guards=[])(login)
        self.post("/refresh", auth=[exchange], guards=guards)(refresh)
        self.post("/logout", auth=[by(None), by("refresh")], guards=guards, status_code=204)(logout)


def user_of(credentials: LoginCredentials, tries: LoginTries) -> Any:
    """Whom the credentials belong to; 401 for nobody, whatever it is that was wrong."""
    from django.contrib.auth import authenticate

    with tries.attempt(credentials.username) as succeeded:
        user = authenticate(username=credentials.username, password=credentials.password)
        if user is None:
            raise Unauthorized("the user name or the password is wrong")
        succeeded()
    return user


async def end_login(shown: Mapping[str, Any], store: RevocationStore, refresh_ttl: int) -> None:
    """Revoke a token that is shown, and every other of its login."""
    if shown.get("fam"):
        # Whenever the login was, its last refresh token may have been made just now.
        exp = max(time.time() + refresh_ttl, shown["exp"])
        await store.revoke_family(shown["fam"], exp=exp)
    else:
        await store.revoke(shown["jti"], exp=shown["exp"])


def told(pair: TokenPair, access_ttl: int) -> dict[str, Any]:
    """A pair as clients read it (RFC 6749)."""
    return {
        "access_token": pair.access_token,
        "refresh_token": pair.refresh_token,
        "token_type": "bearer",
        "expires_in": access_ttl,
    }
