"""What the server adds to answers: CORS, security headers, request ids, the access log.

All of it is decided for each route when the server starts. Routes that get the same share one
dict, of which the server makes one set of rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tollway.bolt.compiling.scope import Scope, skipped
from tollway.bolt.compression import CompressionConfig, read_compression
from tollway.bolt.cors import CORSConfig, cors_of
from tollway.bolt.logging import LoggingConfig
from tollway.errors import ConfigError

__all__ = ["AccessLog", "AnswerSettings", "Answers", "read_answers"]

SECURITY: Final = "django.middleware.security.SecurityMiddleware"
FRAMES: Final = "django.middleware.clickjacking.XFrameOptionsMiddleware"


@dataclass(frozen=True, slots=True)
class AccessLog:
    """Where the access log goes and what it may cost."""

    file: str | None = None
    """Standard error where there is none."""
    json: bool = False
    refusals: int = 10
    """Most refusals written in a second; the others are counted."""
    buffer: int = 1_048_576
    """Most bytes that wait to be written."""
    config: LoggingConfig = field(default_factory=LoggingConfig)

    def native(self) -> dict[str, Any]:
        """What the server reads."""
        return {
            "file": self.file,
            "json": self.json,
            "refusals": self.refusals,
            "buffer": self.buffer,
        }


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """The settings about answers that hold for every route unless it says otherwise."""

    cors: CORSConfig | None = None
    cors_paths: re.Pattern[str] | None = None
    """Paths of routes that ``cors`` holds for; None for all."""
    headers: tuple[tuple[str, str], ...] = ()
    secure_headers: tuple[tuple[str, str], ...] = ()
    secure: tuple[str, str] | str | None = None
    """When a request counts as one over TLS: never, ``"always"``, or by a header of a proxy."""
    request_id: tuple[str, bool] | None = None
    """The header that carries it, and whether the client's own is kept."""
    log: AccessLog | None = None
    compression: CompressionConfig | None = None


class Answers:
    """Makes of settings, APIs and decorators what the server reads."""

    def __init__(self, settings: AnswerSettings) -> None:
        self.settings = settings
        self._made: dict[str, dict[str, Any]] = {}

    def of(
        self, handler: Callable[..., Any], path: str, scopes: tuple[Scope, ...]
    ) -> dict[str, Any]:
        """What a route adds to its answers."""
        return self._shared(
            self._cors(handler, path, scopes),
            self._logging(path, scopes),
            self._compression(handler, scopes),
        )

    @property
    def elsewhere(self) -> dict[str, Any]:
        """The same for requests that no route answers."""
        settings = self.settings
        everywhere = settings.cors if settings.cors_paths is None else None
        return self._shared(everywhere, settings.log.config if settings.log else None, None)

    def native(self) -> dict[str, Any]:
        """The setting ``answers`` of the server."""
        log = self.settings.log
        return {
            "log": log.native() if log else None,
            "elsewhere": self.elsewhere,
            "secure": self.settings.secure,
        }

    def _cors(
        self, handler: Callable[..., Any], path: str, scopes: tuple[Scope, ...]
    ) -> CORSConfig | None:
        if {"cors", "*"} & skipped(handler):
            return None
        settings = self.settings
        paths = settings.cors_paths
        base = settings.cors if paths is None or paths.match(path) else None
        for scope in scopes:
            if scope.cors is not None:
                base = scope.cors or None
        given = cors_of(handler)
        return base if given is None else (base or settings.cors or CORSConfig()).but(given)

    def _logging(self, path: str, scopes: tuple[Scope, ...]) -> LoggingConfig | None:
        if self.settings.log is None:
            return None
        config: LoggingConfig | None = self.settings.log.config
        for scope in scopes:
            if scope.logging is not None:
                config = scope.logging or None
        return None if config is None or path in set(config.skip_paths) else config

    def _compression(
        self, handler: Callable[..., Any], scopes: tuple[Scope, ...]
    ) -> CompressionConfig | None:
        if {"compression", "*"} & skipped(handler):
            return None
        config = self.settings.compression
        for scope in scopes:
            if scope.compression is not None:
                config = scope.compression or None
        return config

    def _shared(
        self,
        cors: CORSConfig | None,
        logging: LoggingConfig | None,
        compression: CompressionConfig | None,
    ) -> dict[str, Any]:
        settings = self.settings
        finish = {
            "cors": cors.native() if cors else None,
            "headers": list(settings.headers) or None,
            "secure_headers": list(settings.secure_headers) or None,
            "secure": settings.secure,
            "request_id": settings.request_id,
            "log": logging.native() if logging else None,
            "compression": compression.native() if compression else None,
        }
        return self._made.setdefault(repr(finish), finish)


def read_answers(source: Any) -> AnswerSettings:
    """The settings about answers: ``CORS_*``, ``SECURE_*``, ``BOLT_ACCESS_LOG*`` and the like."""
    plain, secure = _security(source)
    return AnswerSettings(
        cors=_cors_settings(source),
        cors_paths=_compiled(getattr(source, "CORS_URLS_REGEX", None)),
        headers=plain,
        secure_headers=secure,
        secure=_proxy_header(getattr(source, "SECURE_PROXY_SSL_HEADER", None)),
        request_id=_request_id(source),
        log=_access_log(source),
        compression=_compression(source),
    )


def _compression(source: Any) -> CompressionConfig | None:
    value = getattr(source, "BOLT_COMPRESSION", None)
    try:
        return read_compression(True if value is None else value)
    except ConfigError as error:
        raise ConfigError(f"setting BOLT_COMPRESSION: {error}") from None


