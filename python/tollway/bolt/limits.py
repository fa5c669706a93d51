"""``@rate_limit``: limits that the server decides before any Python code runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tollway import ClientAddress, Limiter, Policy, Rate, backends
from tollway.answer import policy_name
from tollway.backends import Backend
from tollway.bolt.conf import BoltSettings
from tollway.errors import ConfigError
from tollway.identity import parse_key
from tollway.rules import Rules
from tollway.stores import Store

__all__ = ["Counting", "Limit", "Limiters", "limits_of", "rate_limit"]

Handler = TypeVar("Handler", bound=Callable[..., Any])
Rates = str | Rate | list[str | Rate] | tuple[str | Rate, ...]

_MARK: Final = "__tollway_limits__"
_NATIVE_KINDS: Final = (
    *("ip", "global", "header", "param", "cookie"),
    *("user", "user_or_ip", "api_key", "org", "jwt"),
)
_KEYS: Final = (
    '"ip", "user", "api_key", "org", "jwt:CLAIM", "header:NAME", "param:NAME", "cookie:NAME" '
    'or "global"'
)


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a handler, as it was written."""

    key: str
    rates: tuple[Rate, ...]
    algorithm: str | None
    policy: Policy | None
    name: str | None
    backend: Backend | None
    tiers: Mapping[str, str]
    """The rates of callers in a tier."""
    on_status: tuple[int, ...]
    """The statuses of the answers that are counted; empty for all requests."""


def rate_limit(
    rate: Rates | None = None,
    *,
    key: str | None = None,
    algorithm: str | None = None,
    policy: Policy | None = None,
    name: str | None = None,
    backend: Backend | None = None,
    rps: int | None = None,
    burst: int | None = None,
    tiers: Mapping[str, str] | None = None,
    on_status: int | Iterable[int] | None = None,
) -> Callable[[Handler], Handler]:
    """Limit how often a handler may be called.

    ``rate`` is ``"5/10s"``, ``"100/m burst 20"``, ``"10/s; 1000/h"``, a :class:`tollway.Rate`
    or a list of these; without it ``RATELIMIT_DEFAULT_LIMIT`` holds. ``key`` says who is
    counted: ``"ip"`` (the default), ``"header:X-API-Key"``, ``"param:org"``, ``"cookie:id"`` or
    ``"global"``; or a caller that the route's ``auth=`` has verified: ``"user"``, ``"api_key"``,
    ``"org"`` and ``"jwt:CLAIM"``. Whoever was not verified is counted by address.
    ``algorithm`` is that of :class:`tollway.Policy`. Handlers with the same ``name`` share one
    count; without it each handler has its own. ``policy`` stands for all of these at once.
    ``backend`` is a URL, a name in ``RATELIMIT_BACKENDS`` or a :class:`tollway.Limiter`; without
    it ``RATELIMIT_BACKEND`` counts.

    ``rps`` is a rate per second, and ``burst`` how many may come at once: twice as many by default.

    ``tiers={"pro": "600/m"}`` are the rates of callers in a tier: that of their API key, or the
    claim ``tier`` of their token.

    ``on_status`` counts only answers with that status, or with one of these: failed logins with
    ``@rate_limit("5/15m", on_status=401)``. Others pass freely until the limit is used up.

    Several decorators on one handler are decided together: when one refuses, none is charged.
    Only those that count verified callers are decided after the others, so that a flood of forged
    tokens is refused by its address before one of them is verified.

    Raises ConfigError where it is written, on a bad rate, key or algorithm::

        @api.get("/search")
        @rate_limit("10/s", key="ip")
        @rate_limit("1000/h", key="header:X-API-Key")
        async def search(q: str): ...
    """
    _one_way(rate, rps, burst, policy)
    if policy is not None and (algorithm or name):
        raise ConfigError("rate_limit: the policy has its own name and algorithm: leave yours out")
    if key is None:
        key = policy.key if policy is not None and isinstance(policy.key, str) else "ip"
    limit = Limit(
        key=_checked_key(key),
        rates=_per_second(rps, burst) if rps is not None else _rates(rate),
        algorithm=algorithm,
        policy=policy,
        name=name,
        backend=backend,
        tiers=dict(tiers or {}),
        on_status=_statuses(on_status),
    )
    for rates in limit.tiers.values():
        _rates(rates)
    if policy is None:
        Policy("check", limit.rates or ("1/s",), algorithm=algorithm or "gcra")

    def mark(handler: Handler) -> Handler:
        setattr(handler, _MARK, [limit, *limits_of(handler)])
        return handler

    return mark


