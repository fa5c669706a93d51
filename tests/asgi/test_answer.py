"""What the doors do alike."""

from __future__ import annotations

from tollway import Limiter, Policy
from tollway.answer import policy_name, tightest


def test_names_are_spelled_as_policies_are() -> None:
    parts = [
        ("shop.views.search", "header:X-Key", "10/s; 1000/h"),
        ("api", "GET", "", "/items/{item_id}"),
        ("tests.<locals>.view", "ip", "5/10s burst 20"),
        ("middleware ^/items/[0-9]+$", "ip", "5/s"),
        ("sprüche", "ip", "5/s"),
        ("sprache", "ip", "5/s"),
        ("x" * 300, "ip", "5/s"),
        ("x" * 301, "ip", "5/s"),
    ]
    names = [policy_name(*item) for item in parts]
    assert names[0] == "shop.views.search/header.X-Key/10/s+1000/h"
    assert names[1] == "api/GET/items/<item_id>"
    assert len(set(names)) == len(parts)
    for name in names:
        assert Policy(name, ["1/s"]).name == name


def test_the_tightest_decision_speaks() -> None:
    limiter = Limiter("memory://")
    wide = limiter.check(Policy("wide", ["100/h"]), "a")
    narrow = limiter.check(Policy("narrow", ["2/h"]), "a")
    short, long = (
        limiter.check_all([(Policy(name, [rate]), "a", 2)])
        for name, rate in (("short", "1/s"), ("long", "1/h"))
    )
    hourly, daily = Policy("hourly", ["1/h"]), Policy("daily", ["1/d"])
    for policy in (hourly, daily):
        limiter.check(policy, "a")
    soon, late = limiter.check(hourly, "a"), limiter.check(daily, "a")
    assert tightest(None, wide) is wide
    assert tightest(wide, narrow) is tightest(narrow, wide) is narrow
    assert tightest(wide, soon) is tightest(soon, wide) is soon
    assert tightest(soon, late) is tightest(late, soon) is late
    assert not short.allowed
    assert not long.allowed
