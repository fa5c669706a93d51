"""The middleware's rules: which limit holds on which path.

A rule is a path prefix (``"/api/"``, matching whole segments), or a regular expression when it
begins with ``^``, with methods before it if they matter: ``"POST /login/"``. The longest match
wins; what matches nothing gets ``RATELIMIT_DEFAULT_LIMIT``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tollway import ConfigError, Rate
from tollway.django.limits import Limit, limit
from tollway.django.settings import Settings, SettingsError, choose, function

_SHARED = ("KEY", "SKIP_IF", "ALGORITHM", "BACKEND", "BLOCK", "SHADOW", "ALLOW_LIST", "DENY_LIST")
_KNOWN = ("RATE_LIMITS", "SKIP_PATHS", *_SHARED)
_RULE_KNOWN = (
    *("rate", "key", "algorithm", "algorithm_config", "block", "group", "cost", "skip_if"),
    *("response_callback", "backend", "scope", "shadow", "allow_list", "deny_list"),
)
_SCOPES = ("rule", "route")
_FUNCTIONS = ("cost", "skip_if", "response_callback")

_SPELLING = re.compile(r"(?:(?P<methods>[A-Za-z]+(?:,[A-Za-z]+)*) )?(?P<path>[/^].*)")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A path prefix or a regular expression, and the methods it is for."""

    text: str
    methods: frozenset[str] | None
    prefix: str
    expression: re.Pattern[str] | None

    @classmethod
    def parse(cls, text: object) -> Pattern:
        """Read ``"/api/"``, ``"POST /login/"`` or ``r"^/items/[0-9]+/$"``."""
        spelled = _SPELLING.fullmatch(text) if isinstance(text, str) else None
        if spelled is None or not isinstance(text, str):
            raise ConfigError(
                f'{text!r} is no path; write "/api/", "POST /login/" or "^/items/[0-9]+/$"'
            )
        methods, path = spelled["methods"], spelled["path"]
        expression = None
        if path.startswith("^"):
            try:
                expression = re.compile(path)
            except re.error as error:
                raise ConfigError(f"{text!r} is no regular expression: {error}") from error
        # The decorator's reader of methods, so that a mistyped one is named here too.
        return cls(text, limit(method=methods).methods, path, expression)

    def length(self, method: str | None, path: str) -> int:
        """How much of the path it matches; -1 when it does not."""
        if self.methods is not None and method not in self.methods:
            return -1
        if self.expression is not None:
            match = self.expression.search(path)
            return -1 if match is None else match.end()
        prefix = self.prefix
        if not path.startswith(prefix):
            return -1
        whole = prefix.endswith("/") or len(path) == len(prefix) or path[len(prefix)] == "/"
        return len(prefix) if whole else -1


@dataclass(frozen=True, slots=True)
class Rules:
    """What the middleware goes by."""

    rules: tuple[tuple[Pattern, Limit], ...]
    skips: tuple[Pattern, ...]
    default: Limit | None

    def pick(self, method: str | None, path: str) -> tuple[tuple[Limit, str], ...]:
        """The limit of a request with the scope that names it, or nothing."""
        for skip in self.skips:
            if skip.length(method, path) >= 0:
                return ()
        best, longest = None, -1
        for pattern, item in self.rules:
            length = pattern.length(method, path)
            # Of two equally long ones, the rule that names the method is the closer one.
            if length > longest or (length == longest >= 0 and pattern.methods is not None):
                best, longest = (item, f"middleware {pattern.text}"), length
        if best is not None:
            return (best,)
        return () if self.default is None else ((self.default, "middleware"),)


def read(settings: Settings) -> tuple[Rules, list[SettingsError]]:
    """The rules in ``RATELIMIT_MIDDLEWARE``, and everything that is wrong with them."""
    stated = settings.middleware
    problems: list[SettingsError] = []

    def attempt(what: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except ConfigError as error:
            problems.append(SettingsError(f"RATELIMIT_MIDDLEWARE{what}: {error}"))
            return None

    for name in stated:
        attempt("", partial(choose, "entry", str(name), _KNOWN))
    shared = {name.lower(): stated[name] for name in _SHARED if name in stated}
    if "skip_if" in shared:
        shared["skip_if"] = attempt("['SKIP_IF']", lambda: function(stated["SKIP_IF"]))
    for name in tuple(shared):  # each is named by itself when it is wrong
        made = attempt(f"[{name.upper()!r}]", partial(limit, **{name: shared[name]}))
        if made is None:
            del shared[name]
    default = None
    if settings.default_limit is not None:
        default = attempt("", lambda: limit(**shared))
    rules = []
    for text, rule in _entries(stated.get("RATE_LIMITS", {}), attempt):
        where = f"['RATE_LIMITS'][{text!r}]"
        pattern = attempt(where, partial(Pattern.parse, text))
        made = attempt(where, partial(_limit, shared, rule))
        if pattern is not None and made is not None:
            rules.append((pattern, made))
    skips = attempt("['SKIP_PATHS']", lambda: _skips(stated.get("SKIP_PATHS", ())))
    return Rules(tuple(rules), skips or (), default), problems


def _entries(stated: Any, attempt: Callable[..., Any]) -> list[tuple[Any, Any]]:
    def entries() -> list[tuple[Any, Any]]:
        if not isinstance(stated, Mapping):
            raise ConfigError(f'{stated!r} is not a mapping such as {{"/api/": "100/m"}}')
        return list(stated.items())

    return attempt("['RATE_LIMITS']", entries) or []


def _skips(stated: Any) -> tuple[Pattern, ...]:
    if not isinstance(stated, list | tuple | set | frozenset):
        raise ConfigError(f'{stated!r} is not a list of paths such as ["/static/"]')
    return tuple(Pattern.parse(text) for text in stated)


def _limit(shared: Mapping[str, Any], rule: Any) -> Limit:
    if isinstance(rule, str | Rate | list | tuple) or callable(rule):
        return limit(**{**shared, "rate": rule})
    if not isinstance(rule, Mapping):
        raise ConfigError(f'{rule!r} is neither a rate nor a mapping such as {{"rate": "100/m"}}')
    for name in rule:
        choose("entry", str(name), _RULE_KNOWN)
    stated = {
        name: function(value) if name in _FUNCTIONS and isinstance(value, str) else value
        for name, value in rule.items()
    }
    scope = choose("scope", str(stated.pop("scope", "rule")), _SCOPES)
    return limit(**{**shared, **stated}, per_route=scope == "route")
