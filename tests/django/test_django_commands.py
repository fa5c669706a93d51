"""The commands of `manage.py`, on a real Redis and a real database."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4
from weakref import WeakSet

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.management import CommandError, call_command, load_command_class
from django.http import HttpResponse
from django.test import RequestFactory, override_settings
from django.urls import path
from django.utils import timezone
from rest_framework.views import APIView

from tests.django.conftest import codes
from tollway import ConfigError, hash_identity
from tollway.django import conf, limits, rate_limit
from tollway.django.command import RateLimitCommand, moment
from tollway.django.inventory import Who
from tollway.django.models import (
    AccessEntry,
    APIKey,
    LimitRule,
    Offender,
    Override,
    Revision,
    State,
    Tier,
    Usage,
)
from tollway.django.throttles import AnonRateThrottle, ScopedRateThrottle
from tollway.django.usage import Recorder, span_of

pytestmark = pytest.mark.usefixtures("database")

COMMANDS = (
    *("cleanup_ratelimit", "ratelimit_access", "ratelimit_config", "ratelimit_health"),
    *("ratelimit_keys", "ratelimit_list", "ratelimit_override", "ratelimit_report"),
    *("ratelimit_reset", "ratelimit_unblock", "validate_config"),
)


@rate_limit("user_or_ip", "2/h", group="search")
def search(request: Any) -> HttpResponse:
    return HttpResponse("ok")


class Slow(AnonRateThrottle):
    rate = "3/h"


class Items(APIView):
    throttle_classes = [Slow]


urlpatterns = [path("search/", search), path("items/", Items.as_view())]


def run(name: str, *arguments: str) -> str:
    """What a command prints."""
    out = io.StringIO()
    call_command(name, *arguments, stdout=out, stderr=io.StringIO(), no_color=True)
    return out.getvalue()


def told(name: str, *arguments: str) -> Any:
    """What a command tells programs."""
    return json.loads(run(name, *arguments, "--json"))


def fails(name: str, *arguments: str) -> tuple[int, str]:
    """The exit code and the message of a command that does not end well."""
    with pytest.raises(CommandError) as caught:
        run(name, *arguments)
    return caught.value.returncode, str(caught.value)


@pytest.fixture
def site(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A site whose counts are in a Redis and whose rules are in the database."""
    # A process has one site; this one has the views of other tests too, which are not this site's.
    own = WeakSet(one for one in limits.STATED if one.where.startswith(__file__))
    monkeypatch.setattr(limits, "STATED", own)
    with override_settings(
        ROOT_URLCONF=__name__,
        RATELIMIT_BACKEND=redis_url,
        RATELIMIT_KEY_PREFIX=f"commands-{uuid4().hex[:8]}",
        RATELIMIT_COMMAND_TIMEOUT=2,
        RATELIMIT_NEAR_CACHE=0,
        RATELIMIT_RULES="database",
        MIDDLEWARE=["tollway.django.middleware.RateLimitMiddleware"],
        RATELIMIT_MIDDLEWARE={"RATE_LIMITS": {"/x/": "7/h"}},
    ):
        yield


def turn() -> None:
    conf.current().ruling.following._turn()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_a_stranger(name: str) -> None:
    command = load_command_class("tollway.django", name)
    assert isinstance(command, RateLimitCommand)
    text = command.create_parser("manage.py", name).format_help()
    assert "exit codes:" in text and "examples:" in text
    assert f"$ python manage.py {name}" in text
    assert command.help and len(command.help) > 40


def test_the_manual_is_as_the_commands_say() -> None:
    script = Path(__file__).parents[2] / "scripts" / "reference.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_mistyped_action_or_option_is_named() -> None:
    code, text = fails("ratelimit_access", "lst")
    assert code == 1 and "Did you mean 'list'?" in text
    _, text = fails("ratelimit_report", "--sinc", "2h", "--tob", "3")
    assert "Did you mean '--top'?" in text


