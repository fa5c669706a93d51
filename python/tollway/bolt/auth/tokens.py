"""Making tokens, and exchanging them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import msgspec

from tollway._tollway import SigningKey, TokenVerifier
from tollway.bolt.auth.revocation import RevocationStore
from tollway.errors import ConfigError

__all__ = [
    "Token",
    "TokenPair",
    "TokenRotationError",
    "create_jwt_for_user",
    "create_token_pair",
    "rotate_refresh_token",
    "set_token_cookies",
    "signing_key",
]

RESERVED: Final = frozenset({"sub", "iat", "oat", "ver", "typ", "exp", "jti", "fam", "amr"})
"""Claims that a pair's life depends on."""


class TokenRotationError(Exception):
    """A refresh token that may not be exchanged. Answer with 401."""


def secret_key(secret: str | None) -> str:
    """A secret, or Django's ``SECRET_KEY``."""
    if secret is not None:
        return secret
    from django.conf import settings

    found: str = settings.SECRET_KEY
    return found


def secret_keys(given: str | Sequence[str] | None) -> list[str]:
    """Secrets that tokens are verified with: those given, or Django's ``SECRET_KEY`` and
    ``SECRET_KEY_FALLBACKS``."""
    if given is not None:
        found = [given] if isinstance(given, str) else list(given)
        if not found:
            raise ConfigError("JWTAuthentication: the list of secrets is empty")
        return found
    from django.conf import settings

    return [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]


@lru_cache(maxsize=16)
def signing_key(algorithm: str, key: str, kid: str | None = None) -> SigningKey:
    """A key that signs, read once: a secret, or a private key in PEM (PKCS #8)."""
    return SigningKey(algorithm, key, kid)


def signed(claims: Mapping[str, Any], secret: str | None, algorithm: str) -> str:
    """A token with these claims."""
    return signing_key(algorithm, secret_key(secret)).sign(msgspec.json.encode(claims))


def flags_of(user: Any) -> dict[str, Any]:
    """What a token says of a user beside the id."""
    return {
        "is_staff": bool(getattr(user, "is_staff", False)),
        "is_superuser": bool(getattr(user, "is_superuser", False)),
    }


def subject_of(user: Any) -> str:
    """The id of a user, or of one that is given by id."""
    found = user if isinstance(user, str | int) else getattr(user, "pk", None)
    if found is None or isinstance(found, bool):
        raise ValueError(f"a token needs a user that is saved, or an id, not {type(user).__name__}")
    return str(found)


def create_jwt_for_user(
    user: Any,
    secret: str | None = None,
    algorithm: str = "HS256",
    expires_in: int = 3600,
    extra_claims: Mapping[str, Any] | None = None,
    issuer: str | None = None,
    audience: str | None = None,
) -> str:
    """A token for a user of Django's, good for ``expires_in`` seconds.

    It says ``sub``, ``is_staff``, ``is_superuser``, ``username``, ``email``, ``iat``, ``exp`` and
    ``jti``, and what ``extra_claims`` says: permissions, for example. ``secret`` is
    ``SECRET_KEY``, or a private key in PEM for RS, PS, ES and EdDSA.
    """
    now = int(time.time())
    claims: dict[str, Any] = {
        "sub": subject_of(user),
        "iat": now,
        "exp": now + expires_in,
        "jti": secrets.token_hex(16),
        **flags_of(user),
    }
    for name in ("username", "email"):
        if getattr(user, name, None):
            claims[name] = getattr(user, name)
    given = {"iss": issuer, "aud": audience}
    claims |= {name: value for name, value in given.items() if value is not None}
    claims |= dict(extra_claims or {})
    return signed(claims, secret, algorithm)


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A short access token and the refresh token that brings the next one."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    access_claims: dict[str, Any]
    refresh_claims: dict[str, Any] | None


def create_token_pair(
    user: Any,
    *,
    secret: str | None = None,
    algorithm: str = "HS256",
    access_ttl: int = 900,
    refresh_ttl: int = 604_800,
    claims: Mapping[str, Any] | None = None,
    method: str | None = None,
    version: int = 0,
    oat: int | None = None,
    family: str | None = None,
) -> TokenPair:
    """A pair for a user, or for a user's id.

    Both tokens have ``typ`` (``access``, ``refresh``), ``jti`` and ``fam``, which is the same for
    all tokens of one login. ``claims`` go into both. ``method`` is told as ``amr``, ``oat`` is
    when the user logged in. What may change with the user, such as ``is_staff``, is in the
    access token only.
    """
    taken = sorted(RESERVED & set(claims or {}))
    if taken:
        raise ValueError(f"the claims {', '.join(taken)} are set by the pair itself")
    now = int(time.time())
    shared: dict[str, Any] = {
        **(claims or {}),
        "sub": subject_of(user),
        "iat": now,
        "oat": now if oat is None else oat,
        "ver": version,
        "fam": family or secrets.token_hex(16),
    }
    if method is not None:
        shared["amr"] = [method]
    flags = {} if isinstance(user, str | int) else flags_of(user)
    access = flags | shared | _life("access", now + access_ttl)
    refresh = shared | _life("refresh", now + refresh_ttl)
    tokens = [signed(one, secret, algorithm) for one in (access, refresh)]
    return TokenPair(tokens[0], tokens[1], access, refresh)