def limits_of(handler: Callable[..., Any]) -> list[Limit]:
    """The limits that were written on a handler, the outermost first."""
    found: list[Limit] = getattr(handler, _MARK, [])
    return found


def _one_way(rate: Any, rps: Any, burst: Any, policy: Policy | None) -> None:
    given = [what for what, value in (("rate", rate), ("rps", rps), ("policy", policy)) if value]
    if len(given) > 1:
        raise ConfigError(f"rate_limit: {' and '.join(given)} say the same thing twice: keep one")
    if burst is not None and rps is None:
        raise ConfigError('rate_limit: burst= goes with rps=; in a rate write "100/m burst 20"')


def _statuses(given: Any) -> tuple[int, ...]:
    found: tuple[Any, ...] = (
        () if given is None else (given,) if isinstance(given, int) else tuple(given)
    )
    if given is not None and not found:
        raise ConfigError("rate_limit: on_status is empty: leave it out to count every request")
    for status in found:
        if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
            raise ConfigError(f"rate_limit: on_status={status!r} is no status of an answer")
        if status == 429:
            raise ConfigError("rate_limit: on_status=429 would count refusals: nobody came back")
    return tuple(sorted(set(found)))


def _rates(rate: Rates | None) -> tuple[Rate, ...]:
    if rate is None:
        return ()
    found: list[Rate] = []
    for item in [rate] if isinstance(rate, str | Rate) else rate:
        found.extend([item] if isinstance(item, Rate) else Rate.parse(item))
    if not found:
        raise ConfigError('rate_limit: the list of rates is empty; write one such as "100/m"')
    return tuple(found)


def _per_second(rps: Any, burst: Any) -> tuple[Rate, ...]:
    """``burst`` at once, then ``rps`` in each second."""
    most = 2 * rps if burst is None else burst
    for what, value in (("rps", rps), ("burst", most)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"rate_limit: {what}={value!r} is not a whole number from 1")
    if most >= rps:
        return (Rate(rps, "1s", burst=most - rps),)
    return (Rate(rps, "1s", burst=most - 1, smooth=True),)


def _checked_key(key: Any) -> str:
    if not isinstance(key, str):
        raise ConfigError(
            f"rate_limit: key={key!r} cannot be decided before Python runs: use {_KEYS}"
        )
    spec = parse_key(key)
    if spec.kind not in _NATIVE_KINDS:
        raise ConfigError(
            f'rate_limit: key "{key}" needs what is known only inside the handler: use {_KEYS}'
        )
    return str(spec)


class Counting(ABC):
    """A dependency that counts by itself, where the limits of the server that runs it count."""

    @abstractmethod
    def counted_by(self, limiter: Limiter | None, address: ClientAddress) -> Callable[..., Any]:
        """What is called in its place. Without a limiter limits are off."""

    def __call__(self) -> Any:
        raise ConfigError(f"{type(self).__name__} counts only as Depends(…) in a handler")


