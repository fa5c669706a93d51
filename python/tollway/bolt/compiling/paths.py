"""Route paths: joined, checked, spelled as the server reads them, and compared."""

from __future__ import annotations

import re
from typing import Final, Literal

from tollway.errors import ConfigError

__all__ = ["TrailingSlash", "alternative", "join", "names", "normal", "shape"]

TrailingSlash = Literal["strip", "append", "keep"]

_PIECE: Final = re.compile(r"\{([^{}]*)\}")
_HINTS: Final = ("", "str", "int", "float", "bool", "uuid", "path")


def join(prefix: str, path: str) -> str:
    """``/api`` and ``/items`` are ``/api/items``; an empty path is the prefix itself."""
    if not prefix or prefix == "/":
        return path or "/"
    if not path or path == "/":
        return prefix
    return f"{prefix.rstrip('/')}/{path.lstrip('/')}"


def normal(path: str, trailing_slash: TrailingSlash) -> str:
    """A path as the server's router reads it: ``{name}``, ``{*name}`` for the rest.

    Raises ConfigError that shows the path and what is wrong with it.
    """
    if not path.startswith("/"):
        raise ConfigError(f"path {path!r} must begin with a slash: write {'/' + path!r}")
    if any(character in path for character in "?# "):
        raise ConfigError(
            f"path {path!r} must not hold a query, a fragment or a space; query parameters are "
            "parameters of the handler"
        )
    path = _PIECE.sub(lambda found: _piece(path, found[1]), path)
    if path.replace("{", "").replace("}", "").count("{") or path.count("{") != path.count("}"):
        raise ConfigError(f"path {path!r} has a brace too many or too few")
    twice = _twice(names(path))
    if twice:
        raise ConfigError(f"path {path!r} has the parameter {{{twice}}} twice")
    if trailing_slash == "keep" or path == "/" or (path.endswith("}") and "{*" in path):
        return path
    bare = path.rstrip("/") or "/"
    return f"{bare}/" if trailing_slash == "append" and bare != "/" else bare


def _piece(path: str, text: str) -> str:
    rest = text.startswith("*")
    name, _, hint = text.lstrip("*").partition(":")
    if not name.isidentifier():
        raise ConfigError(f"path {path!r}: {{{text}}} needs the name of a parameter")
    if hint not in _HINTS:
        raise ConfigError(
            f"path {path!r}: {{{text}}} has the unknown type {hint!r}; the type is the "
            f"handler's annotation: write {{{name}}}, or {{{name}:path}} for the rest of the path"
        )
    return f"{{*{name}}}" if rest or hint == "path" else f"{{{name}}}"


def _twice(found: list[str]) -> str:
    return next((name for name in found if found.count(name) > 1), "")


def names(path: str) -> list[str]:
    """The parameters of a normal path, in order."""
    return [piece.lstrip("*") for piece in _PIECE.findall(path)]


def shape(path: str) -> str:
    """What two paths that match the same requests have in common: the names do not count."""
    return _PIECE.sub(lambda found: "{*}" if found[1].startswith("*") else "{}", path)


def alternative(path: str) -> str | None:
    """The same path with its trailing slash the other way, or None where there is none."""
    if path == "/" or "{*" in path:
        return None
    return path.rstrip("/") if path.endswith("/") else f"{path}/"
