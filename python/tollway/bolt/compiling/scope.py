"""What a ``BoltAPI`` or a ``Router`` says of all the routes inside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, Literal, TypedDict, TypeVar

from tollway.bolt.compression import CompressionConfig, read_compression
from tollway.bolt.cors import CORSConfig, configured
from tollway.bolt.logging import LoggingConfig
from tollway.errors import ConfigError

__all__ = [
    "Scope",
    "ScopeOptions",
    "no_compress",
    "refuse_unknown",
    "scope_of",
    "skip_middleware",
    "skipped",
]

Handler = TypeVar("Handler", bound=Callable[..., Any])

_MARK: Final = "__tollway_skip__"


@dataclass(frozen=True, slots=True)
class Scope:
    """Rules for the routes of one holder. None means that the outer holder's rules stand."""

    middleware: tuple[Any, ...] = ()
    django: Any = None
    cors: CORSConfig | Literal[False] | None = None
    logging: LoggingConfig | Literal[False] | None = None
    compression: CompressionConfig | Literal[False] | None = None


class ScopeOptions(TypedDict, total=False):
    """What a ``BoltAPI`` or a ``Router`` can say of all routes in it."""

    middleware: Sequence[Any]
    """Classes of :mod:`tollway.bolt.middleware`, run in this order."""
    django_middleware: Any
    """True for that of the settings, a list of dotted paths, ``{"include": [...]}`` or
    ``{"exclude": [...]}``; False for none."""
    middleware_config: Mapping[str, Any]
    """``{"cors": {...}}``, another way to write ``cors``."""
    cors: CORSConfig | Mapping[str, Any] | Literal[False]
    """Who may read answers from another origin."""
    enable_logging: bool
    """False leaves the routes out of the access log."""
    logging_config: LoggingConfig
    """What the access log holds of them."""
    compression: CompressionConfig | bool
    """How answers are compressed; False for not at all."""


def scope_of(options: ScopeOptions) -> Scope:
    """The scope that a constructor's parameters describe."""
    config = dict(options.get("middleware_config") or {})
    told = config.pop("cors", None)
    if config:
        raise ConfigError(
            f'middleware_config has no {min(config)!r}: it holds "cors"; limits are written as '
            "@rate_limit or RATELIMIT_RULES"
        )
    cors = options.get("cors")
    logging_config = options.get("logging_config")
    if cors is not None and told is not None:
        raise ConfigError("cors= and middleware_config say the same thing twice: keep one")
    chosen = told if cors is None else cors
    if logging_config is not None and not isinstance(logging_config, LoggingConfig):
        raise ConfigError(f"logging_config={logging_config!r} is not a LoggingConfig")
    compression = options.get("compression")
    chosen_compression: CompressionConfig | Literal[False] | None = None
    if compression is not None:
        chosen_compression = read_compression(compression) or False
    return Scope(
        middleware=tuple(options.get("middleware") or ()),
        django=options.get("django_middleware"),
        cors=False if chosen is False else configured(chosen, "cors"),
        logging=logging_config if options.get("enable_logging", True) else False,
        compression=chosen_compression,
    )


def refuse_unknown(options: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise ConfigError for what is no option: a misspelt ``guards=`` must not open a route."""
    names = list(known)
    for name in options:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise ConfigError(f"{where}: there is no option {name!r}; {hint}")


def skip_middleware(*names: str) -> Callable[[Handler], Handler]:
    """Leave out what the API or its routers put before a handler.

    ``"cors"``, ``"compression"``, the name of a middleware class or function, the dotted path of
    a Django middleware, or ``"*"`` for all of these. Limits and guards stay: they protect.
    """
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError('skip_middleware: name what to skip, for example "cors" or "*"')

    def mark(handler: Handler) -> Handler:
        setattr(handler, _MARK, skipped(handler) | set(names))
        return handler

    return mark


def no_compress(handler: Handler) -> Handler:
    """Send the answers of a handler as they are.

    For answers that hold a secret beside what the client sent: their compressed length tells.
    """
    return skip_middleware("compression")(handler)


def skipped(handler: Callable[..., Any]) -> frozenset[str]:
    """What ``@skip_middleware`` names on a handler."""
    return frozenset(getattr(handler, _MARK, ()))