@pytest.mark.usefixtures("site")
class TestSite:
    def test_list(self) -> None:
        rows = {row["name"]: row for row in told("ratelimit_list")}
        assert rows["search/user_or_ip/2/h"]["where"].startswith(
            "tests/django/test_django_commands"
        )
        assert rows["throttle/anon"]["rate"] == "3/h"
        assert rows["middleware+/x/ip/7/h"]["where"] == "RATELIMIT_MIDDLEWARE['/x/']"
        LimitRule.objects.create(name="api", rate="9/h", by="ip", paths="/api/")
        assert "the database: /api/" in run("ratelimit_list", "--match", "api")
        assert fails("ratelimit_list", "--match", "nowhere") == (1, "no limit was found")

    def test_list_and_reset_somebody(self, rf: RequestFactory) -> None:
        from tests.django.conftest import User

        def asked(user: int) -> Any:
            request: Any = rf.get("/")
            request.user = User(user)
            return request

        assert codes(search, [asked(7) for _ in range(3)]) == [200, 200, 429]
        (row,) = told("ratelimit_list", "user:7")
        assert (row["limit"], row["key"]) == ("search/user_or_ip/2/h", "user:7")
        assert (row["allowed"], row["remaining"], row["of"]) == (False, 0, 2)
        assert run("ratelimit_reset", "user:7", "--dry-run").startswith("would have: reset user:7")
        assert codes(search, [asked(7)]) == [429]
        assert run("ratelimit_reset", "user:7").startswith("reset user:7 at search")
        assert codes(search, [asked(7)]) == [200]
        assert fails("ratelimit_reset", "user:9")[0] == 1

    def test_reset_by_what_rules_charge(self, rf: RequestFactory) -> None:
        Override.objects.create(who="127.0.0.1", rate="1/h")
        LimitRule.objects.create(name="api", rate="1/h", by="ip", paths="/api/")
        turn()
        view = rate_limit("ip", "5/h", group="search")(lambda request: HttpResponse("ok"))
        assert codes(view, [rf.get("/") for _ in range(2)]) == [200, 429]
        with override_settings(ROOT_URLCONF=(path("s/", view),)):
            rows = told("ratelimit_list", "127.0.0.1", "--match", "search")
            (row,) = [row for row in rows if row["rule"]]
            assert (row["rule"], row["allowed"]) == ("override 127.0.0.1", False)
            run("ratelimit_reset", "127.0.0.1", "--limit", "search/ip/5/h")
        assert codes(view, [rf.get("/")]) == [200]

    def test_reset_by_prefix(self, rf: RequestFactory) -> None:
        limit = "search/user_or_ip/2/h"
        request: Any = rf.get("/")
        request.user = None
        assert codes(search, [request] * 3) == [200, 200, 429]
        run("ratelimit_reset", "--prefix", "128.", "--limit", limit)
        assert codes(search, [request]) == [429]
        run("ratelimit_reset", "--prefix", "127.", "--limit", limit)
        assert codes(search, [request] * 3) == [200, 200, 429]
        assert fails("ratelimit_reset", "--prefix", "x")[0] == 2
        code, text = fails("ratelimit_reset", "user:7", "--limit", "serch/user_or_ip/2/h")
        assert code == 2 and f"Did you mean '{limit}'?" in text
        assert fails("ratelimit_reset")[0] == 2

    def test_reset_the_network_that_is_one_client(self, rf: RequestFactory) -> None:
        requests = [rf.get("/", REMOTE_ADDR=f"2001:db8::{n}") for n in range(3)]
        for request in requests:
            request.user = AnonymousUser()
        assert codes(search, requests) == [200, 200, 429]
        (row,) = told("ratelimit_reset", "2001:db8::/64")
        assert row["key"] == "2001:db8::/64"
        assert codes(search, requests) == [200, 200, 429]
        told("ratelimit_access", "add", "deny", "2001:db8::/64")
        assert told("ratelimit_unblock", "2001:db8::/64")["counts"] != []
        assert fails("ratelimit_reset", "2001:db8::/48")[0] == 2

    def test_a_limit_that_cannot_be_reset_is_not_said_to_be(self) -> None:
        told_by = rate_limit("ip", lambda _: "2/h", group="told")
        view = told_by(lambda request: HttpResponse("ok"))
        with override_settings(ROOT_URLCONF=(path("told/", view),)):
            (name,) = [row["name"] for row in told("ratelimit_list", "--match", "told")]
            code, text = fails("ratelimit_reset", "--prefix", "192.", "--limit", name)
        assert code == 2 and name in text

    def test_block_and_unblock(self, rf: RequestFactory) -> None:
        request: Any = rf.get("/")
        request.user = None
        run("ratelimit_access", "add", "deny", "127.0.0.1", "--until", "2h", "--note", "scraper")
        turn()
        assert codes(search, [request]) == [403]
        assert told("ratelimit_access", "check", "127.0.0.1")["entry"].startswith("deny 127.0.0.1")
        assert told("ratelimit_unblock", "127.0.0.1", "--dry-run")["entries"] == 1
        assert told("ratelimit_unblock", "127.0.0.1") == {
            "who": "127.0.0.1",
            "entries": 1,
            "counts": [],
        }
        turn()
        request = rf.get("/")
        request.user = None
        assert codes(search, [request]) == [200]
        assert fails("ratelimit_unblock", "192.0.2.0/24")[0] == 1

    def test_health(self, dead_store: str) -> None:
        assert "healthy" in run("ratelimit_health", "--verbose")
        found = told("ratelimit_health")
        assert found["status"] == "healthy"
        assert found["rules"] == {"source": "DatabaseSource()", "error": None}
        with override_settings(RATELIMIT_BACKENDS={"logins": dead_store}):
            out = io.StringIO()
            with pytest.raises(CommandError, match="degraded") as caught:
                call_command("ratelimit_health", "--json", stdout=out)
            assert caught.value.returncode == 1
            backends = json.loads(out.getvalue())["backends"]
            assert backends["logins"]["status"] == "down"
            assert "nothing listens" in backends["logins"]["backends"][0]["error"]

    def test_config(self, rf: RequestFactory) -> None:
        run("ratelimit_config", "set", "search", "rate=1/h", "note=less", "--dry-run")
        assert not LimitRule.objects.exists()
        assert "made search: rate=1/h" in run("ratelimit_config", "set", "search", "rate=1/h")
        turn()
        request: Any = rf.get("/")
        request.user = None
        assert codes(search, [request, request]) == [200, 429]
        assert "changed search" in run("ratelimit_config", "set", "search", "enabled=no")
        found = told("ratelimit_config", "show")
        assert found["in_force"] is True
        assert found["limits"]["search"] == {"rate": "1/h", "enabled": False}
        assert found["settings"]["RATELIMIT_NEAR_CACHE"] == {"value": "0.0", "changed": True}
        code, text = fails("ratelimit_config", "show", "serch")
        assert code == 2 and "Did you mean 'search'?" in text
        assert fails("ratelimit_config", "set", "search", "rate=5/q")[0] == 2
        code, text = fails("ratelimit_config", "set", "search", "rte=5/s")
        assert code == 2 and "Did you mean 'rate'?" in text
        before = Revision.objects.get(pk="rules").number
        run("ratelimit_config", "reload")
        assert Revision.objects.get(pk="rules").number == before + 1
        assert "removed search" in run("ratelimit_config", "remove", "search")

    def test_passwords_are_not_shown(self) -> None:
        url = "redis://me:secret@127.0.0.1:1/0"
        with override_settings(RATELIMIT_BACKEND=url, RATELIMIT_BACKENDS={"a": url}):
            assert "secret" not in run("ratelimit_config", "show")

    def test_validate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # What other tests state, on purpose or by mistake, is not of this site.
        monkeypatch.setattr("tollway.django.limits.STATED", WeakSet())
        assert "can work" in run("validate_config")
        LimitRule.objects.create(name="broken", rate="5/q")
        out = io.StringIO()
        with pytest.raises(CommandError) as caught:
            call_command("validate_config", stdout=out)
        assert caught.value.returncode == 1
        assert 'limit broken: limits.x.rate: rate "5/q"' in out.getvalue()
        LimitRule.objects.all().delete()
        with override_settings(RATELIMIT_BACKND="x"):
            assert "RATELIMIT_BACKND" in run("validate_config")
            assert fails("validate_config", "--strict")[0] == 1


