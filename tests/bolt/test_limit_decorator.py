"""`@rate_limit` of Bolt: what is written, and what the server is told."""

from __future__ import annotations

from typing import Any

import pytest

from tollway import ConfigError, Limiter, Policy, Rate, RateError
from tollway.bolt import BoltAPI, rate_limit
from tollway.bolt.compiling.assembly import assemble
from tollway.bolt.conf import BoltSettings
from tollway.bolt.limits import limits_of


def limits(api: BoltAPI, **settings: Any) -> list[dict[str, Any]]:
    [route] = [
        route
        for route in assemble([api], BoltSettings(**settings)).routes
        if "redirect" not in route["name"]
    ]
    found: list[dict[str, Any]] = route["limits"]
    return found


def limited(*decorators: Any) -> BoltAPI:
    api = BoltAPI()

    async def handler() -> None: ...

    for decorate in decorators:
        handler = decorate(handler)
    api.get("/x")(handler)
    return api


def test_a_rate_as_people_write_it() -> None:
    [charge] = limits(limited(rate_limit("5/10s", key="header:X-Key")))
    assert charge["key"] == "header:X-Key"
    assert charge["policy"].rates == tuple(Rate.parse("5/10s"))
    assert charge["limiter"].url == "memory://"
    assert "limited.<locals>.handler" in charge["policy"].name


def test_several_limits_share_one_limiter() -> None:
    charges = limits(limited(rate_limit("5/s"), rate_limit("100/h", key="param:org")))
    assert [charge["key"] for charge in charges] == ["param:org", "ip"]
    assert charges[0]["limiter"] is charges[1]["limiter"]
    assert charges[0]["policy"].name != charges[1]["policy"].name


@pytest.mark.parametrize(
    ("rps", "burst", "capacity"), [(100, None, 200), (10, 10, 10), (10, 50, 50), (10, 4, 4)]
)
def test_requests_per_second_with_a_burst(rps: int, burst: int | None, capacity: int) -> None:
    [charge] = limits(limited(rate_limit(rps=rps, burst=burst)))
    [rate] = charge["policy"].rates
    assert (rate.permits, rate.period, rate.capacity) == (rps, 1.0, capacity)
    limiter: Limiter = charge["limiter"]
    passed = [limiter.check(charge["policy"], "a").allowed for _ in range(capacity)]
    assert all(passed)


def test_a_policy_of_ones_own_and_shared_names() -> None:
    policy = Policy("everywhere", "5/m", key="global")
    [charge] = limits(limited(rate_limit(policy=policy)))
    assert charge == {"limiter": charge["limiter"], "policy": policy, "key": "global"}

    api = BoltAPI()
    api.get("/a")(rate_limit("5/m", name="both")(lambda: None))
    api.get("/b")(rate_limit("5/m", name="both")(lambda: None))
    one, two = [r["limits"][0] for r in assemble([api], BoltSettings()).routes if "limits" in r]
    assert one["policy"] is two["policy"]
    assert one["policy"].name == "both"


def test_one_name_cannot_stand_for_two_rates() -> None:
    api = BoltAPI()
    api.get("/a")(rate_limit("5/m", name="both")(lambda: None))
    api.get("/b")(rate_limit("6/m", name="both")(lambda: None))
    with pytest.raises(ConfigError, match='the name "both" stands for 5/m elsewhere'):
        assemble([api], BoltSettings())


def test_either_order_of_the_decorators() -> None:
    api = BoltAPI()

    @rate_limit("1/s")
    @api.get("/x")
    async def handler() -> None: ...

    assert len(limits(api)) == 1
    assert len(limits_of(handler)) == 1


def test_settings_fill_in() -> None:
    api = limited(rate_limit())
    [charge] = limits(api, default_limit="7/m", algorithm="fixed_window")
    assert (charge["policy"].rates, charge["policy"].algorithm) == (
        tuple(Rate.parse("7/m")),
        "fixed_window",
    )
    with pytest.raises(ConfigError, match="RATELIMIT_DEFAULT_LIMIT"):
        limits(api)
    assert limits(api, limits_enabled=False) == []


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"rate": "5/lightyear"}, "lightyear"),
        ({"rate": []}, "the list of rates is empty"),
        ({"rate": "5/s", "rps": 5}, "rate and rps say the same thing twice"),
        ({"rate": "5/s", "burst": 5}, "burst= goes with rps="),
        ({"rps": 0}, "rps=0 is not a whole number from 1"),
        ({"rate": "5/s", "key": "ipp"}, 'Did you mean "ip"?'),
        ({"rate": "5/s", "key": "post:name"}, "known only inside the handler"),
        ({"rate": "5/s", "key": len}, "cannot be decided before Python runs"),
        ({"rate": "5/s", "algorithm": "magic"}, "magic"),
        ({"policy": Policy("p", "1/s"), "name": "q"}, "has its own name"),
    ],
)
def test_mistakes_are_told_where_they_are_written(given: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rate_limit(**given)
    assert part in str(caught.value)


def test_a_bad_rate_is_a_rate_error() -> None:
    with pytest.raises(RateError):
        rate_limit("5 apples")


def test_a_bad_backend_names_the_handler() -> None:
    with pytest.raises(ConfigError) as caught:
        limits(limited(rate_limit("5/s", backend="rediss//nowhere")))
    assert "handler tests.bolt.test_limit_decorator.limited" in str(caught.value)
