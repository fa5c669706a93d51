"""Rules in the database: rows that the engine checks, followed by every process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path
from django.utils import timezone

from tests.django.conftest import User, codes
from tollway import ConfigError, hash_identity
from tollway.django import conf, rate_limit
from tollway.django.database import DatabaseSource, sound
from tollway.django.models import (
    AccessEntry,
    LimitLevel,
    LimitRule,
    LimitSchedule,
    Override,
    Tier,
    TierMember,
    TierRate,
)
from tollway.django.pool import DatabasePool, Overloaded
from tollway.rules import Rules, Subject, stated_rules

pytestmark = pytest.mark.usefixtures("database")


def ok(request: Any) -> HttpResponse:
    return HttpResponse("ok")


urlpatterns = [path("api/", ok)]


@pytest.fixture
def followed() -> Iterator[Callable[[], None]]:
    """Rules from the database; the function takes the turn that the poller would."""
    with override_settings(RATELIMIT_RULES="database"):

        def turn() -> None:
            conf.current().ruling.following._turn()

        yield turn


def asked(rf: RequestFactory, user: int | None = None, **options: Any) -> Any:
    request: Any = rf.get("/", **options)
    request.user = User(user or 0, authenticated=user is not None)
    return request


def test_a_changed_limit_holds_at_the_next_turn(
    rf: RequestFactory, followed: Callable[[], None]
) -> None:
    view = rate_limit(rate="2/h", group="search")(ok)
    assert codes(view, [rf.get("/") for _ in range(3)]) == [200, 200, 429]
    limit = LimitRule.objects.create(name="search", rate="4/h")
    followed()
    # The share that was spent is carried over.
    assert codes(view, [rf.get("/", REMOTE_ADDR="192.0.2.1") for _ in range(5)]) == [200] * 4 + [
        429
    ]
    limit.rate = "1/h"
    limit.save()
    followed()
    assert codes(view, [rf.get("/", REMOTE_ADDR="192.0.2.2") for _ in range(2)]) == [200, 429]
    LimitRule.objects.filter(name="search").update(rate="3/h")
    followed()
    assert codes(view, [rf.get("/", REMOTE_ADDR="192.0.2.3") for _ in range(4)]) == [200] * 3 + [
        429
    ]
    LimitRule.objects.all().delete()
    followed()
    assert codes(view, [rf.get("/", REMOTE_ADDR="192.0.2.4") for _ in range(3)]) == [200] * 2 + [
        429
    ]


def test_blocked_allowed_and_let_have_more(
    rf: RequestFactory, followed: Callable[[], None]
) -> None:
    AccessEntry.objects.create(access="deny", who="203.0.113.0/24")
    AccessEntry.objects.create(access="allow", who="10.0.0.0/8")
    past = timezone.now() - timedelta(hours=1)
    AccessEntry.objects.create(access="deny", who="192.0.2.9", until=past)
    AccessEntry.objects.create(access="deny", who="192.0.2.8", enabled=False)
    Override.objects.create(who="user:7", rate="3/h")
    view = rate_limit("user_or_ip", "1/h")(ok)
    assert codes(view, [asked(rf, REMOTE_ADDR="203.0.113.5")]) == [403]
    assert codes(view, [asked(rf, REMOTE_ADDR="10.0.0.5") for _ in range(3)]) == [200] * 3
    for address in ("192.0.2.8", "192.0.2.9"):
        assert codes(view, [asked(rf, REMOTE_ADDR=address) for _ in range(2)]) == [200, 429]
    assert codes(view, [asked(rf, 7) for _ in range(4)]) == [200] * 3 + [429]


def test_tiers_levels_and_schedules_of_rows(
    rf: RequestFactory, followed: Callable[[], None]
) -> None:
    limit = LimitRule.objects.create(name="search")
    pro = Tier.objects.create(name="pro")
    TierRate.objects.create(limit=limit, tier=pro, rate="3/h")
    TierMember.objects.create(tier=pro, who="user:7")
    LimitLevel.objects.create(limit=limit, by="global", rate="6/h")
    LimitSchedule.objects.create(limit=limit, when="2001-01-01", rate="1/h")
    view = rate_limit("user_or_ip", "2/h", group="search")(ok)
    assert codes(view, [asked(rf, 7) for _ in range(4)]) == [200] * 3 + [429]
    assert codes(view, [asked(rf, 8) for _ in range(3)]) == [200] * 2 + [429]
    assert codes(view, [asked(rf, 9) for _ in range(2)]) == [200, 429]  # everybody's level
    assert conf.current().ruling.rules.explain([], Subject()) == []


def test_a_limit_by_path_needs_nothing_in_the_code(followed: Callable[[], None]) -> None:
    middleware = ["tollway.django.middleware.RateLimitMiddleware"]
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=middleware):
        assert Client().get("/api/").status_code == 200
        LimitRule.objects.create(name="api", rate="2/h", by="ip", paths="POST /x/\n/api/\n")
        followed()
        assert [Client().get("/api/").status_code for _ in range(3)] == [200, 200, 429]


def test_users_are_looked_up_only_when_rules_name_some(
    rf: RequestFactory, followed: Callable[[], None]
) -> None:
    ruling = conf.current().ruling
    assert not ruling.wants_user
    Override.objects.create(who="user:7", rate="9/h")
    followed()
    assert ruling.wants_user


class Counter:
    """Counts the queries of a thread's connection."""

    def __init__(self) -> None:
        self.queries: list[str] = []

    def __call__(self, execute: Any, sql: str, *arguments: Any) -> Any:
        self.queries.append(sql)
        return execute(sql, *arguments)


