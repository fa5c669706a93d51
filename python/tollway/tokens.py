"""JSON Web Tokens, verified: the only way in which a claim may say who is charged.

Needs PyJWT: ``pip install "tollway[jwt]"``.

>>> import jwt
>>> verifier = Verifier("a shared secret of 32 bytes or so", ["HS256"])
>>> token = jwt.encode({"sub": "ada", "exp": 4102444800}, verifier.key, "HS256")
>>> verifier.claims(token)["sub"]
'ada'
>>> forged = jwt.encode({"sub": "eve", "exp": 4102444800}, "another secret of that length...")
>>> verifier.claims(forged) is None
True
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tollway.errors import ConfigError

TOKEN_BYTES_MAX: Final = 16_384
"""A longer token is not looked at."""

_OPTIONS: Final = ("KEY", "ALGORITHMS", "AUDIENCE", "ISSUER", "LEEWAY", "REQUIRE", "COOKIE")


class Verifier:
    """Verifies tokens with keys that are known beforehand; it never asks the network.

    ``key`` is a secret, a public key in PEM, or a mapping of key ids (``kid``) to these.
    ``algorithms`` are the ones to accept; what a token says of itself is not believed.
    ``leeway`` is in seconds. Claims in ``require`` must be there, ``exp`` unless you say otherwise.
    ``cookie`` names a cookie that may hold the token when no ``Authorization`` header does.

    Raises:
        ConfigError: on an algorithm that is not known or not safe, and without PyJWT.
    """

    def __init__(
        self,
        key: str | bytes | Mapping[str, str | bytes],
        algorithms: Sequence[str],
        *,
        audience: str | Sequence[str] | None = None,
        issuer: str | None = None,
        leeway: float = 0,
        require: Sequence[str] = ("exp",),
        cookie: str | None = None,
    ) -> None:
        try:
            import jwt
        except ImportError as error:
            raise ConfigError(
                'tokens are verified by PyJWT, which is not installed: pip install "tollway[jwt]"'
            ) from error
        if not key:
            raise ConfigError("a token cannot be verified without KEY")
        given: Any = algorithms
        if isinstance(given, str) or not isinstance(given, list | tuple) or not given:
            raise ConfigError(f'{given!r} is not a list of algorithms such as ["HS256"]')
        known = [name for name in jwt.PyJWS().get_algorithms() if name != "none"]
        for name in given:
            if name not in known:
                raise ConfigError(
                    f"algorithm {name!r} cannot verify a token: use {', '.join(sorted(known))}"
                )
        if isinstance(key, Mapping):
            for kid, one in key.items():
                self._check_one(jwt, kid, one, given)
        else:
            self._check_key(jwt, key, given)
        _check_options(audience, issuer, leeway, require, cookie)
        self.key = key
        self.algorithms = list(given)
        self.cookie = cookie
        self._errors = (jwt.PyJWTError, ValueError, TypeError)
        self._decode = jwt.decode
        self._header = jwt.get_unverified_header
        self._options: dict[str, Any] = {"audience": audience, "issuer": issuer, "leeway": leeway}
        self._checks: Any = {"require": list(require), "verify_aud": audience is not None}

    @staticmethod
    def _check_key(jwt: Any, key: str | bytes, algorithms: Sequence[str]) -> None:
        for name in algorithms:
            try:
                jwt.PyJWS().get_algorithm_by_name(name).prepare_key(key)
            except Exception as error:  # each algorithm has errors of its own
                raise ConfigError(f"KEY is no key for {name}: {error}") from error

    @classmethod
    def _check_one(cls, jwt: Any, kid: str, key: Any, algorithms: Sequence[str]) -> None:
        """Of keys by their ids, each is for one of the algorithms, not for all."""
        faults = []
        for name in algorithms:
            try:
                cls._check_key(jwt, key, [name])
            except ConfigError as error:
                faults.append(str(error).removeprefix("KEY"))
        if len(faults) == len(algorithms):
            raise ConfigError(f"KEY {kid!r}{faults[0]}")

    @classmethod
    def from_mapping(cls, stated: object) -> Verifier:
        """From ``{"KEY": …, "ALGORITHMS": ["HS256"], "AUDIENCE": …}``, as in a settings file."""
        if not isinstance(stated, Mapping):
            raise ConfigError('a mapping such as {"KEY": "…", "ALGORITHMS": ["HS256"]} is wanted')
        for name in stated:
            if name not in _OPTIONS:
                near = difflib.get_close_matches(str(name), _OPTIONS, n=1)
                hint = f": did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"unknown entry {name!r}{hint}; known: {', '.join(_OPTIONS)}")
        for name in ("KEY", "ALGORITHMS"):
            if not stated.get(name):
                raise ConfigError(f"{name!r} is missing")
        options = {
            name.lower(): stated[name] for name in _OPTIONS[2:] if stated.get(name) is not None
        }
        return cls(stated["KEY"], stated["ALGORITHMS"], **options)

    def token(self, authorization: str | None, cookies: Mapping[str, str]) -> str | None:
        """The token that a request carries, verified or not: in the header, else in the cookie."""
        found = bearer(authorization)
        return cookies.get(self.cookie) if found is None and self.cookie is not None else found

    def claims(self, token: str | None) -> dict[str, Any] | None:
        """The claims of a token that verifies; ``None`` for any other, whatever is wrong."""
        if not token or len(token) > TOKEN_BYTES_MAX:
            return None
        try:
            key: Any = self.key
            if isinstance(key, Mapping):
                key = key.get(str(self._header(token).get("kid")))
                if key is None:
                    return None
            claims: dict[str, Any] = self._decode(
                token, key, algorithms=self.algorithms, options=self._checks, **self._options
            )
        except self._errors:
            return None
        return claims

    def claim(self, token: str | None, name: str) -> str | None:
        """One claim as text, or ``None``: the token does not verify, or does not say."""
        claims = self.claims(token)
        value = None if claims is None else claims.get(name)
        return None if value is None or value == "" else str(value)


def _check_options(audience: Any, issuer: Any, leeway: Any, require: Any, cookie: Any) -> None:
    """Raises ConfigError on what would make every token one that does not verify."""
    for name, value in (("AUDIENCE", audience), ("ISSUER", issuer), ("COOKIE", cookie)):
        some = [value] if isinstance(value, str) or name == "COOKIE" else value
        if value is not None and not _are_texts(some):
            raise ConfigError(f"{name} is a text, not {value!r}")
    if isinstance(leeway, bool) or not isinstance(leeway, int | float) or not leeway >= 0:
        raise ConfigError(f"LEEWAY is a number of seconds, not {leeway!r}")
    if not _are_texts(require):
        raise ConfigError(f'REQUIRE is a list of names such as ["exp"], not {require!r}')


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset) and all(
        isinstance(one, str) for one in value
    )


def bearer(header: str | None) -> str | None:
    """The token in an ``Authorization`` header.

    >>> bearer("Bearer abc")
    'abc'
    >>> bearer("Basic abc") is None
    True
    """
    scheme, _, token = (header or "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token else None