def test_counts_in_memory_cannot_be_reached() -> None:
    with override_settings(ROOT_URLCONF=__name__):
        code, text = fails("ratelimit_reset", "user:7")
    assert code == 2 and "memory of the server's processes" in text


def test_overrides() -> None:
    hashed = hash_identity("sk-live")
    run("ratelimit_override", "add", f"key:{hashed}", "100/m", "--until", "2100-01-01")
    run("ratelimit_override", "add", "user:42", "unlimited", "--limit", "search", "--dry-run")
    (row,) = told("ratelimit_override", "list")
    assert (row["who"], row["rate"]) == (f"key:{hashed}", "100/m")
    assert row["until"].startswith("2100-01-01")
    assert told("ratelimit_override", "add", f"key:{hashed}", "9/m")["changed"] is True
    assert Override.objects.get().rate == "9/m"
    assert fails("ratelimit_override", "add", "user:7", "9/q")[0] == 2
    code, text = fails("ratelimit_override", "add", "key:sk-live", "9/m")
    assert code == 2 and "sk-live" not in text
    assert fails("ratelimit_override", "remove", "user:9")[0] == 1
    assert told("ratelimit_override", "remove", f"key:{hashed}")["removed"] == 1


def test_access_lists() -> None:
    assert told("ratelimit_access", "add", "deny", "203.0.113.7/24")["who"] == "203.0.113.0/24"
    assert told("ratelimit_access", "add", "deny", "203.0.113.0/24")["changed"] is True
    told("ratelimit_access", "add", "allow", "203.0.113.9")
    assert told("ratelimit_access", "check", "203.0.113.9")["entry"] == "allow 203.0.113.9"
    assert fails("ratelimit_access", "check", "192.0.2.1")[0] == 1
    assert fails("ratelimit_access", "add", "deny", "mallory")[0] == 2
    assert fails("ratelimit_access", "add", "deny", "192.0.2.1", "--until", "soon")[0] == 2
    assert told("ratelimit_access", "remove", "203.0.113.0/24", "--dry-run")["removed"] == 1
    assert told("ratelimit_access", "remove", "203.0.113.0/24")["removed"] == 1
    assert [row["who"] for row in told("ratelimit_access", "list")] == ["203.0.113.9"]


