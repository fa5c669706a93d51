"""The `BOLT_*` settings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tollway import ConfigError
from tollway._tollway import Server
from tollway.bolt.compiling.assembly import assemble
from tollway.bolt.conf import READ, read_settings, unknown_settings
from tollway.bolt.server.bounds import BOUNDS


def settings(**values: Any) -> Any:
    return read_settings(SimpleNamespace(**values))


def test_defaults() -> None:
    found = settings()
    assert (found.threads, found.grace, found.backend) == (4, 30.0, "memory://")
    assert found.bounds == {bound.name: bound.default for bound in BOUNDS}
    assert not found.backend_stated
    assert settings(RATELIMIT_BACKEND="memory://").backend_stated


def test_the_server_takes_every_setting() -> None:
    found = settings(
        BOLT_MAX_BODY_BYTES=1000,
        BOLT_MAX_HEAD_BYTES=4096,
        BOLT_MAX_CONNECTIONS=10,
        BOLT_MAX_TASKS=5,
        BOLT_HEADER_TIMEOUT=1,
        BOLT_BODY_TIMEOUT=2,
        BOLT_KEEP_ALIVE_TIMEOUT=3.5,
        BOLT_WRITE_TIMEOUT=4,
        BOLT_THREADS=2,
        BOLT_GRACE=1,
        BOLT_TRUSTED_PROXIES=["10.0.0.0/8"],
        BOLT_API=["a.b:c"],
    )
    assembly = assemble([], found)
    assert assembly.settings["keep_alive_timeout"] == 3.5
    assert assembly.settings["max_body_bytes"] == 1000
    assert assembly.settings["max_headers"] == 100
    Server(assembly.routes, assembly.settings)


def test_trusted_proxies_are_those_of_the_django_door_unless_bolt_has_its_own() -> None:
    shared = {"RATELIMIT_TRUSTED_PROXIES": ["10.0.0.0/8"]}
    assert settings(**shared).trusted_proxies == ("10.0.0.0/8",)
    assert settings(**shared, BOLT_TRUSTED_PROXIES=[]).trusted_proxies == ()


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("BOLT_THREADS", 0, "0 is not a whole number from 1"),
        ("BOLT_MAX_BODY_BYTES", "1 MB", "'1 MB' is not a whole number"),
        ("BOLT_BODY_TIMEOUT", -1, "-1 is not a number of seconds"),
        ("BOLT_HANDLER_TIMEOUT", False, "False is not a number of seconds"),
        ("BOLT_CANCEL_ON_HALF_CLOSE", 1, "1 is neither True nor False"),
        ("BOLT_TRUSTED_PROXIES", "10.0.0.0/8", "is not a list of networks"),
        ("BOLT_TRUSTED_PROXIES", ["10.0.0/8"], "10.0.0/8"),
        ("BOLT_API", ["shop.api"], "is not a list of APIs"),
        ("BOLT_API", "shop.api:api", "is not a list of APIs"),
        ("RATELIMIT_BACKEND", 6379, "6379 is no backend"),
        ("RATELIMIT_BACKEND", "rediss//nowhere", "use one of memory://"),
        ("RATELIMIT_BACKENDS", "redis://", "is not a mapping"),
        ("RATELIMIT_FAIL_MODE", "opne", "use open, closed or local"),
        ("RATELIMIT_ALGORITHM", "magic", "magic"),
        ("RATELIMIT_DEFAULT_LIMIT", "5/lightyear", "lightyear"),
        ("RATELIMIT_DEFAULT_LIMIT", 5, "5"),
    ],
)
def test_values_that_cannot_be_used(name: str, value: Any, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(**{name: value})
    assert str(caught.value).startswith(f"setting {name}: ")
    assert part in str(caught.value)


def test_names_that_mean_nothing() -> None:
    found = unknown_settings(SimpleNamespace(BOLT_THREAD=1, BOLT_THREADS=1, BOLT_ZEBRA=2))
    assert found == [("BOLT_THREAD", "Did you mean BOLT_THREADS?"), ("BOLT_ZEBRA", "")]
    assert len(set(READ)) == len(READ)


def test_the_manual_has_every_bound() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "bolt-deployment.md").read_text()
    for bound in BOUNDS:
        default = f"{bound.default:g}" if isinstance(bound.default, float) else bound.default
        assert f"| `{bound.name}` | {default} | {bound.meaning} |" in manual
