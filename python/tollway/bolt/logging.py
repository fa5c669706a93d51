"""What the access log holds. The server writes it by itself: no request calls Python for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from tollway.errors import ConfigError

__all__ = ["LoggingConfig"]

_ALIASES: Final = {"duration": "duration_ms"}
_ALWAYS: Final = ("time", "level")
REQUEST_FIELDS: Final = frozenset({"client_ip", "method", "path", "request_id"})
RESPONSE_FIELDS: Final = frozenset({"status_code", "size", "duration"})
_KNOWN: Final = frozenset(
    {"client_ip", "method", "path", "query", "request_id", "host", "referer", "user_agent"}
    | {"status_code", "size", "duration", "duration_ms"}
)


@dataclass(frozen=True, slots=True)
class LoggingConfig:
    """Which requests the access log tells of, and what of them.

    ``LoggingConfig(skip_paths={"/health"}, sample_rate=0.1, min_duration_ms=100)``

    Answers from 400 on are always logged. Queries, headers other than ``host``, ``referer`` and
    ``user_agent``, and bodies never are unless named, or not at all: they hold secrets.
    """

    request_log_fields: Collection[str] = REQUEST_FIELDS
    """Of ``client_ip, method, path, query, request_id, host, referer, user_agent``."""
    response_log_fields: Collection[str] = RESPONSE_FIELDS
    """Of ``status_code, size, duration``."""
    skip_paths: Collection[str] = frozenset()
    """Paths of routes, as they are written, that are not logged."""
    skip_status_codes: Collection[int] = frozenset()
    sample_rate: float = 1.0
    """The share of answers below 400 that is logged."""
    min_duration_ms: float = 0.0
    """Answers below 400 that took less are not logged."""

    def __post_init__(self) -> None:
        named = ("request_log_fields", "response_log_fields", "skip_paths", "skip_status_codes")
        for name in named:
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Collection):
                raise ConfigError(f"LoggingConfig: {name}={value!r} is not a list or a set")
        unknown = {*self.request_log_fields, *self.response_log_fields} - _KNOWN
        if unknown:
            raise ConfigError(
                f"LoggingConfig: there is no field {min(unknown)!r}; there are "
                f"{', '.join(sorted(_KNOWN))}"
            )
        if not 0.0 <= self.sample_rate <= 1.0:
            raise ConfigError(
                f"LoggingConfig: sample_rate={self.sample_rate!r} is not a share from 0 to 1"
            )
        if not self.min_duration_ms >= 0.0:
            raise ConfigError(
                f"LoggingConfig: min_duration_ms={self.min_duration_ms!r} is not a time"
            )

    def native(self) -> dict[str, Any]:
        """What the server reads."""
        named = {*self.request_log_fields, *self.response_log_fields}
        return {
            "fields": [*_ALWAYS, *(_ALIASES.get(name, name) for name in sorted(named))],
            "sample_rate": float(self.sample_rate),
            "min_duration_ms": float(self.min_duration_ms),
            "skip": sorted(self.skip_status_codes),
        }