def test_keys() -> None:
    Tier.objects.create(name="pro")
    made = told("ratelimit_keys", "issue", "Acme", "--tier", "pro", "--scopes", "a b")
    clear = made["key"]
    assert re.fullmatch(r"tw_\w{8}_\w{32}", clear)
    assert clear.startswith(made["prefix"])
    row = APIKey.objects.get()
    assert row.hash == hash_identity(clear)
    assert clear not in json.dumps(told("ratelimit_keys", "list"))
    rotated = told("ratelimit_keys", "rotate", clear, "--grace", "7d")
    assert rotated["key"] != clear and rotated["tier"] == "pro" and rotated["scopes"] == ["a", "b"]
    row.refresh_from_db()
    assert row.usable() and not row.usable(timezone.now() + timedelta(days=8))
    assert "revoked" in run("ratelimit_keys", "revoke", row.prefix)
    assert fails("ratelimit_keys", "rotate", row.prefix)[0] == 1
    code, text = fails("ratelimit_keys", "revoke", clear[:-1] + "x")
    assert code == 1 and clear[:-1] not in text
    run("ratelimit_keys", "revoke", rotated["prefix"])
    soon = told("ratelimit_keys", "issue", "Soon")["key"]
    err = io.StringIO()
    call_command("ratelimit_keys", "rotate", soon, grace="0s", stdout=io.StringIO(), stderr=err)
    assert "has ended" in err.getvalue() and "ends later" not in err.getvalue()
    assert len(told("ratelimit_keys", "list")) == 1
    assert len(told("ratelimit_keys", "list", "--all")) == 4
    assert fails("ratelimit_keys", "issue", "x", "--tier", "prro")[1].endswith("'pro'?")
    assert told("ratelimit_keys", "issue", "x", "--dry-run")["key"] is None
    assert APIKey.objects.count() == 4


