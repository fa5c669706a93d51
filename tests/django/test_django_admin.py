"""The pages of the admin, as those see them who have the permission."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import path
from django.utils import timezone

from tests.django.conftest import TEMPLATES
from tollway import hash_identity
from tollway.django import conf, rate_limit
from tollway.django.admin.usage import _whos
from tollway.django.models import (
    AccessEntry,
    APIKey,
    LimitRule,
    Offender,
    Override,
    Tier,
    TierMember,
    Usage,
)
from tollway.django.usage import span_of

pytestmark = pytest.mark.usefixtures("database")

PAGES = ("limitrule", "override", "accessentry", "tier", "apikey", "usage", "offender")


@rate_limit("ip", "1/h", group="search")
def search(request: Any) -> HttpResponse:
    return HttpResponse("ok")


urlpatterns = [path("admin/", admin.site.urls), path("search/", search)]

ADMIN_TEMPLATES = {
    "BACKEND": TEMPLATES[0]["BACKEND"],
    "APP_DIRS": True,
    "OPTIONS": {
        "context_processors": [
            "django.template.context_processors.request",
            "django.contrib.auth.context_processors.auth",
            "django.contrib.messages.context_processors.messages",
        ]
    },
}


@pytest.fixture(autouse=True)
def site(redis_url: str) -> Iterator[None]:
    with override_settings(
        ROOT_URLCONF=__name__,
        TEMPLATES=[ADMIN_TEMPLATES],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        STATIC_URL="static/",
        RATELIMIT_BACKEND=redis_url,
        RATELIMIT_COMMAND_TIMEOUT=2,
        RATELIMIT_NEAR_CACHE=0,
        RATELIMIT_KEY_PREFIX=f"admin-{uuid4().hex[:8]}",
        RATELIMIT_RULES="database",
        RATELIMIT_USAGE=True,
    ):
        yield


@pytest.fixture
def client() -> Client:
    """Somebody who may do everything."""
    found = Client()
    found.force_login(User.objects.create_superuser("boss"))
    return found


def act(client: Client, model: str, action: str, *rows: Any) -> str:
    """Choose rows of a list and an action; what the page says then."""
    answer = client.post(
        f"/admin/tollway/{model}/",
        {"action": action, "_selected_action": [row.pk for row in rows]},
        follow=True,
    )
    assert answer.status_code == 200
    return answer.content.decode()


def turn() -> None:
    conf.current().ruling.following._turn()


def form(client: Client, where: str) -> dict[str, Any]:
    """What a form holds when it is opened."""
    answer: Any = client.get(where)
    assert answer.status_code == 200
    shown: Any = answer.context_data["adminform"].form
    values = {
        name: shown.get_initial_for_field(field, name) for name, field in shown.fields.items()
    }
    for one in answer.context_data["inline_admin_formsets"]:
        prefix = one.formset.prefix
        values |= {f"{prefix}-TOTAL_FORMS": 0, f"{prefix}-INITIAL_FORMS": 0}
    return {
        name: value for name, value in values.items() if value is not None and value is not False
    }


@pytest.mark.parametrize("model", PAGES)
def test_lists_open_and_search(client: Client, model: str) -> None:
    now = timezone.now()
    tier = Tier.objects.create(name="pro")
    TierMember.objects.create(tier=tier, who="user:7")
    LimitRule.objects.create(name="search", rate="5/h")
    AccessEntry.objects.create(who="192.0.2.1", until=now)
    Override.objects.create(who="192.0.2.1", rate="5/h")
    APIKey.issue("Acme", tier=tier)
    Usage.objects.create(start=span_of(now), policy="search")
    Offender.objects.create(start=span_of(now), policy="search", who="192.0.2.1")
    for query in ("", "?q=192", "?q=search", "?state=ended", "?state=holds", "?e=1"):
        answer = client.get(f"/admin/tollway/{model}/{query}", follow=True)
        assert answer.status_code == 200
    assert b"0 of 100 selected" not in answer.content


def test_a_limit_is_changed_and_a_fault_is_said_beside_the_field(client: Client) -> None:
    values = form(client, "/admin/tollway/limitrule/add/")
    values |= {"name": "search", "rate": "3/q"}
    answer: Any = client.post("/admin/tollway/limitrule/add/", values)
    assert answer.status_code == 200
    assert "expected a unit" in answer.context_data["adminform"].form.errors["rate"][0]
    assert client.post("/admin/tollway/limitrule/add/", values | {"rate": "3/h"}).status_code == 302
    turn()
    assert [Client().get("/search/").status_code for _ in range(4)] == [200] * 3 + [429]
    limit = LimitRule.objects.get()
    levels = {
        f"levels-{number}-{name}": value
        for number in range(2)
        for name, value in {"by": "org", "rate": "5/h", "limit": limit.pk}.items()
    }
    values |= {"rate": "3/h", **levels, "levels-TOTAL_FORMS": 2}
    answer = client.post(f"/admin/tollway/limitrule/{limit.pk}/change/", values)
    assert "two levels are named" in answer.content.decode()


def test_actions_on_limits(client: Client) -> None:
    limit = LimitRule.objects.create(name="search", rate="3/h")
    for action, field, value in (
        ("disable", "enabled", False),
        ("enable", "enabled", True),
        ("to_shadow", "shadow", True),
        ("out_of_shadow", "shadow", False),
    ):
        act(client, "limitrule", action, limit)
        limit.refresh_from_db()
        assert getattr(limit, field) is value
    act(client, "limitrule", "delete_selected", limit)  # asks first
    assert LimitRule.objects.exists()


def test_extend_end_and_unblock(client: Client) -> None:
    now = timezone.now()
    over = AccessEntry.objects.create(who="127.0.0.1", until=now - timedelta(days=3))
    ever = AccessEntry.objects.create(who="192.0.2.2")
    assert "1 row holds longer" in act(client, "accessentry", "extend_a_day", over, ever)
    over.refresh_from_db()
    assert over.until is not None
    assert timedelta(hours=23) < over.until - now < timedelta(hours=25)
    turn()
    assert Client().get("/search/").status_code == 403
    act(client, "accessentry", "end_now", over)
    turn()
    assert [Client().get("/search/").status_code for _ in range(2)] == [200, 429]
    act(client, "accessentry", "extend_a_week", over)
    page = act(client, "accessentry", "unblock", over)
    assert "Deleted entries: 1; counts that begin again: 1." in page
    turn()
    assert Client().get("/search/").status_code == 200


def test_what_holds_nearly_for_ever_is_not_extended(client: Client) -> None:
    end = datetime(9999, 12, 31, tzinfo=UTC)
    entry = AccessEntry.objects.create(who="192.0.2.2", until=end)
    assert "0 rows hold longer" in act(client, "accessentry", "extend_a_week", entry)


def test_the_counts_of_whoever_is_named_begin_again(client: Client) -> None:
    """Not of somebody whose name has ``api_key:`` in its middle."""
    key = hash_identity("sk")
    rows = [Offender(who=who) for who in (f"api_key:{key}", "param:q:api_key:x", "2001:db8::/64")]
    assert _whos(rows) == [f"key:{key}", "param:q:api_key:x", "2001:db8::/64"]


def test_refused_clients_are_blocked_and_reset(client: Client) -> None:
    assert [Client().get("/search/").status_code for _ in range(2)] == [200, 429]
    recorder = conf.current().usage
    assert recorder is not None
    recorder.write()
    row = Offender.objects.get()
    assert (row.who, row.policy, row.refused) == ("127.0.0.1", "search/ip/1/h", 1)
    assert "1 count begins again" in act(client, "offender", "reset", row)
    assert Client().get("/search/").status_code == 200
    assert "1 client is turned away" in act(client, "offender", "block_an_hour", row)
    turn()
    assert Client().get("/search/").status_code == 403
    assert AccessEntry.objects.get().note == "blocked by boss"
    act(client, "offender", "unblock", row)
    turn()
    assert Client().get("/search/").status_code == 200


def shown_in(page: str) -> list[str]:
    return re.findall(r"tw_\w{8}_\w{32}", page)


def test_a_key_is_shown_once(client: Client) -> None:
    answer = client.post("/admin/tollway/apikey/add/", {"name": "Acme", "scopes": "a, b"})
    (clear,) = shown_in(answer.content.decode())
    assert "no-store" in answer["Cache-Control"]
    row = APIKey.objects.get()
    assert (row.hash, row.scopes) == (hash_identity(clear), "a b")
    for page in ("/admin/tollway/apikey/", f"/admin/tollway/apikey/{row.pk}/change/", "/admin/"):
        assert clear not in client.get(page).content.decode()
    page = act(client, "apikey", "rotate_later", row)
    (second,) = shown_in(page)
    row.refresh_from_db()
    assert second != clear and row.usable() and row.expires is not None
    other = APIKey.objects.exclude(pk=row.pk).get()
    (third,) = shown_in(act(client, "apikey", "rotate", other))
    other.refresh_from_db()
    assert third != second and not other.usable()
    assert "has ended" in act(client, "apikey", "rotate", other)
    act(client, "apikey", "revoke", row)
    row.refresh_from_db()
    assert not row.usable()


def test_actions_need_permissions() -> None:
    user = User.objects.create_user("helper", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client = Client()
    client.force_login(user)
    row = AccessEntry.objects.create(who="192.0.2.1")
    answer = client.get("/admin/tollway/accessentry/")
    assert answer.status_code == 200 and b"extend_a_day" not in answer.content
    act(client, "accessentry", "unblock", row)
    assert AccessEntry.objects.exists()
    user.user_permissions.add(
        *Permission.objects.filter(codename__in=["delete_accessentry", "reset_counts"])
    )
    act(client, "accessentry", "unblock", row)
    assert not AccessEntry.objects.exists()


def test_rows_that_are_not_in_force_are_said_to_be_not(client: Client) -> None:
    warning = "ules in the database are not in force"
    assert warning not in client.get("/admin/tollway/limitrule/").content.decode()
    with override_settings(RATELIMIT_RULES=None, RATELIMIT_USAGE=False):
        page = client.get("/admin/tollway/limitrule/").content.decode()
        assert warning in page
        assert "Nothing is summed up" in client.get("/admin/tollway/usage/").content.decode()
    assert "not asked for" in client.get("/admin/tollway/apikey/").content.decode()


def test_counts_in_memory_are_said_to_be_out_of_reach(client: Client) -> None:
    row = Override.objects.create(who="192.0.2.1", rate="5/h")
    with override_settings(RATELIMIT_BACKEND="memory://"):
        assert "memory of the server" in act(client, "override", "reset", row)
