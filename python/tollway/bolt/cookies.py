"""The ``Set-Cookie`` header: one cookie, written the way Django writes it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from string import ascii_letters, digits
from typing import Literal

__all__ = ["Cookie", "SameSite", "make_delete_cookie"]

SameSite = Literal["Lax", "Strict", "None", "lax", "strict", "none", False]

_NAME_BREAKERS = frozenset('()<>@,;:\\"/[]?={} \t')
_BARE = frozenset(ascii_letters + digits + "!#$%&'*+-.^_`|~:/=@()<>[]{}?")


@dataclass(frozen=True, slots=True)
class Cookie:
    """A cookie to set.

    To *read* a cookie in a handler, use ``tollway.bolt.params.Cookie``.

    >>> Cookie("theme", "dark", max_age=3600, secure=True).to_header_value()
    'theme=dark; Max-Age=3600; Path=/; SameSite=Lax; Secure'
    """

    name: str
    value: str = ""
    max_age: int | None = None
    expires: datetime | str | None = None
    path: str | None = "/"
    domain: str | None = None
    secure: bool = False
    httponly: bool = False
    samesite: SameSite = "Lax"

    def __post_init__(self) -> None:
        if not self.name or not _plain(self.name) or _NAME_BREAKERS & set(self.name):
            raise ValueError(f"{self.name!r} is no possible cookie name")
        if not _plain(self.value):
            raise ValueError(
                f"the cookie {self.name!r} can hold printable ASCII only: "
                "encode other text first, for example with urllib.parse.quote"
            )
        for what, text in (("path", self.path), ("domain", self.domain)):
            if text and (not _plain(text) or ";" in text):
                raise ValueError(f"the cookie {self.name!r} cannot have the {what} {text!r}")
        if self.samesite and self.samesite.lower() not in ("lax", "strict", "none"):
            raise ValueError(
                f'samesite must be "Lax", "Strict", "None" or False, not {self.samesite!r}'
            )

    def to_header_value(self) -> str:
        """The value of the ``Set-Cookie`` header."""
        parts = [f"{self.name}={_quoted(self.value)}"]
        if self.expires is not None:
            parts.append(f"Expires={_date(self.expires)}")
        if self.max_age is not None:
            parts.append(f"Max-Age={int(self.max_age)}")
        if self.domain:
            parts.append(f"Domain={self.domain}")
        if self.path:
            parts.append(f"Path={self.path}")
        if self.samesite:
            parts.append(f"SameSite={self.samesite.capitalize()}")
        if self.secure:
            parts.append("Secure")
        if self.httponly:
            parts.append("HttpOnly")
        return "; ".join(parts)


def make_delete_cookie(name: str, path: str | None = "/", domain: str | None = None) -> Cookie:
    """The cookie that makes browsers forget ``name``."""
    secure = name.startswith(("__Secure-", "__Host-"))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return Cookie(name, "", max_age=0, expires=epoch, path=path, domain=domain, secure=secure)


def _plain(text: str) -> bool:
    return all(" " <= character <= "~" for character in text)


def _quoted(value: str) -> str:
    """Values with a space, a quote, a comma, a semicolon or a backslash go between quotes."""
    if _BARE.issuperset(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    escaped = escaped.replace(",", "\\054").replace(";", "\\073")
    return f'"{escaped}"'


def _date(moment: datetime | str) -> str:
    if isinstance(moment, str):
        return moment
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return format_datetime(aware.astimezone(UTC), usegmt=True)
