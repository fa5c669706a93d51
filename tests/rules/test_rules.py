"""The policy layer as Python sees it."""

import asyncio
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from zoneinfo import ZoneInfo

import pytest

from tollway import ConfigError, Limiter, Policy, Rate, StoreUnavailable, hash_identity
from tollway.rules import AccessList, Rules, Subject
from tollway.testing import ManualClock

SEARCH = Policy("search", "10/m")
CHARGES = [(SEARCH, "user:7")]


def test_a_denied_client_gets_403_and_an_allowed_one_is_not_counted() -> None:
    limiter = Limiter()
    rules = Rules({"deny": [ip_network("203.0.113.0/24")], "allow": ["user:root"]})

    denied = rules.check(limiter, CHARGES, Subject(address="203.0.113.9"))
    assert (denied.allowed, denied.status, denied.reason) == (False, 403, "denied")
    assert denied.rule == "deny 203.0.113.0/24"
    assert b"203.0.113" not in denied.problem() and b'"status":403' in denied.problem()
    assert denied.headers() == [] and denied.retry_after_seconds == 0

    for _ in range(20):
        allowed = rules.check(limiter, CHARGES, Subject(user="root"))
        assert (allowed.allowed, allowed.status, allowed.reason) == (True, 200, "exempt")
    assert rules.check(limiter, CHARGES, Subject(user=8)).remaining == 9


async def test_await_answers_alike() -> None:
    limiter = Limiter()
    rules = Rules({"limits": {"search": {"tiers": {"pro": "2/m"}}}})
    subject = Subject(tier="pro")
    assert (await rules.apeek(limiter, CHARGES, subject)).remaining == 1
    assert (await rules.acheck(limiter, CHARGES, subject)).remaining == 1
    assert rules.peek(limiter, CHARGES, subject).remaining == 0
    last = await rules.acheck(limiter, CHARGES, subject)
    assert (last.allowed, last.rule, last.level) == (True, "tier pro", "client")
    assert (await rules.acheck(limiter, CHARGES, subject)).status == 429


def test_rules_without_anything_to_say_change_nothing() -> None:
    limiter = Limiter()
    rules = Rules()
    assert rules.check(limiter, CHARGES).remaining == 9
    decision = rules.check(limiter, CHARGES, Subject(user=7, path="/", method="GET"))
    assert (decision.remaining, decision.rule, decision.level) == (8, None, None)


def test_a_key_is_named_by_its_hash() -> None:
    digest = hash_identity("sk-live-1")
    rules = Rules({"overrides": [{"who": f"key:{digest}", "rate": Rate(3, "1m")}]})
    assert rules.check(Limiter(), CHARGES, Subject(key=digest)).limit == 3
    with pytest.raises(ConfigError, match="hash_identity") as raised:
        Rules({"deny": ["key:sk-live-1"]})
    assert "sk-live-1" not in str(raised.value)


def test_an_override_ends_when_it_says() -> None:
    clock = ManualClock(1_700_000_000.0)
    until = datetime.fromtimestamp(1_700_000_100, UTC)
    rules = Rules({"overrides": [{"who": "user:7", "rate": "1/m", "until": until}]}, clock=clock)
    told = [rules.explain(CHARGES, Subject(user=7))]
    clock.advance(100)
    told.append(rules.explain(CHARGES, Subject(user=7)))
    assert [found[0]["rates"] for found in told] == [["1/m"], ["10/m"]]  # type: ignore[index]


def test_a_changed_rate_keeps_what_was_spent() -> None:
    limiter = Limiter()
    rules = Rules({"limits": {"search": "10/h"}})
    for _ in range(5):
        assert rules.check(limiter, CHARGES).allowed
    rules.replace({"limits": {"search": "100/h"}})
    assert rules.check(limiter, CHARGES).remaining in (48, 49)


def test_a_shadow_has_a_count_of_its_own() -> None:
    limiter = Limiter()
    rules = Rules({"limits": {"search": {"rate": "2/h", "shadow": True}, "other": {}}})
    other = Policy("other", "10/h")
    decisions = [rules.check(limiter, [*CHARGES, (other, "user:7")]) for _ in range(4)]
    assert [decision.remaining for decision in decisions] == [9, 8, 7, 6]
    assert [decision.mode for decision in decisions] == ["enforced"] * 4
    reasons = [decision.shadow and decision.shadow.reason for decision in decisions]
    assert reasons == ["allowed", "allowed", "rate_limited", "rate_limited"]
    assert rules.shadows() == {"search": (4, 2)}
    assert limiter.peek(SEARCH, "user:7", 0).remaining == 10

    rules.replace({"limits": {"search": {"rate": "3/h", "shadow": True}}})
    assert rules.shadows() == {"search": (4, 2)}, "what was recorded outlives a change of the rate"


