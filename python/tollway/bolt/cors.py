"""``@cors``: which pages of other origins may read an answer. Decided before any Python runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self, TypeVar

from tollway.errors import ConfigError

__all__ = ["CORSConfig", "cors", "cors_of"]

Handler = TypeVar("Handler", bound=Callable[..., Any])
Pattern = str | re.Pattern[str]

_MARK: Final = "__tollway_cors__"
METHODS: Final = ("DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT")
HEADERS: Final = (
    *("accept", "authorization", "content-type", "user-agent"),
    *("x-csrftoken", "x-requested-with"),
)


@dataclass(frozen=True, slots=True)
class CORSConfig:
    """Who may read answers from another origin, and with what.

    ``CORSConfig(origins=["https://shop.example"], credentials=True)``
    """

    origins: Sequence[str] = ()
    """``["https://shop.example"]``; ``["*"]`` for every origin."""
    origin_regexes: Sequence[Pattern] = ()
    """Patterns that a whole origin may match."""
    credentials: bool = False
    """Whether cookies may be sent and the answer to them read."""
    methods: Sequence[str] = METHODS
    headers: Sequence[str] = HEADERS
    """Request headers that a page may set."""
    expose_headers: Sequence[str] = ()
    """Response headers that a page may read."""
    max_age: int = 86_400
    """Seconds that a browser remembers the answer to a preflight."""
    private_network: bool = False
    """Whether pages from the internet may reach a server in a private network."""

    def __post_init__(self) -> None:
        for name in ("origins", "origin_regexes", "methods", "headers", "expose_headers"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, list | tuple | set | frozenset):
                raise ConfigError(f"CORS: {name}={value!r} is not a list of texts")
        if isinstance(self.max_age, bool) or not 0 <= self.max_age <= 2_592_000:
            raise ConfigError(
                f"CORS: max_age={self.max_age!r} is not a number of seconds from 0 to 2592000"
            )

    def but(self, given: Mapping[str, Any]) -> Self:
        """These rules with some of them replaced.

        Origins, patterns and credentials are replaced together: to name another origin must not
        give it the credentials that were meant for the first.
        """
        unknown = set(given) - {field.name for field in fields(self)}
        if unknown:
            names = ", ".join(field.name for field in fields(self))
            raise ConfigError(f"CORS has no {min(unknown)!r}; there are {names}")
        told = {name: value for name, value in given.items() if value is not None}
        if "origins" in told or "origin_regexes" in told:
            told = {"origins": (), "origin_regexes": (), "credentials": False} | told
        return replace(self, **told)

    def native(self) -> dict[str, Any]:
        """What the server reads."""
        return {
            "origins": list(self.origins),
            "origin_regexes": [_pattern(item) for item in self.origin_regexes],
            "credentials": bool(self.credentials),
            "methods": [method.upper() for method in self.methods],
            "headers": list(self.headers),
            "expose_headers": list(self.expose_headers),
            "max_age": self.max_age,
            "private_network": bool(self.private_network),
        }


def _pattern(item: Pattern) -> str:
    """A pattern's own text; the one flag that changes what an origin matches stays."""
    if isinstance(item, str):
        return item
    return f"(?i:{item.pattern})" if item.flags & re.IGNORECASE else item.pattern


def cors(
    origins: Sequence[str] | None = None,
    *,
    origin_regexes: Sequence[Pattern] | None = None,
    credentials: bool | None = None,
    methods: Sequence[str] | None = None,
    headers: Sequence[str] | None = None,
    expose_headers: Sequence[str] | None = None,
    max_age: int | None = None,
    private_network: bool | None = None,
) -> Callable[[Handler], Handler]:
    """Let pages of other origins read this handler's answers.

    What is left out is as in the API's ``cors=`` or the ``CORS_*`` settings; ``credentials`` is
    off wherever ``origins`` are named. See :class:`CORSConfig` for the meanings.

    ::

        @api.get("/prices")
        @cors(origins=["https://shop.example"], credentials=True)
        async def prices(): ...
    """
    given = {
        "origins": origins,
        "origin_regexes": origin_regexes,
        "credentials": credentials,
        "methods": methods,
        "headers": headers,
        "expose_headers": expose_headers,
        "max_age": max_age,
        "private_network": private_network,
    }
    CORSConfig().but(given)

    def mark(handler: Handler) -> Handler:
        setattr(handler, _MARK, given)
        return handler

    return mark


def cors_of(handler: Callable[..., Any]) -> Mapping[str, Any] | None:
    """What ``@cors`` says of a handler."""
    found: Mapping[str, Any] | None = getattr(handler, _MARK, None)
    return found


def configured(value: Any, what: str) -> CORSConfig | None:
    """``cors=`` of an API: a CORSConfig, a mapping of its fields, or False for none."""
    if value is None or value is False:
        return None
    if isinstance(value, CORSConfig):
        return value
    if isinstance(value, Mapping):
        return CORSConfig().but(value)
    raise ConfigError(f"{what}: {value!r} is not a CORSConfig, a dict or False")
