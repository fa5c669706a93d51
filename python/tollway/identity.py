"""Who is charged: the spelling of keys that all doors share."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from tollway.errors import ConfigError

#: Kinds that stand alone.
PLAIN = ("ip", "user", "user_or_ip", "global")
#: Kinds that take a name after a colon.
NAMED = ("header", "param", "cookie", "post")


@dataclass(frozen=True, slots=True)
class KeySpec:
    """A parsed key: ``header:X-API-Key`` is kind ``header`` with name ``X-API-Key``."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


def parse_key(text: str) -> KeySpec:
    """Read a key such as ``ip``, ``user_or_ip`` or ``header:X-API-Key``.

    Raises:
        ConfigError: when the kind is unknown or lacks its name. A mistyped key must never
            become one budget for everybody.

    >>> parse_key("header:X-API-Key")
    KeySpec(kind='header', name='X-API-Key')
    """
    kind, _, name = text.partition(":")
    if kind in PLAIN and not name and ":" not in text:
        return KeySpec(kind)
    if kind in NAMED:
        if not name.strip():
            raise ConfigError(f'key "{text}" lacks a name: write "{kind}:NAME"')
        return KeySpec(kind, name.strip())
    if kind in PLAIN:
        raise ConfigError(f'key "{text}" takes no name: write "{kind}"')
    near = difflib.get_close_matches(kind, PLAIN + NAMED, n=1)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    kinds = ", ".join([*PLAIN, *(f"{named}:NAME" for named in NAMED)])
    raise ConfigError(f'key "{text}" is not known: use one of {kinds}, or a function.{hint}')
