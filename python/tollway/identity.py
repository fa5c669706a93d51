"""Who is charged: the spelling of keys that all doors share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tollway.errors import ConfigError

#: Kinds that stand alone.
PLAIN = ("ip", "user", "user_or_ip", "api_key", "org", "global")
#: Kinds that take a name after a colon.
NAMED = ("header", "param", "cookie", "post", "jwt")
#: What only a template may ask for: facts of the request, not of its sender.
FACTS = ("method", "route", "host")
#: The methods that HTTP knows.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
#: Other words for the same.
_ALSO = {"tenant": "org", "get": "param"}

_COMPOSITE = re.compile(r"composite\s*\((?P<inside>.*)\)\s*", re.DOTALL)
_FIELD = re.compile(r"\{([^{}]*)\}")
#: How long a key's text may be; a longer one is a mistake, not a key.
_MOST = 512


@dataclass(frozen=True, slots=True)
class KeySpec:
    """A parsed key: ``header:X-API-Key`` is kind ``header`` with name ``X-API-Key``.

    ``composite`` and ``template`` have ``parts``: keys, and for a template the text between them.
    """

    kind: str
    name: str = ""
    parts: tuple[str | KeySpec, ...] = ()

    def __str__(self) -> str:
        if self.kind == "composite":
            return f"composite({', '.join(map(str, self.parts))})"
        if self.kind == "template":
            return "".join(part if isinstance(part, str) else f"{{{part}}}" for part in self.parts)
        return f"{self.kind}:{self.name}" if self.name else self.kind

    def leaves(self) -> Iterator[KeySpec]:
        """The keys that it is made of: itself, or those of its parts."""
        if not self.parts:
            yield self
        for part in self.parts:
            if isinstance(part, KeySpec):
                yield from part.leaves()


def method_of(stated: str) -> str:
    """A method as templates count it: all that HTTP does not know are one, or each invented one
    would be a new budget.

    >>> method_of("GET"), method_of("GETT")
    ('GET', 'OTHER')
    """
    return stated if stated in METHODS else "OTHER"


def host_of(stated: str) -> str:
    """A host as templates count it: without its port, in one spelling.

    >>> host_of("Shop.Example.:8000"), host_of("[2001:DB8::1]:443")
    ('shop.example', '[2001:db8::1]')
    """
    host = stated.strip().lower()
    if not host.endswith("]"):
        name, colon, port = host.rpartition(":")
        host = name if colon and port.isdecimal() else host.removesuffix(":")
    return host.rstrip(".")


def parse_key(text: str) -> KeySpec:
    """Read a key such as ``ip``, ``header:X-API-Key`` or ``composite(post:name, ip)``.

    A text with braces is a template: ``{user}/{route}``.

    Raises:
        ConfigError: when the kind is unknown or lacks its name. A mistyped key must never
            become one budget for everybody.

    >>> parse_key("header:X-API-Key")
    KeySpec(kind='header', name='X-API-Key', parts=())
    >>> str(parse_key("composite(post:username,ip)"))
    'composite(post:username, ip)'
    """
    if len(text) > _MOST:
        raise ConfigError(f"the key {text[:40]!r}… has {len(text)} characters, at most {_MOST}")
    composite = _COMPOSITE.fullmatch(text)
    if composite is not None:
        return _composite(text, composite["inside"])
    if "{" in text or "}" in text:
        return _template(text)
    return _single(text, PLAIN)


def _composite(text: str, inside: str) -> KeySpec:
    parts = tuple(parse_key(part.strip()) for part in _split(inside))
    if len(parts) < 2:
        raise ConfigError(f'key "{text}" needs two parts or more: write "composite(user, ip)"')
    return KeySpec("composite", parts=parts)


def _split(inside: str) -> Iterator[str]:
    """The parts between the commas that no parenthesis encloses."""
    depth, start = 0, 0
    for place, letter in enumerate(inside):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            yield inside[start:place]
            start = place + 1
    if inside[start:].strip():
        yield inside[start:]


def _template(text: str) -> KeySpec:
    parts: list[str | KeySpec] = []
    for place, piece in enumerate(_FIELD.split(text)):
        if place % 2:
            parts.append(_single(piece.strip(), PLAIN + FACTS))
        elif "{" in piece or "}" in piece:
            raise ConfigError(f'key "{text}" has a brace too many: write "{{user}}/{{route}}"')
        elif piece:
            parts.append(piece)
    if all(isinstance(part, str) or part.kind in FACTS for part in parts):
        raise ConfigError(f'key "{text}" says of nobody who they are: add {{ip}} or {{user}}')
    return KeySpec("template", parts=tuple(parts))


def _single(text: str, plain: tuple[str, ...]) -> KeySpec:
    kind, colon, name = text.partition(":")
    kind = _ALSO.get(kind, kind)
    if kind in plain and not colon:
        return KeySpec(kind)
    if kind in NAMED:
        if not name.strip():
            raise ConfigError(f'key "{text}" lacks a name: write "{kind}:NAME"')
        return KeySpec(kind, name.strip())
    if kind in plain:
        raise ConfigError(f'key "{text}" takes no name: write "{kind}"')
    near = difflib.get_close_matches(kind, plain + NAMED, n=1)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    kinds = ", ".join([*plain, *(f"{named}:NAME" for named in NAMED)])
    raise ConfigError(
        f'key "{text}" is not known: use one of {kinds}, composite(KEY, KEY), '
        f"a template with these in braces, or a function.{hint}"
    )


def joined(parts: Iterator[str] | tuple[str, ...] | list[str]) -> str:
    """Several texts as one; different texts never become the same one.

    >>> joined(["user:7", "a|b"])
    'user:7|a%7Cb'
    """
    return "|".join(part.replace("%", "%25").replace("|", "%7C") for part in parts)


def text(value: object) -> str:
    """A value as text that any store can keep: what is no Unicode is spelled out."""
    found = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    if found.isascii():
        return found
    return found.encode("utf-8", "backslashreplace").decode()
