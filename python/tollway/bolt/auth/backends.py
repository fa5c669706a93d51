"""The ways in which a caller shows who they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tollway import hash_identity
from tollway._tollway import ApiKeys, TokenVerifier
from tollway.bolt.auth.keysets import KeySetSource
from tollway.bolt.auth.revocation import RevocationStore
from tollway.bolt.auth.tokens import secret_keys
from tollway.errors import ConfigError
from tollway.rules import Following, follow

__all__ = [
    "APIKeyAuthentication",
    "BaseAuthentication",
    "JWTAuthentication",
    "SessionAuthentication",
]

KEY_MIN: Final = 16
"""An API key has this many characters at least."""

Names = str | Sequence[str] | None


class BaseAuthentication:
    """What all ways share. Derive from one of them to load users in a way of your own."""

    scheme = ""
    """``jwt``, ``api_key`` or ``session``, as in ``request.context["auth_backend"]``."""

    def native(self) -> Any:
        """The backend as the server reads it, made once. Raises ConfigError."""
        raise ConfigError(
            f"{type(self).__name__} is no way to authenticate: derive from JWTAuthentication, "
            "APIKeyAuthentication or SessionAuthentication"
        )

    def get_user(self, user_id: str, context: Mapping[str, Any]) -> Any:
        """The user with an id, or None. May be async; by default the user model is asked."""
        from tollway.bolt.auth.users import find_user

        return find_user(user_id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class JWTAuthentication(BaseAuthentication):
    """By a signed token, verified in Rust: ``Authorization: Bearer …``, or a cookie.

    The key is one of ``secret`` (HS256 to HS512; a list while secrets are changed: the new one,
    then the old; Django's ``SECRET_KEY`` and ``SECRET_KEY_FALLBACKS`` if nothing is given),
    ``public_key`` in PEM, ``jwks``, a key set as text or dict, and ``jwks_url`` or ``oidc_issuer``,
    from which a key set is fetched in the background, and again when its keys change. They begin
    with ``https://``, or name this machine, unless ``allow_http`` says that you trust the network.

    ``algorithms`` are the only ones accepted, whatever a token says of itself: HS256, HS384,
    HS512, RS256 to RS512, PS256 to PS512, ES256, ES384, EdDSA. ``audience`` and ``issuer`` must
    be named by the token if they are given. ``leeway`` is how many seconds clocks may differ.
    ``token_type`` is the claim ``typ`` that a token must have; without it any but ``refresh``.

    ``cookie`` reads the token from there in place of ``header``; requests that change something
    must then come from the site itself, unless ``csrf=False``. With a ``revocation_store``
    tokens need a ``jti``, and those that were revoked are refused.
    """

    scheme = "jwt"

    def __init__(
        self,
        secret: str | Sequence[str] | None = None,
        *,
        public_key: str | None = None,
        algorithms: Sequence[str] | None = None,
        header: str = "authorization",
        cookie: str | None = None,
        audience: Names = None,
        issuer: Names = None,
        leeway: float = 60.0,
        token_type: str | None = None,
        csrf: bool = True,
        jwks_url: str | None = None,
        jwks: str | Mapping[str, Any] | None = None,
        oidc_issuer: str | None = None,
        allow_http: bool = False,
        revocation_store: RevocationStore | None = None,
    ) -> None:
        keys: dict[str, Any] = {
            "secret": secret,
            "public_key": public_key,
            "jwks": jwks,
            "jwks_url": jwks_url,
            "oidc_issuer": oidc_issuer,
        }
        given = [name for name, value in keys.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(f"JWTAuthentication: {' and '.join(given)} are two keys: keep one")
        if isinstance(algorithms, str):
            raise ConfigError(f"JWTAuthentication: write algorithms=[{algorithms!r}]")
        shared = given in ([], ["secret"])
        self.algorithms = list(algorithms or (["HS256"] if shared else ["RS256"]))
        self.token_type = token_type
        self.revocation_store = revocation_store
        if oidc_issuer is not None and issuer is None:
            issuer = oidc_issuer
        if (jwks_url or oidc_issuer) and not audience:
            raise ConfigError(
                "JWTAuthentication: give audience= as well: an issuer makes tokens for others too"
            )
        self._keys = keys
        self._allow_http = allow_http
        self._options: dict[str, Any] = {
            "audience": _names(audience),
            "issuer": _names(issuer),
            "leeway": leeway,
            "token_type": token_type,
            "needs_id": revocation_store is not None,
            "header": header,
            "cookie": cookie,
            "csrf": csrf,
            "revoked": None if revocation_store is None else revocation_store.native,
        }
        self._native: TokenVerifier | None = None
        self._following: Following | None = None

    def native(self) -> TokenVerifier:
        if self._native is None:
            keys = self._keys
            jwks = keys["jwks"]
            if isinstance(jwks, Mapping):
                jwks = json.dumps(jwks)
            url, issuer = keys["jwks_url"], keys["oidc_issuer"]
            fetched = url or issuer
            shared = not (keys["public_key"] or jwks or fetched)
            self._native = TokenVerifier(
                self.algorithms,
                secrets=secret_keys(keys["secret"]) if shared else [],
                public_key=keys["public_key"],
                jwks=jwks.encode() if isinstance(jwks, str) else None,
                **self._options,
            )
            if fetched:
                target: Any = self._native
                source = KeySetSource(self._native, url, issuer, allow_http=self._allow_http)
                self._following = follow(target, source)
        return self._native

    def __repr__(self) -> str:
        return f"{type(self).__name__}(algorithms={self.algorithms!r})"


def _names(given: Names) -> list[str]:
    if given is None:
        return []
    return [given] if isinstance(given, str) else list(given)


class APIKeyAuthentication(BaseAuthentication):
    """By an API key in a header, ``X-API-Key`` unless you say otherwise.

    ``api_keys`` are the keys in clear; only their hashes are kept. ``key_permissions`` says what
    each may do, for :class:`HasPermission` and the like, ``key_tiers`` in which tier it is, for
    limits. ``issued=True`` takes the keys that ``tollway.django`` issues: their hashes are held
    in memory and follow the database, so that a key that is revoked is refused within a second.
    """

    scheme = "api_key"

    def __init__(
        self,
        api_keys: Iterable[str] = (),
        header: str = "x-api-key",
        key_permissions: Mapping[str, Iterable[str]] | None = None,
        key_tiers: Mapping[str, str] | None = None,
        *,
        issued: bool = False,
    ) -> None:
        if isinstance(api_keys, str):
            raise ConfigError('APIKeyAuthentication: write api_keys=["…"], a list')
        keys = dict.fromkeys(api_keys)
        permissions, tiers = key_permissions or {}, key_tiers or {}
        for place, named in (("key_permissions", permissions), ("key_tiers", tiers)):
            strangers = sum(key not in keys for key in named)
            if strangers and not issued:
                raise ConfigError(
                    f"APIKeyAuthentication: {place} has {strangers} keys that are not in api_keys"
                )
        if bool(keys) == issued:
            raise ConfigError("APIKeyAuthentication: give api_keys, or issued=True")
        given: list[Any] = list(keys)
        for position, key in enumerate(given):
            if not isinstance(key, str) or len(key) < KEY_MIN:
                raise ConfigError(
                    f"APIKeyAuthentication: the key at position {position} has less than "
                    f"{KEY_MIN} characters: make one with secrets.token_urlsafe(32)"
                )
        self.header = header
        self.issued = issued
        self._told = [
            (hash_identity(key), None, tiers.get(key), sorted(permissions.get(key, ())), None)
            for key in keys
        ]
        self._native: ApiKeys | None = None
        self._following: Following | None = None

    def native(self) -> ApiKeys:
        if self._native is None:
            self._native = ApiKeys(self.header, self._told)
            if self.issued:
                from importlib import import_module

                source = import_module("tollway.django.keys").IssuedKeys()
                target: Any = self._native
                self._following = follow(target, source)
        return self._native


class SessionAuthentication(BaseAuthentication):
    """By a session of Django's: its cookie says that there may be one, and Django looks it up.

    One or two queries a request, before the handler. Requests that change something must come
    from the site itself, or from ``CSRF_TRUSTED_ORIGINS``, unless ``csrf=False``.
    """

    scheme = "session"

    def __init__(self, *, csrf: bool = True) -> None:
        self.csrf = csrf

    def native(self) -> tuple[str, str, bool]:
        from django.conf import settings

        return ("session", settings.SESSION_COOKIE_NAME, self.csrf)