class Limiters:
    """Builds what the server decides with: one limiter per backend, one policy per name."""

    def __init__(self, settings: BoltSettings) -> None:
        self.settings = settings
        self._limiters: dict[object, Limiter] = {}
        self._policies: dict[str, tuple[Policy, str]] = {}
        self._bound: dict[Counting, Callable[..., Any]] = {}

    @property
    def urls(self) -> list[str]:
        """The backends in use, passwords left out."""
        return [limiter.url for limiter in self._limiters.values()]

    def charges(self, handler: Callable[..., Any], where: str, scope: str) -> list[dict[str, Any]]:
        """The limits of one handler as the server reads them."""
        if not self.settings.limits_enabled:
            return []
        rules = self.settings.rules
        try:
            found = [self._charge(limit, scope) for limit in limits_of(handler)]
            if rules is not None and not found:
                # They turn clients away, and limit by path, where no decorator stands.
                found = [{"limiter": self._limiter(None)}]
        except ConfigError as error:
            raise ConfigError(f"handler {where}: {error}") from error
        tiers = {
            charge["policy"].name: {"tiers": dict(limit.tiers)}
            for limit, charge in zip(limits_of(handler), found, strict=False)
            if limit.tiers
        }
        if tiers and rules is not None:
            raise ConfigError(
                f"handler {where}: rate_limit has tiers= and RATELIMIT_RULES is set: write the "
                "tiers into the rules, under the limit's name"
            )
        if tiers:
            rules = Rules({"limits": tiers})
        if rules is not None:
            found[0]["rules"] = rules
        return found

    def bound(self, dependency: Any) -> Any:
        """A dependency, or what stands for it here when it counts by itself."""
        if not isinstance(dependency, Counting):
            return dependency
        if dependency not in self._bound:
            limiter = self._limiter(None) if self.settings.limits_enabled else None
            address = ClientAddress(ipv6_prefix=self.settings.ipv6_prefix)
            self._bound[dependency] = dependency.counted_by(limiter, address)
        return self._bound[dependency]

    def _charge(self, limit: Limit, scope: str) -> dict[str, Any]:
        limiter = self._limiter(limit.backend)
        charge = {"limiter": limiter, "policy": self._policy(limit, scope), "key": limit.key}
        return charge | ({"statuses": list(limit.on_status)} if limit.on_status else {})

    def _policy(self, limit: Limit, scope: str) -> Policy:
        if limit.policy is not None:
            return limit.policy
        rates: Any = limit.rates or self.settings.default_limit
        if rates is None:
            raise ConfigError(
                'rate_limit names no rate: write @rate_limit(rate="100/m") or set '
                "RATELIMIT_DEFAULT_LIMIT"
            )
        rates = _rates(rates)
        spelled = "; ".join(map(str, rates))
        parts = (scope, limit.key, spelled, *map(str, limit.on_status))
        name = policy_name(limit.name) if limit.name else policy_name(*parts)
        policy = Policy(name, rates, algorithm=limit.algorithm or self.settings.algorithm)
        known = self._policies.setdefault(name, (policy, spelled))
        if (known[1], known[0].algorithm) != (spelled, policy.algorithm):
            raise ConfigError(
                f'rate_limit: the name "{limit.name}" stands for {known[1]} elsewhere and for '
                f"{spelled} here: give one of them another name"
            )
        return known[0]

    def _limiter(self, backend: Backend | None) -> Limiter:
        settings = self.settings
        chosen = settings.backend if backend is None else backend
        if isinstance(chosen, str):
            chosen = backends.loaded(settings.backends.get(chosen, chosen))
        if not isinstance(chosen, str | tuple | Store):
            if not isinstance(chosen, Limiter):
                raise ConfigError(f"{chosen!r} is no backend for Bolt: use a URL or a Limiter")
            self._limiters[f"given:{id(chosen)}"] = chosen
            return chosen
        if chosen not in self._limiters:
            self._limiters[chosen] = Limiter(
                list(chosen) if isinstance(chosen, tuple) else chosen,
                fail_mode=settings.fail_mode,
                prefix=settings.key_prefix,
                connect_timeout=settings.connect_timeout,
                command_timeout=settings.command_timeout,
                max_keys=settings.max_keys,
            )
        return self._limiters[chosen]
