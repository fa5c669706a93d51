"""One limit as the decorator or the middleware states it, checked when it is stated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any

from tollway import ConfigError, Policy, Rate
from tollway.answer import policy_name
from tollway.django import conf
from tollway.identity import KeySpec, parse_key

Key = str | Callable[..., Any]
Rates = str | Rate | list[str | Rate] | tuple[str | Rate, ...]
Cost = int | Callable[..., Any]

_serial = count()


@dataclass(frozen=True, eq=False, slots=True)
class Limit:
    """What one ``@rate_limit(...)`` asks for. Made by :func:`limit`."""

    key: KeySpec | Callable[..., Any]
    key_name: str
    by_address: bool
    rates: tuple[Rate, ...] | None
    rate_name: str
    algorithm: str | None
    block: bool
    group: str | None
    methods: frozenset[str] | None
    cost: Cost
    skip_if: Callable[..., Any] | None
    response_callback: Callable[..., Any] | None
    backend: conf.Backend | None
    serial: int

    def applies(self, method: str | None) -> bool:
        """Whether requests with that method count."""
        return self.methods is None or method in self.methods

    def name(self, scope: str) -> str:
        """The policy's name: scope, key and rate, so that no two limits share by accident.

        Sharing on purpose is ``group=`` with the same key and rate.
        """
        methods = "" if self.methods is None else "+".join(sorted(self.methods))
        return policy_name(self.group or scope, self.key_name, self.rate_name, methods)

    def policy(self, setup: conf.Setup, scope: str) -> Policy:
        """The policy this limit stands for in ``scope``."""
        return setup.policy(self.name(scope), self.rates, self.algorithm)


def limit(
    *,
    key: Key = "ip",
    rate: Rates | None = None,
    algorithm: str | None = None,
    block: bool = True,
    group: str | None = None,
    method: str | Iterable[str] | None = None,
    cost: Cost = 1,
    skip_if: Callable[..., Any] | None = None,
    response_callback: Callable[..., Any] | None = None,
    backend: conf.Backend | None = None,
) -> Limit:
    """Check what a person wrote and keep it. Raises ConfigError that names the bad part."""
    rates = None if rate is None else conf.rates(rate)
    if algorithm is not None:
        Policy("check", rates or ["1/s"], algorithm=algorithm)
    stated: Any = cost
    if not callable(cost) and (isinstance(stated, bool) or not isinstance(stated, int) or cost < 1):
        raise ConfigError(f"cost={cost!r}: a cost is a whole number from 1, or a function of it")
    stated = group
    if group is not None and not (isinstance(stated, str) and group):
        raise ConfigError(f"group={group!r}: a group is a name")
    for what, value in (("skip_if", skip_if), ("response_callback", response_callback)):
        if value is not None and not callable(value):
            raise ConfigError(f"{what}={value!r} is not a function")
    return Limit(
        key=key if callable(key) else parse_key(key),
        key_name=_callable_name(key) if callable(key) else key,
        by_address=key == "ip",
        rates=rates,
        rate_name="default" if rates is None else "; ".join(map(str, rates)),
        algorithm=algorithm,
        block=block,
        group=group,
        methods=_methods(method),
        cost=cost,
        skip_if=skip_if,
        response_callback=response_callback,
        backend=None if backend is None else conf.backend(backend),
        serial=next(_serial),
    )


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")


def _methods(method: str | Iterable[str] | None) -> frozenset[str] | None:
    if method is None:
        return None
    names = method.split(",") if isinstance(method, str) else list(method)
    if not names:
        raise ConfigError("method= names no method; leave it out to limit every method")
    return frozenset(conf.choose("method", name.strip().upper(), _METHODS) for name in names)


def _callable_name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)
