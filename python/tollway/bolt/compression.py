"""Which answers are compressed, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from tollway.errors import ConfigError

__all__ = ["Backend", "CompressionConfig", "read_compression"]

Backend = Literal["zstd", "brotli", "br", "gzip"]

LEVELS: Final = {"zstd": (1, 19), "br": (0, 11), "gzip": (1, 9)}
TYPES: Final = (
    "text/",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/wasm",
    "application/x-ndjson",
    "application/manifest+json",
    "image/svg+xml",
    "font/ttf",
    "+json",
    "+xml",
)


@dataclass(frozen=True, slots=True)
class CompressionConfig:
    """How answers are compressed, of which those shorter than ``minimum_size`` bytes are not.

    The client's ``Accept-Encoding`` decides; of codings that it likes equally the first of
    ``algorithms`` is taken. ``backend="brotli"`` puts one in front, with gzip behind it unless
    ``gzip_fallback`` is False. ``types`` are media types; ``"text/"`` stands for all that begin
    so, ``"+json"`` for all that end so.
    """

    backend: Backend | None = None
    minimum_size: int = 500
    gzip_fallback: bool = True
    algorithms: Sequence[Backend] = ("zstd", "br", "gzip")
    zstd_level: int = 3
    brotli_level: int = 4
    gzip_level: int = 5
    types: Sequence[str] = TYPES

    def __post_init__(self) -> None:
        if isinstance(self.minimum_size, bool) or not isinstance(self.minimum_size, int):
            raise ConfigError(f"minimum_size is a number of bytes, not {self.minimum_size!r}")
        if self.minimum_size < 0:
            raise ConfigError(f"minimum_size is from 0, not {self.minimum_size}")
        for name in self.names():
            if name not in LEVELS:
                raise ConfigError(f"compression is zstd, brotli (br) or gzip, not {name!r}")
            low, high = LEVELS[name]
            if not low <= self.level(name) <= high:
                raise ConfigError(f"the level of {name} is from {low} to {high}")
        if isinstance(self.types, str) or not all(isinstance(kind, str) for kind in self.types):
            raise ConfigError(f"types is a list of media types, not {self.types!r}")

    def names(self) -> list[str]:
        """The codings in use, by their names in HTTP."""
        chosen: Sequence[str] = self.algorithms
        if self.backend is not None:
            chosen = [self.backend, *(["gzip"] if self.gzip_fallback else [])]
        return list(dict.fromkeys("br" if name == "brotli" else name for name in chosen))

    def level(self, name: str) -> int:
        """The level of a coding."""
        return {"zstd": self.zstd_level, "br": self.brotli_level}.get(name, self.gzip_level)

    def native(self) -> dict[str, Any]:
        """What the server reads."""
        return {
            "minimum_size": self.minimum_size,
            "codings": [(name, self.level(name)) for name in self.names()],
            "types": [kind.lower() for kind in self.types],
        }


def read_compression(value: Any) -> CompressionConfig | None:
    """The setting ``BOLT_COMPRESSION``: True, False, or a CompressionConfig."""
    if value is True:
        return CompressionConfig()
    if value is False:
        return None
    if isinstance(value, CompressionConfig):
        return value
    raise ConfigError(f"{value!r} is not True, False or a CompressionConfig")
