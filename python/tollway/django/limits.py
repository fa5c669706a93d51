"""One limit as the decorator or the middleware states it, checked when it is stated."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any, Final
from weakref import WeakSet

from asgiref.sync import iscoroutinefunction

from tollway import ConfigError, Limiter, Policy, Rate, backends
from tollway.answer import policy_name
from tollway.django import conf, settings
from tollway.django.identity import Key
from tollway.django.options import AlgorithmConfig, Options
from tollway.django.sources import SHADOW, access, names_users
from tollway.identity import METHODS, KeySpec, parse_key
from tollway.rules import AccessList

Rates = str | Rate | list[str | Rate] | tuple[str | Rate, ...] | Callable[..., Any]
Cost = int | Callable[..., Any]

_serial = count()


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Limit:
    """What one ``@rate_limit(...)`` asks for. Made by :func:`limit`."""

    key: KeySpec | Callable[..., Any]
    key_name: str
    by_address: bool
    rates: tuple[Rate, ...] | None
    rate_of: Callable[..., Any] | None
    rate_name: str
    algorithm: str | None
    config: AlgorithmConfig | None
    block: bool
    shadow: bool
    allow: AccessList | None
    deny: AccessList | None
    wants_user: bool
    """Whether these lists may name users: then a request pays for knowing them."""
    group: str | None
    methods: frozenset[str] | None
    cost: Cost
    cost_of_answer: Callable[..., Any] | None
    skip_if: Callable[..., Any] | None
    response_callback: Callable[..., Any] | None
    backend: backends.Backend | Callable[[], Limiter] | None
    per_route: bool
    serial: int
    where: str = ""
    waits: bool = False
    """Whether a function of it is async: then it is asked in async code only."""
    merges: bool = False
    """Whether it may have the name of another on the same view: then they are one count."""
    grouped: bool = False
    """Whether the functions of its key and rate take the group too, before the request."""
    plain: bool = False
    """Whether it counts by address and asks no function and no list: then nothing is awaited."""

    def applies(self, method: str | None) -> bool:
        """Whether requests with that method count."""
        return self.methods is None or method in self.methods

    def name(self, scope: str) -> str:
        """The policy's name: scope, key and rate, so that no two limits share by accident.

        Sharing on purpose is ``group=`` with the same key and rate.
        """
        methods = "" if self.methods is None else "+".join(sorted(self.methods))
        shadow = SHADOW if self.shadow else ""
        return policy_name(shadow, self.group or scope, self.key_name, self.rate_name, methods)

    def policy(self, setup: conf.Setup, scope: str) -> Policy:
        """The policy this limit stands for in ``scope``, when its rate is no function."""
        known = setup.compiled.get((self.serial, scope))
        if known is None:
            known = self._policy(setup, scope, self.rates)
            setup.remember((self.serial, scope), known)
        return known

    def policy_for(self, setup: conf.Setup, scope: str, answer: object) -> Policy | None:
        """The policy for what the function of the rate has answered; ``None`` for no limit.

        All its rates go by one name, so a caller whose rate changes keeps what it has spent. Under
        a rate of 0 nobody passes: see :data:`CLOSED`.
        """
        if answer is None:
            return None
        if answer == 0:
            return CLOSED
        rates = _compiled(answer) if isinstance(answer, str) else settings.rates(answer)
        return self._policy(setup, scope, rates)

    def _policy(self, setup: conf.Setup, scope: str, rates: tuple[Rate, ...] | None) -> Policy:
        options: Options = ()
        if self.config is not None:
            options = self.config.options
            if rates is not None or self.config.refill_rate is not None:
                rates = self.config.rates(rates)
        return setup.policy(self.name(scope), rates, self.algorithm, options)


CLOSED: Final = Policy("closed", ["1/d"])
"""The policy of those whom a rate of 0 lets never pass: they are charged more than it holds."""

STATED: WeakSet[Limit] = WeakSet()
"""The limits that decorators state, for the system checks."""


@lru_cache(maxsize=1024)
def _compiled(text: str) -> tuple[Rate, ...]:
    return settings.rates(text)


def limit(
    *,
    key: Key = "ip",
    rate: Rates | None = None,
    algorithm: str | None = None,
    algorithm_config: Mapping[str, Any] | None = None,
    block: bool = True,
    backend: backends.Backend | Callable[[], Limiter] | None = None,
    skip_if: Callable[..., Any] | None = None,
    cost: Cost = 1,
    shadow: bool = False,
    adaptive: object = None,
    response_callback: Callable[..., Any] | None = None,
    allow_list: Any = None,
    deny_list: Any = None,
    group: str | None = None,
    method: str | Iterable[str] | None = None,
    per_route: bool = False,
    where: str = "",
) -> Limit:
    """Check what a person wrote and keep it. Raises ConfigError that names the bad part.

    ``per_route`` counts each route apart: it adds the route's template to the scope. ``where``
    is the place in the code, for messages.
    """
    if adaptive is not None:
        raise ConfigError(
            "adaptive=: limits that follow the load are not part of this release; pass rate= a "
            "function of the request that answers with the rate of the moment"
        )
    allow = access("allow_list", allow_list, "allow")
    deny = access("deny_list", deny_list, "deny")
    rate_of = rate if callable(rate) else None
    rates = None if rate is None or rate_of is not None else settings.rates(rate)
    if algorithm is not None:
        Policy("check", rates or ["1/s"], algorithm=algorithm)
    config = None
    if algorithm_config is not None:
        config = AlgorithmConfig(algorithm, algorithm_config)
        config.check(str(algorithm), rates)
        if rates is None and rate_of is None and config.refill_rate is not None:
            rates = config.rates(None)
    return Limit(
        key=key if callable(key) else parse_key(key),
        key_name=_callable_name(key) if callable(key) else key,
        by_address=key == "ip",
        rates=rates,
        rate_of=rate_of,
        rate_name=_rate_name(rates, rate_of),
        algorithm=algorithm,
        config=config,
        block=_is_bool("block", block),
        shadow=_is_bool("shadow", shadow),
        allow=allow,
        deny=deny,
        wants_user=names_users(allow_list, allow) or names_users(deny_list, deny),
        group=_group(group),
        methods=_methods(method),
        cost=_cost(cost),
        cost_of_answer=cost if callable(cost) and _wants_answer(cost) else None,
        skip_if=_function("skip_if", skip_if),
        response_callback=_function("response_callback", response_callback),
        backend=backend if backend is None or callable(backend) else backends.stated(backend),
        per_route=per_route,
        serial=next(_serial),
        where=where,
        waits=any(map(iscoroutinefunction, (key, rate_of, cost, skip_if, response_callback))),
        plain=_is_plain(key, cost, per_route, rate_of, skip_if, allow_list, deny_list),
    )


def _is_plain(key: Key, cost: Cost, per_route: bool, *asked: object) -> bool:
    return key == "ip" and not per_route and not callable(cost) and asked.count(None) == len(asked)


def _rate_name(rates: tuple[Rate, ...] | None, rate_of: Callable[..., Any] | None) -> str:
    if rate_of is not None:
        return _callable_name(rate_of)
    return "default" if rates is None else "; ".join(map(str, rates))


def _is_bool(what: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{what}={value!r} is not True or False")
    return value


def _function(what: str, value: Callable[..., Any] | None) -> Callable[..., Any] | None:
    if value is not None and not callable(value):
        raise ConfigError(f"{what}={value!r} is not a function")
    return value


def _group(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise ConfigError(f"group={value!r}: a group is a name")


def _cost(value: Any) -> Cost:
    if callable(value) or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        cost: Cost = value
        return cost
    raise ConfigError(f"cost={value!r}: a cost is a whole number from 1, or a function of it")


def _wants_answer(function: Callable[..., Any]) -> bool:
    """Whether a cost function takes the response too: then it is asked again after the view."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not tell
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = (
        parameter.kind in positional and parameter.default is parameter.empty
        for parameter in parameters
    )
    return sum(wanted) >= 2


def _methods(method: str | Iterable[str] | None) -> frozenset[str] | None:
    """The methods that count; HEAD with GET, since Django answers it by the same code."""
    if method is None:
        return None
    names = method.split(",") if isinstance(method, str) else list(method)
    if not names:
        raise ConfigError("method= names no method; leave it out to limit every method")
    stated = {settings.choose("method", name.strip().upper(), METHODS) for name in names}
    return frozenset(stated | {"HEAD"} if "GET" in stated else stated)


def _callable_name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)