def _life(typ: str, exp: int) -> dict[str, Any]:
    return {"typ": typ, "exp": exp, "jti": secrets.token_hex(16)}


async def rotate_refresh_token(
    refresh_claims: Mapping[str, Any],
    *,
    store: RevocationStore,
    user: Any = None,
    secret: str | None = None,
    algorithm: str = "HS256",
    access_ttl: int = 900,
    refresh_ttl: int = 604_800,
    rotate: bool = True,
    max_session_lifetime: int | None = None,
    claims: Mapping[str, Any] | None = None,
) -> TokenPair:
    """A new pair for a refresh token whose claims were verified (``request.auth``).

    The old token is good no longer. Whoever shows it again has stolen it, or was stolen from:
    then every token of that login is revoked. ``rotate=False`` makes an access token only and
    leaves the refresh token as it is. ``max_session_lifetime`` is in seconds since the login.
    Give the ``user`` as the database has them now, and ``claims`` anew, so that the new tokens say
    what holds now: of the old one's claims only those about the login itself are kept.

    Raises :class:`TokenRotationError`.
    """
    jti, fam, sub = (refresh_claims.get(name) for name in ("jti", "fam", "sub"))
    exp = refresh_claims.get("exp")
    if refresh_claims.get("typ") != "refresh" or not (jti and fam and sub):
        raise TokenRotationError("this is no refresh token")
    if await store.is_family_revoked(str(fam)):
        raise TokenRotationError("this login was ended")
    now = int(time.time())
    oat = int(refresh_claims.get("oat") or refresh_claims.get("iat") or now)
    if max_session_lifetime is not None and now - oat >= max_session_lifetime:
        raise TokenRotationError("this login is too old")
    if rotate:
        if not await store.consume(str(jti), exp=exp):
            await store.revoke_family(str(fam), exp=now + refresh_ttl)
            raise TokenRotationError("this refresh token was used before: the login is ended")
    elif await store.is_revoked(str(jti)):
        raise TokenRotationError("this refresh token was revoked")
    pair = create_token_pair(
        sub if user is None else user,
        secret=secret,
        algorithm=algorithm,
        access_ttl=access_ttl,
        refresh_ttl=refresh_ttl,
        claims=claims,
        method=next(iter(refresh_claims.get("amr") or ()), None),
        version=int(refresh_claims.get("ver") or 0),
        oat=oat,
        family=str(fam),
    )
    return pair if rotate else TokenPair(pair.access_token, None, pair.access_claims, None)


def set_token_cookies(
    response: Any,
    pair: TokenPair,
    *,
    access_cookie: str = "access_token",
    refresh_cookie: str = "refresh_token",
    refresh_path: str = "/",
    secure: bool = True,
    samesite: Any = "Lax",
    domain: str | None = None,
) -> Any:
    """Give a pair to a browser, in cookies that scripts cannot read. Returns the response.

    ``refresh_path`` should be that of the route that exchanges the refresh token: then it is sent
    nowhere else.
    """
    now = int(time.time())
    for name, token, claims, path in (
        (access_cookie, pair.access_token, pair.access_claims, "/"),
        (refresh_cookie, pair.refresh_token, pair.refresh_claims, refresh_path),
    ):
        if token is not None and claims is not None:
            response.set_cookie(
                name,
                token,
                max_age=max(0, claims["exp"] - now),
                path=path,
                domain=domain,
                secure=secure,
                httponly=True,
                samesite=samesite,
            )
    return response


@dataclass(slots=True)
class Token:
    """A token as an object: ``Token(sub="7", exp=…).encode(secret)``."""

    sub: str
    exp: int
    iat: int | None = None
    iss: str | None = None
    aud: str | None = None
    jti: str | None = None
    extras: dict[str, Any] = field(default_factory=dict)

    def encode(self, secret: str | None = None, algorithm: str = "HS256") -> str:
        """The signed text."""
        named = {name: getattr(self, name) for name in ("sub", "exp", "iat", "iss", "aud", "jti")}
        return signed(
            {**self.extras, **{name: value for name, value in named.items() if value is not None}},
            secret,
            algorithm,
        )

    @classmethod
    def decode(
        cls,
        encoded_token: str,
        secret: str | None = None,
        algorithm: str = "HS256",
        *,
        audience: str | None = None,
        issuer: str | None = None,
        leeway: float = 0,
    ) -> Token:
        """Read a signed text. Raises ValueError when it is not to be believed."""
        key = secret_key(secret)
        given: dict[str, Any] = (
            {"secrets": [key]} if algorithm.startswith("HS") else {"public_key": key}
        )
        verifier = TokenVerifier(
            [algorithm],
            audience=[audience] if audience else [],
            issuer=[issuer] if issuer else [],
            leeway=leeway,
            **given,
        )
        claims = verifier.verify(encoded_token)
        if not isinstance(claims.get("sub"), str) or not claims["sub"]:
            raise ValueError("the token names nobody")
        names = ("exp", "iat", "iss", "aud", "jti")
        known = {name: claims.pop(name, None) for name in ("sub", *names)}
        return cls(**known, extras=claims)