def test_a_request_asks_no_database(rf: RequestFactory, followed: Callable[[], None]) -> None:
    from django.db import connection

    Override.objects.create(who="user:7", rate="9/h")
    view = rate_limit("user_or_ip", "9/h")(ok)
    counter = Counter()
    with connection.execute_wrapper(counter):
        assert codes(view, [asked(rf, 7) for _ in range(3)]) == [200] * 3
    assert counter.queries == []


def test_a_row_that_cannot_work_does_not_hold_the_others_back(
    followed: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    Override.objects.create(who="user:7", limit="search", level="gone", rate="9/h")
    LimitRule.objects.create(name="broken", rate="5/q")
    AccessEntry.objects.create(who="203.0.113.5")
    rules = conf.current().ruling.rules
    from tollway import Limiter

    assert rules.check(Limiter(), [], Subject(address="203.0.113.5")).status == 403
    assert "gone" in caplog.text
    assert "5/q" in caplog.text
    kept = sound({"deny": ["192.0.2.1"], "ipv6_prefix": 56, "limits": {"a": "1/s", "b": "1/q"}})
    assert kept == {"deny": ["192.0.2.1"], "ipv6_prefix": 56, "limits": {"a": "1/s"}}


def test_other_doors_follow_the_same_rows() -> None:
    AccessEntry.objects.create(who="192.0.2.2")
    rules = stated_rules("database")
    assert rules.explain([], Subject(address="192.0.2.2")) == "deny 192.0.2.2"


def test_rules_in_code_and_in_the_database(rf: RequestFactory) -> None:
    base = {"skip": ["/static/"], "deny": ["192.0.2.1"], "limits": {"a": "1/h", "b": "1/h"}}
    AccessEntry.objects.create(who="192.0.2.2")
    LimitRule.objects.create(name="b", rate="2/h")
    found = DatabaseSource(base).load(None)
    assert found is not None
    assert found[1] == {
        "skip": ["/static/"],
        "deny": ["192.0.2.1", "deny 192.0.2.2"],
        "limits": {"a": "1/h", "b": {"rate": "2/h"}},
    }


def test_a_database_without_tables_does_not_keep_a_site_from_starting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tollway.django.models.Revision._meta.db_table", "not_there")
    source = DatabaseSource({"deny": ["192.0.2.1"]})
    first = source.load(None)
    assert first is not None
    assert first[1] == {"deny": ["192.0.2.1"]}
    assert "cannot be read yet" in caplog.text
    assert source.load(first[0]) is None
    monkeypatch.undo()
    later = source.load(first[0])
    assert later is not None
    assert later[0] >= 0


@pytest.mark.parametrize(
    ("row", "field", "part"),
    [
        (LimitRule(name="a", rate="5/q"), "rate", "position 2"),
        (LimitRule(name="a", algorithm="gcr"), "algorithm", "gcr"),
        (LimitRule(name="a", rate="5/s", by="usr"), "by", "usr"),
        (LimitRule(name="a", paths="/api/"), "name", "needs"),
        (LimitRule(name="a", rate="1/s", by="ip", paths="api"), "paths", "api"),
        (LimitRule(name="a b", rate="1/s"), "name", "usable name"),
        (LimitRule(name="a", rate="1/s", shadow=True, enforce=5), "enforce", "shadow"),
        (LimitSchedule(when="Mon-Fry", rate="1/s"), "when", "Fry"),
        (LimitSchedule(when="Mon", rate="1"), "rate", "position"),
        (LimitLevel(by="x", rate="1/s"), "by", "x"),
        (LimitLevel(by="ip", rate="1"), "rate", "position"),
        (TierRate(rate="1"), "rate", "position"),
        (LimitRule(name="a", enforce=Decimal(500)), "enforce", "percentage"),
        (Tier(name="a@b"), "name", "usable name"),
        (TierMember(who="7"), "who", "user:ID"),
        (AccessEntry(who="mallory"), "who", "mallory"),
        (AccessEntry(who="key:sk-live"), "who", "hash"),
        (Override(who="user:7", rate="1"), "rate", "position"),
        (Override(who="user:7", rate="1/s", limit="a", level="no"), "level", "no level"),
        (Override(who="user:7", rate="1/s", limit="a b"), "limit", "usable name"),
    ],
)
def test_a_row_is_checked_by_the_engine(row: Any, field: str, part: str) -> None:
    with pytest.raises(ValidationError) as caught:
        row.clean()
    assert list(caught.value.message_dict) == [field]
    assert part in caught.value.message_dict[field][0]
    assert "sk-live" not in str(caught.value)


def test_who_is_spelled_as_the_engine_does() -> None:
    for written, spelled in (("203.0.113.7/24", "203.0.113.0/24"), ("::ffff:1.2.3.4", "1.2.3.4")):
        entry = AccessEntry(who=written)
        entry.full_clean()
        assert entry.who == spelled
    hashed = hash_identity("sk-live")
    override = Override(who=f"key:{hashed}", rate="unlimited", starts=timezone.now())
    override.full_clean()
    Rules({"overrides": [override.data()]})


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.update(note="x"),
        lambda rows: rows.delete(),
        lambda rows: rows.bulk_create([AccessEntry(who="192.0.2.2")]),
    ],
)
def test_a_change_in_bulk_is_not_told_before_it_is_there(change: Callable[[Any], Any]) -> None:
    """Who reads in between would have the new number with the old rows, and never look again."""
    AccessEntry.objects.create(who="192.0.2.1")
    source, early = DatabaseSource(), []
    found = source.load(None)
    assert found is not None

    def between(execute: Any, sql: str, *arguments: Any) -> Any:
        if not sql.startswith("SELECT") and "tollway_accessentry" in sql:
            early.append(source.load(found[0]))
        return execute(sql, *arguments)

    with connection.execute_wrapper(between):
        change(AccessEntry.objects.all())
    assert early and early.count(None) == len(early)
    assert source.load(found[0]) is not None


def test_the_migrations_are_those_of_the_models() -> None:
    call_command("makemigrations", "tollway", check=True, dry_run=True, verbosity=0)


def test_the_database_needs_the_app() -> None:
    with override_settings(INSTALLED_APPS=[]), pytest.raises(ConfigError, match="INSTALLED_APPS"):
        DatabaseSource()


def test_a_pool_refuses_more_than_may_wait() -> None:
    from threading import Event

    pool, gate = DatabasePool("test", threads=1, waiting=1), Event()
    held = [pool.submit(gate.wait, 10) for _ in range(2)]
    with pytest.raises(Overloaded, match="1 calls wait"):
        pool.submit(gate.wait)
    gate.set()
    assert [future.result() for future in held] == [True, True]
    assert pool.call(str, 5) == "5"
    pool.close()
    assert pool.call(str, 6) == "6"
    pool.close()
