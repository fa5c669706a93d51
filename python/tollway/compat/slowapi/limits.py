"""A limit as it is written, and what it charges a request."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from starlette.requests import HTTPConnection

from tollway import ConfigError, Policy, Rate
from tollway.answer import policy_name
from tollway.asgi.asking import read_answer, read_cost
from tollway.identity import joined, text

Value = str | Callable[..., str]
"""A limit such as ``"5/minute;100/hour"``, or a function that answers with one."""

STRATEGIES: Final = {
    "fixed-window": "fixed_window:first",
    "moving-window": "sliding_log",
    "sliding-window-counter": "sliding_window",
}
"""What the strategies of slowapi are called here."""

_SPELLING: Final = re.compile(r"(\d+)/(\d*)(ms|s|m|h|d|w|month|year)\b.*")
_UNITS: Final = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week"}


def told(function: Callable[..., Any], **known: Any) -> Any:
    """Call a function of the project with those of these arguments that it names.

    A single argument of another name is the request.
    """
    names = _parameters(function)
    given = {name: known[name] for name in names if name in known}
    if given or not names:
        return function(**given)
    return function(known["request"])


@lru_cache(maxsize=1024)
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(
        name
        for name, found in inspect.signature(function).parameters.items()
        if found.default is found.empty and found.kind in (found.POSITIONAL_OR_KEYWORD, 3)
    )


def rates(value: str) -> list[Rate]:
    """The rates of a limit string; ``;``, ``,`` and ``|`` stand between several."""
    return Rate.parse(value.replace("|", ";"))


def in_words(rate: Rate) -> str:
    """``5 per 1 minute``, as slowapi says it."""
    found = _SPELLING.fullmatch(str(rate))
    if found is None:
        return str(rate)
    return f"{found[1]} per {found[2] or 1} {_UNITS.get(found[3], found[3])}"


@dataclass(frozen=True, slots=True)
class Limit:
    """One rate of what a decorator or the limiter says, for one request."""

    limit: Rate
    error_message: Value | None = None

    def message(self) -> str:
        """What the client is told."""
        said = self.error_message
        if said is None:
            return in_words(self.limit)
        return str(said()) if callable(said) else said


@dataclass(frozen=True)
class Written:
    """What was written of a limit. Made by the limiter."""

    value: Value
    key_func: Callable[..., Any]
    scope: Value | None = None
    per_method: bool = False
    methods: frozenset[str] | None = None
    error_message: Value | None = None
    exempt_when: Callable[..., bool] | None = None
    cost: int | Callable[..., int] = 1
    override_defaults: bool = True

    def __post_init__(self) -> None:
        if not callable(self.value):
            rates(self.value)
        read_cost(self.cost)

    def charged(self, request: HTTPConnection, scope: str) -> Iterator[tuple[Rate, str, int]]:
        """Each rate, whom it is charged to, and what it costs; nothing when it does not apply."""
        method = request.scope.get("method", "GET")
        if self.methods is not None and method not in self.methods:
            return
        if self.exempt_when is not None and told(self.exempt_when, request=request):
            return
        who = text(told(self.key_func, request=request))
        value = self.value
        if callable(value):
            value = told(value, key=who, request=request)
        if self.scope is not None:
            shared = self.scope
            scope = shared(scope) if callable(shared) else shared
        cost = self.cost
        if callable(cost):
            cost = read_answer(cost, told(cost, request=request))
        key = joined([scope, method, who] if self.per_method else [scope, who])
        for rate in rates(value):
            yield rate, key, cost


@lru_cache(maxsize=4096)
def policy_of(rate: Rate, algorithm: str) -> Policy:
    """The policy that counts a rate; keys tell routes apart."""
    return Policy(policy_name(str(rate)), [rate], algorithm=algorithm)


def algorithm_of(strategy: str | None) -> str:
    """The algorithm of a strategy, fixed windows by default."""
    found = STRATEGIES.get(strategy or "fixed-window")
    if found is None:
        raise ConfigError(f"strategy={strategy!r}: it is one of {', '.join(STRATEGIES)}")
    return found


def charges(
    written: Iterable[Written], request: HTTPConnection, scope: str, algorithm: str
) -> dict[tuple[Policy, str, int], Limit]:
    """What a request is charged, and by which limit; the same one said twice is one."""
    return {
        (policy_of(rate, algorithm), key, cost): Limit(rate, item.error_message)
        for item in written
        for rate, key, cost in item.charged(request, scope)
    }
