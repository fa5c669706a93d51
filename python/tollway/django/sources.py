"""Where rules and access lists come from, as settings and decorators name them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tollway import ConfigError
from tollway.rules import AccessList, Rules, Source, stated_source

SHADOW: Final = "shadow"
"""What the names of limits with ``shadow=True`` begin with."""

_SHADOWS: Final = {SHADOW: {"shadow": True}}


class Shadowed:
    """A source of rules, with those of ``shadow=True`` added."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.wants_user = True
        """Whether these rules look at the user: then each request pays for knowing them."""

    def load(self, known: Any) -> tuple[Any, Any] | None:
        """What the source has, if it has changed."""
        found = self.source.load(known)
        if found is None:
            return None
        version, data = found
        try:
            data = json.loads(data) if isinstance(data, str) else data
        except ValueError as error:
            raise ConfigError(f"{self.source!r} is no JSON: {error}") from error
        self.wants_user = mentions_users(data) or getattr(self.source, "wants_user", False)
        return version, with_shadows(data)

    def __repr__(self) -> str:
        return repr(self.source)


def mentions_users(data: Any) -> bool:
    """Whether rules may look at the user."""
    return "user" in json.dumps(data, default=str)


def with_shadows(data: Any) -> Any:
    """Rules as they stand, and that limits with ``shadow=True`` bind nobody."""
    if not isinstance(data, Mapping) or not isinstance(data.get("limits", {}), Mapping):
        return data  # the rules say what is wrong with it
    return {**data, "limits": {**data.get("limits", {}), **_SHADOWS}}


def stated_rules(value: object) -> Mapping[str, Any] | Source | Rules | None:
    """``RATELIMIT_RULES``: what :func:`tollway.rules.stated_source` takes, or nothing."""
    if value is None:
        return None
    found = stated_source(value)
    if isinstance(found, Mapping):
        Rules(with_shadows(found))
    return found


def access(what: str, stated: Any, plain: str) -> AccessList | None:
    """``allow_list=`` or ``deny_list=`` of a decorator: an :class:`AccessList`, or its entries."""
    if stated is None or isinstance(stated, AccessList):
        return stated
    if isinstance(stated, str) or not isinstance(stated, Iterable):
        raise ConfigError(
            f'{what}={stated!r} is not a list of entries such as ["10.0.0.0/8", "user:7"]'
        )
    try:
        return AccessList(list(stated), plain=plain)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error


def names_users(stated: Any, made: AccessList | None) -> bool:
    """Whether a list may name users: what was stated as one may change later."""
    if made is None or made is stated:
        return made is not None
    return any("user:" in entry for entry in made.entries())