def test_report(rf: RequestFactory) -> None:
    view = rate_limit("ip", "2/h", group="search")(lambda request: HttpResponse("ok"))
    recorder = Recorder()
    conf.current().usage = recorder
    assert codes(view, [rf.get("/") for _ in range(5)]) == [200] * 2 + [429] * 3
    assert recorder.write() == 2
    assert codes(view, [rf.get("/")]) == [429]
    recorder.write()
    found = told("ratelimit_report")
    (row,) = found["limits"]
    assert (row["policy"], row["allowed"], row["refused"]) == ("search/ip/2/h", 2, 4)
    assert found["total"]["refused"] == 4
    assert found["refused"] == [{"policy": "search/ip/2/h", "who": "127.0.0.1", "refused": 4}]
    lines = run("ratelimit_report", "--format", "csv").splitlines()
    assert lines[0] == "policy,allowed,refused,denied,shadowed,degraded,share"
    assert lines[1] == "search/ip/2/h,2,4,0,0,0,0.6667"
    text = run("ratelimit_report", "--since", "1h")
    assert "66.7%" in text and "127.0.0.1" in text
    assert "nothing was summed up" in run(
        "ratelimit_report", "--until", "2020-01-01", "--since", "2019-01-01"
    )
    assert fails("ratelimit_report", "--since", "2020-01-01", "--until", "2019-01-01")[0] == 2


def test_cleanup() -> None:
    now, old = timezone.now(), timezone.now() - timedelta(days=40)
    for number, expires in enumerate((old, old, old, now + timedelta(hours=1))):
        State.objects.create(key=str(number), value=b"x", version=1, expires=expires)
    for start in (span_of(old), span_of(now)):
        Usage.objects.create(start=start, policy="a")
        Offender.objects.create(start=start, policy="a", who="b")
    AccessEntry.objects.create(who="192.0.2.1", until=old)
    AccessEntry.objects.create(who="192.0.2.2")
    Override.objects.create(who="192.0.2.1", rate="1/s", until=now - timedelta(days=1))
    APIKey.issue("old")[0].revoke()
    dry = told("cleanup_ratelimit", "--dry-run")
    assert dry["expired counts"] == 3 and State.objects.count() == 4
    assert (
        told("cleanup_ratelimit", "--batch-size", "2")
        == dry
        == {
            "expired counts": 3,
            "sums of usage": 1,
            "refused clients": 1,
            "ended overrides": 0,
            "ended access entries": 1,
            "ended API keys": 0,
        }
    )
    assert [State.objects.count(), Usage.objects.count(), AccessEntry.objects.count()] == [1, 1, 1]
    assert told("cleanup_ratelimit", "--keep", "0s")["ended API keys"] == 1
    assert fails("cleanup_ratelimit", "--batch-size", "0")[0] == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_progress_and_a_pipe_does_not() -> None:
    old = timezone.now() - timedelta(days=1)
    for number in range(5):
        State.objects.create(key=str(number), value=b"x", version=1, expires=old)
    seen, out = Terminal(), io.StringIO()
    call_command("cleanup_ratelimit", "--batch-size", "2", stdout=out, stderr=seen, no_color=True)
    assert "4/5 rows" in seen.getvalue() and "5/5 rows" in seen.getvalue()
    assert "deleted 5 expired counts" in out.getvalue()
    silent = io.StringIO()
    call_command("cleanup_ratelimit", stdout=io.StringIO(), stderr=silent)
    assert silent.getvalue() == ""


def test_times() -> None:
    now = timezone.now()
    assert timedelta(hours=36) <= moment("1d12h") - now < timedelta(hours=36, seconds=5)
    assert moment("2h", past=True) < now
    assert moment("2027-01-31").isoformat().startswith("2027-01-31T00:00")
    assert moment("2027-01-31T12:00:00Z").hour == 12
    for wrong in ("soon", "2h!", "2027-13-01", "99999999999999d", "0001-01-01", "9999-12-31"):
        with pytest.raises(CommandError, match="is no time"):
            moment(wrong)
    with pytest.raises(CommandError, match="is no time"):
        moment("999999d", past=True)


@override_settings(USE_TZ=False)
def test_times_without_time_zones() -> None:
    for until in ("2100-01-01", "2100-01-01T00:00:00Z", "2h"):
        told("ratelimit_access", "add", "deny", "192.0.2.1", "--until", until)
    assert told("ratelimit_report", "--since", "2026-01-01")["limits"] == []


