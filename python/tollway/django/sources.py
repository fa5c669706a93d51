"""Where rules and access lists come from, as settings and decorators name them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from django.utils.module_loading import import_string

from tollway import ConfigError
from tollway.django.database import DatabaseSource
from tollway.rules import AccessList, FileSource, Rules, Source, follow

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
        data = json.loads(data) if isinstance(data, str) else data
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
    """``RATELIMIT_RULES``: a mapping, a file, the database, a source, rules, or a path to them."""
    if value == "database":
        return DatabaseSource()
    if isinstance(value, str):
        is_file = value.endswith((".json", ".toml"))
        value = FileSource(value) if is_file else _imported(value)
    if isinstance(value, Mapping):
        Rules(with_shadows(value))
        return value
    if isinstance(value, Rules):
        return value
    if isinstance(value, type):
        value = value()
    if value is None or hasattr(value, "load"):
        found: Source | None = value
        return found
    raise ConfigError(f"{value!r} is neither a mapping of rules, nor a file, nor a Source")


def stated_lists(value: object) -> tuple[AccessList | FileSource, ...]:
    """``RATELIMIT_ACCESS_LISTS``: access lists, files, or dotted paths."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f'{value!r} is not a list such as ["/etc/blocked.txt"]')
    found: list[AccessList | FileSource] = []
    for item in value:
        made = item
        if isinstance(item, str) and ("/" in item or item.endswith(".txt")):
            made = FileSource(item)
            _read(made)
        elif isinstance(item, str):
            made = _imported(item)
        if not isinstance(made, AccessList | FileSource):
            raise ConfigError(f"{item!r} is neither a file nor an AccessList")
        found.append(made)
    return tuple(found)


def _read(source: FileSource) -> None:
    """Read a file once, so that what is wrong with it is said at start-up."""
    try:
        found = source.load(None)
    except OSError as error:
        raise ConfigError(f"{source!r} cannot be read: {error}") from error
    AccessList(found[1] if found else "")


def followed(stated: AccessList | FileSource) -> AccessList:
    """An access list as it is, or one that follows a file."""
    if isinstance(stated, AccessList):
        return stated
    made = AccessList()
    follow(made, stated)
    return made


def _imported(path: str) -> Any:
    try:
        return import_string(path)
    except ImportError as error:
        raise ConfigError(f"{path!r} cannot be imported: {error}") from error


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


def names_users(stated: Any) -> bool:
    """Whether a list as it was stated may name users; what can change later may."""
    return isinstance(stated, AccessList) or (
        stated is not None and any("user:" in str(entry) for entry in stated)
    )