def test_limits_of_one_request_share_their_levels() -> None:
    limiter = Limiter()
    rules = Rules({"limits": {"*": {"levels": [{"by": "org", "rate": "5/h"}]}}})
    charges = [(Policy("a", "9/h"), "u"), (Policy("b", "9/h"), "u", 3)]
    decision = rules.check(limiter, charges, Subject(org="acme"))
    assert (decision.policy, decision.level, decision.remaining) == ("*/org", "org", 2)
    refused = rules.check(limiter, charges, Subject(org="acme"))
    assert (refused.allowed, refused.level) == (False, "org")
    assert limiter.peek(charges[0][0], "u", 0).remaining == 8, "nothing was charged anywhere"


def test_a_backend_that_is_away_does_not_undo_the_lists() -> None:
    limiter = Limiter("redis://127.0.0.1:1/0", fail_mode="closed")
    rules = Rules({"deny": ["203.0.113.0/24"], "limits": {"search": {"tiers": {"pro": "5/m"}}}})
    assert rules.check(limiter, CHARGES, Subject(address="203.0.113.1")).status == 403
    with pytest.raises(StoreUnavailable):
        rules.check(limiter, CHARGES, Subject(tier="pro"))
    local = Limiter("redis://127.0.0.1:1/0")
    decision = rules.check(local, CHARGES, Subject(tier="pro"))
    assert decision.allowed and decision.degraded and decision.limit == 5


async def test_one_round_trip_for_limits_levels_and_shadows(redis_url: str) -> None:
    limiter = Limiter(f"{redis_url}/9", near_cache=0)
    rules = Rules(
        {
            "limits": {
                "search": {"rate": "3/h", "levels": [{"by": "org", "rate": "5/h"}]},
                "trial": {"rate": "1/h", "shadow": True},
            }
        }
    )
    trial = Policy("trial", "9/h")
    await limiter.areset(SEARCH, "user:7")
    answers = await asyncio.gather(
        *(
            rules.acheck(limiter, [*CHARGES, (trial, "user:7")], Subject(org="acme"))
            for _ in range(20)
        )
    )
    assert sum(decision.allowed for decision in answers) == 3
    assert rules.shadows() == {"trial": (20, 19)}
    await limiter.aping()


def test_a_large_list_is_read_and_asked() -> None:
    dice = random.Random(7)
    nets = {
        ip_network((dice.getrandbits(32) >> 12 << 12, dice.randint(12, 32)), strict=False)
        for _ in range(20_000)
    }
    entries = AccessList(nets)
    assert len(entries) == len(nets)
    for net in dice.sample(sorted(nets, key=str), 200):
        told = entries.judge(Subject(address=str(net.network_address)))
        assert told is not None
        found = ip_network(told.removeprefix("deny "))
        assert net.network_address in found and found.prefixlen >= net.prefixlen


def test_a_list_says_which_entry_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"line 3: .*300\.0\.0\.1"):
        AccessList("10.0.0.1\n\n300.0.0.1")
    with pytest.raises(ConfigError, match="entry 1: "):
        AccessList(["10.0.0.1", "nobody"])
    with pytest.raises(ConfigError, match='"maybe" is neither'):
        AccessList(plain="maybe")


DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def spells(dice: random.Random) -> Iterator[tuple[str, set[int], int, int, ZoneInfo]]:
    zones = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Auckland", "UTC")
    for zone in zones:
        start, length = dice.randrange(1440), dice.randrange(1, 1440)
        end = (start + length) % 1440
        days = set(dice.sample(range(7), dice.randint(1, 6)))
        hours = f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
        names = ",".join(DAYS[day] for day in sorted(days))
        yield f"{names} {hours} {zone}", days, start, end, ZoneInfo(zone)


@pytest.mark.parametrize("seed", range(3))
def test_schedules_agree_with_another_calendar_minute_by_minute(seed: int) -> None:
    """The standard library's zones, walked through a whole year that has both changes."""
    for text, days, start, end, zone in spells(random.Random(seed)):
        clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
        rules = Rules(
            {"limits": {"search": {"schedule": [{"when": text, "rate": "1/m"}]}}}, clock=clock
        )
        for _ in range(0, 366 * 1440, 13):
            local = datetime.fromtimestamp(clock.now, zone)
            minute, today = local.hour * 60 + local.minute, local.weekday()
            yesterday = (local.date() - timedelta(days=1)).weekday()
            if start < end:
                expected = today in days and start <= minute < end
            else:
                expected = (today in days and minute >= start) or (
                    yesterday in days and minute < end
                )
            found = rules.explain(CHARGES)
            assert (found[0]["rates"] == ["1/m"]) == expected, f"{text} at {local}"  # type: ignore[index]
            clock.advance(13 * 60)
