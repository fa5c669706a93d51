"""What the doors do alike: name a count, choose which decision speaks, word a 503.

A door is a web framework in front of the limiter. Django, ASGI and FastAPI differ in how they read
a request and write a response; they do not differ in what is said.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Final

from tollway import Decision, hash_identity

PROBLEM_JSON: Final = "application/problem+json"
"""The media type of a refusal (RFC 9457)."""

UNAVAILABLE_SECONDS: Final = 1
"""Seconds a client is told to wait when the store is away and the limiter fails closed."""


_NAME_LENGTH: Final = 128
_SPELLINGS: Final = (("; ", "+"), (" ", "+"), (":", "."), ("{", "<"), ("}", ">"))
_OTHER: Final = re.compile(r"[^A-Za-z0-9._\-/@<>+\[\]~=*]")


@lru_cache(maxsize=4096)
def policy_name(*parts: str) -> str:
    """One name made of parts, spelled as policies are named; different parts, different names.

    >>> policy_name("shop.views.search", "header:X-Key", "10/s; 1000/h")
    'shop.views.search/header.X-Key/10/s+1000/h'
    >>> policy_name("api", "GET", "/items/{item_id}")
    'api/GET/items/<item_id>'
    """
    plain = "/".join(part.strip("/") for part in parts if part)
    name = plain
    for before, after in _SPELLINGS:
        name = name.replace(before, after)
    name = _OTHER.sub("_", name)
    # What was cut or replaced by "_" is told apart by a hash of the whole.
    lost = len(name) > _NAME_LENGTH or name.count("_") != plain.count("_")
    return f"{name[: _NAME_LENGTH - 17]}~{hash_identity(plain)[:16]}" if lost else name


def tightest(first: Decision | None, second: Decision) -> Decision:
    """The decision that speaks for both.

    A refusal before an allowance, the longer wait before the shorter, then the one with the
    smaller share left.
    """
    if first is None or (first.allowed and _says_nothing(first)):
        return second
    if second.allowed and _says_nothing(second):
        return first
    if first.allowed != second.allowed:
        return second if first.allowed else first
    if not first.allowed:
        return second if second.retry_after_ns > first.retry_after_ns else first
    return second if second.remaining < first.remaining else first


def _says_nothing(decision: Decision) -> bool:
    """Whether nothing was counted that clients are told of: no limit, or one in the shadow."""
    return decision.reason == "exempt" or decision.mode == "shadow"


def unavailable_text() -> str:
    """One sentence for people. It does not say which store: that is for the log."""
    return "Requests cannot be counted at the moment. Try again in a second."


def unavailable_problem() -> bytes:
    """The problem document of a 503: the store is away and the fail mode is "closed"."""
    return json.dumps(
        {
            "type": "about:blank",
            "title": "Service unavailable",
            "status": 503,
            "detail": unavailable_text(),
            "retry_after_ms": UNAVAILABLE_SECONDS * 1000,
        }
    ).encode()