def test_what_a_client_sent_moves_no_terminal() -> None:
    who = "param:q:\x1b]0;owned\x07\x1b[2J\nsearch  ok"
    Usage.objects.create(start=span_of(timezone.now()), policy="search", refused=1)
    Offender.objects.create(start=span_of(timezone.now()), policy="search", who=who, refused=1)
    text = run("ratelimit_report")
    assert r"\x1b]0;owned\x07\x1b[2J\nsearch" in text and "\x1b" not in text


class Unscoped(APIView):
    throttle_classes = [ScopedRateThrottle]
    throttle_scope = "nowhere"


class Mistyped(AnonRateThrottle):
    rate = "5/q"


class Typed(APIView):
    throttle_classes = [Mistyped]


@pytest.mark.parametrize(("view", "part"), [(Unscoped, "'nowhere'"), (Typed, "5/q")])
def test_a_throttle_that_cannot_work_is_named(
    view: Any, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tollway.django.limits.STATED", WeakSet())
    with override_settings(ROOT_URLCONF=(path("x/", view.as_view()),)):
        code, text = fails("ratelimit_list")
        assert code == 2 and part in text
        out = io.StringIO()
        with pytest.raises(CommandError):
            call_command("validate_config", "--json", stdout=out)
        (wrong,) = json.loads(out.getvalue())
        assert wrong["level"] == "error" and part in wrong["message"]


def test_what_is_too_long_or_too_many_is_mistaken() -> None:
    long = "x" * 201
    assert fails("ratelimit_access", "add", "deny", "192.0.2.1", "--note", long)[0] == 2
    assert fails("cleanup_ratelimit", "--batch-size", str(10**20))[0] == 2
    assert fails("ratelimit_report", "--top", str(10**20))[0] == 2
    assert fails("ratelimit_report", "--top", "-1")[0] == 2
    assert told("ratelimit_report", "--format", "csv")["limits"] == []


def test_a_share_that_is_no_number_is_mistaken() -> None:
    for share in ("abc", "nan", "1e999"):
        assert fails("ratelimit_config", "set", "search", f"enforce={share}")[0] == 2


@pytest.mark.parametrize(
    "text", ["x = = 1", '{"limits": ', '{"limits": {"x": {"rate": "9/q"}}}', None]
)
@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_file_of_rules_that_does_not_read_is_named(
    tmp_path: Path, suffix: str, text: str | None
) -> None:
    file = tmp_path / f"rules{suffix}"
    if text is not None:
        file.write_text(text)
    with override_settings(RATELIMIT_RULES=str(file), ROOT_URLCONF=__name__):
        assert fails("validate_config", "--json")[0] == 1
        for command in ("ratelimit_health", "ratelimit_list"):
            code, said = fails(command)
            assert code == 2 and said.startswith("RATELIMIT_RULES: ")


def test_who() -> None:
    assert Who("tw_abc_def").text == f"key:{hash_identity('tw_abc_def')}"
    assert Who("raw:a:b").text == "a:b" and Who("raw:a:b").subject is None
    assert Who("2001:db8::1").subject is not None
    for wrong in ("", "10.0.0.0/8", "key:sk-live"):
        with pytest.raises(ConfigError):
            Who(wrong)


def test_exit_codes_of_a_process(tmp_path: Path) -> None:
    (tmp_path / "site.py").write_text(
        "SECRET_KEY = 'x'\nUSE_TZ = True\nINSTALLED_APPS = ['tollway.django']\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'db'}}\n"
        "RATELIMIT_RULES = 'database'\nROOT_URLCONF = 'urls_'\n"
    )
    (tmp_path / "urls_.py").write_text("urlpatterns = []\n")
    (tmp_path / "site.py").rename(tmp_path / "settings_.py")

    def code(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "django", *arguments, "--settings", "settings_"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    status, text = code("ratelimit_access", "list")
    assert status == 3, text
    assert "manage.py migrate" in text
    assert code("ratelimit_health")[0] == 1
    assert code("validate_config")[0] == 3
    assert code("migrate")[0] == 0
    assert code("ratelimit_health")[0] == 0
    assert code("ratelimit_access", "add", "deny", "nobody")[0] == 2
    assert code("ratelimit_access", "lst")[0] == 2
