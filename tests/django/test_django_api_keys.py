"""API keys that the project issues: what they open, and when they no longer do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection, connections
from django.http import HttpResponse
from django.test import RequestFactory, override_settings
from django.utils import timezone

from tests.django.conftest import acodes, codes
from tollway import ConfigError, hash_identity
from tollway.django import conf, rate_limit
from tollway.django.keys import Key, KeyRing, KeySource, api_key, note_uses, require_api_key
from tollway.django.models import APIKey, LimitRule, Tier, TierRate

pytestmark = pytest.mark.usefixtures("database")


@require_api_key
def orders(request: Any) -> HttpResponse:
    return HttpResponse(request.api_key.name)


@require_api_key("read", "write")
async def awrite(request: Any) -> HttpResponse:
    return HttpResponse(request.api_key.name)


@pytest.fixture
def issued() -> Iterator[Callable[[], None]]:
    """Keys are asked for; the function takes the turns that the poller would."""
    with override_settings(RATELIMIT_API_KEYS=True, RATELIMIT_RULES="database"):

        def turn() -> None:
            ruling = conf.current().ruling
            ruling._following_keys[0]._turn()
            ruling.following._turn()

        conf.current()
        yield turn


def shown(rf: RequestFactory, key: str | None = None, **options: Any) -> Any:
    return rf.get("/", headers={} if key is None else {"X-API-Key": key}, **options)


def test_what_a_key_opens(rf: RequestFactory, issued: Callable[[], None]) -> None:
    key, clear = APIKey.issue("Acme")
    assert codes(orders, [shown(rf, clear)]) == [401]
    issued()
    assert codes(orders, [shown(rf, clear), shown(rf), shown(rf, "x")]) == [200, 401, 401]
    refused = orders(shown(rf))
    assert refused["WWW-Authenticate"] == "ApiKey"
    assert refused["Content-Type"] == "application/problem+json"
    key.revoke()
    issued()
    assert codes(orders, [shown(rf, clear)]) == [401]


async def test_scopes(rf: RequestFactory, issued: Callable[[], None]) -> None:
    def issue() -> tuple[str, str]:
        try:
            _, reads = APIKey.issue("r", scopes="read")
            _, both = APIKey.issue("rw", scopes="read write admin")
            issued()
            return reads, both
        finally:
            connections.close_all()

    reads, both = await asyncio.to_thread(issue)
    assert await acodes(awrite, [shown(rf, reads), shown(rf, both), shown(rf)]) == [403, 200, 401]
    assert b"lacks write" in (await awrite(shown(rf, reads))).content


def test_header_parameter_and_cookie(rf: RequestFactory, issued: Callable[[], None]) -> None:
    _, clear = APIKey.issue("Acme")
    with override_settings(RATELIMIT_API_KEY_PARAM="key", RATELIMIT_API_KEY_COOKIE="key"):
        assert codes(orders, [shown(rf, clear), rf.get("/", {"key": clear})]) == [200, 200]
        cookie = rf.get("/")
        cookie.COOKIES["key"] = clear
        assert codes(orders, [cookie]) == [200]
        # The first that says something is the one that is meant.
        assert codes(orders, [rf.get("/", {"key": clear}, headers={"X-API-Key": "x"})]) == [401]


def test_invented_keys_gain_no_budget(rf: RequestFactory, issued: Callable[[], None]) -> None:
    view = rate_limit("api_key", "2/h")(lambda request: HttpResponse("ok"))
    assert codes(view, [shown(rf, f"tw_{number}") for number in range(4)]) == [200] * 2 + [429] * 2


def test_tiers_and_rates_of_keys(rf: RequestFactory, issued: Callable[[], None]) -> None:
    limit, pro = LimitRule.objects.create(name="search"), Tier.objects.create(name="pro")
    TierRate.objects.create(limit=limit, tier=pro, rate="3/h")
    _, tiered = APIKey.issue("tiered", tier=pro)
    own, rated = APIKey.issue("rated", rate="4/h")
    _, plain = APIKey.issue("plain")
    issued()
    view = rate_limit("api_key", "1/h", group="search")(lambda request: HttpResponse("ok"))
    for clear, rate in ((tiered, 3), (rated, 4), (plain, 1)):
        assert codes(view, [shown(rf, clear) for _ in range(rate + 1)]) == [200] * rate + [429]
    own.rate = ""
    own.save()
    issued()
    assert codes(view, [shown(rf, rated)]) == [200]  # the limit's own count, untouched till now
    pro.name = "gold"
    pro.save()
    issued()
    found = api_key(shown(rf, tiered))
    assert found is not None and found.tier == "gold"


def test_a_request_asks_no_database(rf: RequestFactory, issued: Callable[[], None]) -> None:
    _, clear = APIKey.issue("Acme")
    issued()
    queries: list[str] = []

    def note(execute: Any, sql: str, *arguments: Any) -> Any:
        queries.append(sql)
        return execute(sql, *arguments)

    with connection.execute_wrapper(note):
        assert codes(orders, [shown(rf, clear), shown(rf, "invented")]) == [200, 401]
    assert queries == []


def test_only_what_changed_is_read_again() -> None:
    first, _ = APIKey.issue("first")
    second, _ = APIKey.issue("second")
    long_ago = timezone.now() - timedelta(hours=1)
    APIKey.objects.filter(pk=first.pk).update(changed=long_ago)
    source, ring = KeySource(), KeyRing()
    number, found = source.load(None) or (None, None)
    assert found is not None and found[0] and len(found[1]) == 2
    ring.replace(found)
    assert source.load(number) is None
    second.revoke()
    number, found = source.load(number) or (None, None)
    assert found == (False, [(second.hash, None)])
    ring.replace(found)
    assert len(ring) == 1 and ring.find(first.hash) is not None
    APIKey.objects.filter(pk=first.pk).delete()
    number, found = source.load(number) or (None, None)
    assert found == (True, [(second.hash, None)])
    ring.replace(found)
    assert len(ring) == 0


def test_a_key_that_is_deleted_while_another_is_issued_is_good_no_longer() -> None:
    early, _ = APIKey.issue("early")
    late = APIKey(name="late", prefix="tw_late", hash="0" * 32, pk=early.pk)
    early.delete()
    gone, _ = APIKey.issue("gone")
    source, ring = KeySource(), KeyRing()
    number, found = source.load(None) or (None, None)
    assert found is not None
    ring.replace(found)
    gone.delete()
    made, _ = APIKey.issue("made")
    number, found = source.load(number) or (None, None)
    assert found is not None
    ring.replace(found)
    assert ring.find(gone.hash) is None and ring.find(made.hash) is not None
    made.delete()
    late.save()  # a transaction that had its number before, and commits after
    _number, found = source.load(number) or (None, None)
    assert found is not None
    ring.replace(found)
    assert ring.find(made.hash) is None and ring.find(late.hash) is not None


@pytest.mark.parametrize("grace", [timedelta(0), timedelta(days=7)])
def test_a_key_that_was_revoked_meanwhile_is_not_rotated(grace: timedelta) -> None:
    """Who fetched it before does not bring it back."""
    key, _ = APIKey.issue("Acme")
    fetched = APIKey.objects.get(pk=key.pk)
    key.revoke()
    with pytest.raises(ValidationError, match="ended"):
        fetched.rotate(grace)
    assert not APIKey.objects.get().usable()


def test_a_key_leaves_a_tier_that_is_deleted() -> None:
    tier = Tier.objects.create(name="pro")
    key, _ = APIKey.issue("Acme", tier=tier)
    source, ring = KeySource(), KeyRing()
    number, found = source.load(None) or (None, None)
    assert found is not None
    ring.replace(found)
    Tier.objects.all().delete()
    _number, found = source.load(number) or (None, None)
    assert found is not None
    ring.replace(found)
    known = ring.find(key.hash)
    assert known is not None and known.tier is None


def test_rates_of_keys_that_are_changed_in_bulk_are_in_force(
    rf: RequestFactory, issued: Callable[[], None]
) -> None:
    key, clear = APIKey.issue("Acme")
    issued()
    view = rate_limit("api_key", "1/h")(lambda request: HttpResponse("ok"))
    APIKey.objects.filter(pk=key.pk).update(rate="3/h")
    issued()
    assert codes(view, [shown(rf, clear) for _ in range(4)]) == [200, 200, 200, 429]


@override_settings(USE_TZ=False)
def test_uses_are_written_without_time_zones() -> None:
    key, _ = APIKey.issue("Acme")
    assert note_uses({key.pk: 2}) == 1
    key.refresh_from_db()
    assert key.last_used is not None and key.last_used.timestamp() == 7200


def test_expiry_is_to_the_second_and_uses_to_the_hour() -> None:
    now = [7200.0]
    ring = KeyRing(clock=lambda: now[0])
    ring.replace((True, [("h", Key(1, "a", "", None, frozenset(), 7205.0))]))
    now[0] = 7204.9
    assert ring.find("h") is not None
    now[0] = 7205.0
    assert ring.find("h") is None
    assert ring.used() == {1: 2} and ring.used() == {}


def test_uses_are_written_in_one_batch() -> None:
    key, _ = APIKey.issue("Acme")
    assert note_uses({key.pk: 2}) == 1
    assert note_uses({key.pk: 1}) == 0
    key.refresh_from_db()
    assert key.last_used == datetime.fromtimestamp(7200, tz=UTC)


def test_keys_are_kept_as_hashes() -> None:
    key, clear = APIKey.issue("Acme")
    assert key.hash == hash_identity(clear) and key.who == f"key:{key.hash}"
    stored = APIKey.objects.filter(pk=key.pk).values().get()
    assert clear not in map(str, stored.values())
    assert clear[12:] not in str(stored)
    with pytest.raises(ValidationError, match="position"):
        APIKey.issue("bad", rate="5/q")
    key.revoke()
    with pytest.raises(ValidationError, match="ended"):
        key.rotate()


def test_keys_must_be_asked_for(rf: RequestFactory) -> None:
    with pytest.raises(ConfigError, match="RATELIMIT_API_KEYS"):
        api_key(rf.get("/"))


def test_a_permission_of_rest_framework(rf: RequestFactory, issued: Callable[[], None]) -> None:
    from rest_framework.response import Response
    from rest_framework.views import APIView

    from tollway.django.permissions import HasAPIKey

    class Orders(APIView):
        authentication_classes = []
        permission_classes = [HasAPIKey]
        api_key_scopes = ["orders:read"]

        def get(self, request: Any) -> Response:
            return Response(request.api_key.name)

    class Open(Orders):
        api_key_scopes = []

    _, bare = APIKey.issue("bare")
    _, reads = APIKey.issue("r", scopes="orders:read")
    issued()
    view = Orders.as_view()
    assert codes(view, [shown(rf, reads), shown(rf, bare), shown(rf), shown(rf, "x")]) == [
        200,
        403,
        401,
        401,
    ]
    refused = view(shown(rf))
    assert refused["WWW-Authenticate"] == "ApiKey"
    assert refused.data["detail"].code == "api_key_required"
    assert "lacks orders:read" in view(shown(rf, bare)).data["detail"]
    assert view(shown(rf, reads)).data == "r"
    assert codes(Open.as_view(), [shown(rf, bare)]) == [200]