def _cors_settings(source: Any) -> CORSConfig | None:
    def told(name: str, default: Any) -> Any:
        value = getattr(source, name, None)
        return default if value is None else value

    every = bool(told("CORS_ALLOW_ALL_ORIGINS", False))
    config = CORSConfig(
        origins=["*"] if every else told("CORS_ALLOWED_ORIGINS", ()),
        origin_regexes=() if every else told("CORS_ALLOWED_ORIGIN_REGEXES", ()),
        credentials=bool(told("CORS_ALLOW_CREDENTIALS", False)),
        methods=told("CORS_ALLOW_METHODS", CORSConfig().methods),
        headers=told("CORS_ALLOW_HEADERS", CORSConfig().headers),
        expose_headers=told("CORS_EXPOSE_HEADERS", ()),
        max_age=told("CORS_PREFLIGHT_MAX_AGE", CORSConfig().max_age),
        private_network=bool(told("CORS_ALLOW_PRIVATE_NETWORK", False)),
    )
    return config if config.origins or config.origin_regexes else None


def _compiled(pattern: Any) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ConfigError(f"setting CORS_URLS_REGEX: {pattern!r} does not read: {error}") from None


def _security(source: Any) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """Django's own settings, where its middleware is in use or ``BOLT_SECURITY_HEADERS`` is set."""
    wanted = getattr(source, "BOLT_SECURITY_HEADERS", None)
    used = getattr(source, "MIDDLEWARE", None) or ()
    general = (SECURITY in used) if wanted is None else bool(wanted)
    frames = (FRAMES in used) if wanted is None else bool(wanted)
    plain: list[tuple[str, str]] = []
    secure: list[tuple[str, str]] = []
    if general and getattr(source, "SECURE_CONTENT_TYPE_NOSNIFF", True):
        plain.append(("x-content-type-options", "nosniff"))
    policy = getattr(source, "SECURE_REFERRER_POLICY", "same-origin")
    if general and policy:
        text = policy if isinstance(policy, str) else ",".join(policy)
        plain.append(("referrer-policy", ",".join(part.strip() for part in text.split(","))))
    opener = getattr(source, "SECURE_CROSS_ORIGIN_OPENER_POLICY", "same-origin")
    if general and opener:
        plain.append(("cross-origin-opener-policy", opener))
    if frames:
        plain.append(("x-frame-options", str(getattr(source, "X_FRAME_OPTIONS", "DENY")).upper()))
    seconds = getattr(source, "SECURE_HSTS_SECONDS", 0)
    if general and seconds:
        parts = [f"max-age={int(seconds)}"]
        if getattr(source, "SECURE_HSTS_INCLUDE_SUBDOMAINS", False):
            parts.append("includeSubDomains")
        if getattr(source, "SECURE_HSTS_PRELOAD", False):
            parts.append("preload")
        secure.append(("strict-transport-security", "; ".join(parts)))
    return tuple(plain), tuple(secure)


def _proxy_header(value: Any) -> tuple[str, str] | None:
    """``("HTTP_X_FORWARDED_PROTO", "https")`` with the name as it is on the wire."""
    if value is None:
        return None
    try:
        name, told = value
        return name.removeprefix("HTTP_").replace("_", "-").lower(), told
    except (TypeError, ValueError, AttributeError):
        raise ConfigError(
            f"setting SECURE_PROXY_SSL_HEADER: {value!r} is not a pair such as "
            '("HTTP_X_FORWARDED_PROTO", "https")'
        ) from None


def _request_id(source: Any) -> tuple[str, bool] | None:
    if not getattr(source, "BOLT_REQUEST_IDS", False):
        return None
    header = getattr(source, "BOLT_REQUEST_ID_HEADER", None) or "X-Request-ID"
    return str(header).lower(), bool(getattr(source, "BOLT_TRUST_REQUEST_ID", False))


def _access_log(source: Any) -> AccessLog | None:
    """``BOLT_ACCESS_LOG``: True for standard error, the path of a file, or a LoggingConfig."""
    value = getattr(source, "BOLT_ACCESS_LOG", None)
    if not value:
        return None
    return access_log(source, value)


def access_log(source: Any, value: Any) -> AccessLog:
    """An access log to where ``value`` says, with the other settings about it."""
    log = AccessLog()
    form = getattr(source, "BOLT_ACCESS_LOG_FORMAT", None) or "text"
    if form not in ("text", "json"):
        raise ConfigError(f'setting BOLT_ACCESS_LOG_FORMAT: {form!r} is not "text" or "json"')
    config = getattr(source, "BOLT_ACCESS_LOG_CONFIG", None) or log.config
    if not isinstance(config, LoggingConfig):
        raise ConfigError(f"setting BOLT_ACCESS_LOG_CONFIG: {config!r} is not a LoggingConfig")
    refusals = getattr(source, "BOLT_ACCESS_LOG_REFUSALS", None)
    if refusals is None:
        refusals = log.refusals
    if isinstance(refusals, bool) or not isinstance(refusals, int) or not 0 <= refusals < 2**32:
        raise ConfigError(f"setting BOLT_ACCESS_LOG_REFUSALS: {refusals!r} is not a number from 0")
    if value is True or value == "-":
        file = None
    elif isinstance(value, str) or hasattr(value, "__fspath__"):
        file = str(value)
    else:
        raise ConfigError(f"setting BOLT_ACCESS_LOG: {value!r} is not True or the path of a file")
    return replace(log, file=file, json=form == "json", refusals=refusals, config=config)
