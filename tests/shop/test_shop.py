"""The numbers that pass are exact under every server and on every backend."""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shop.serving import Answer, Shop, manage, serving

BACKENDS = ("shm", "redis", "postgres", "sqlite")
KINDS = ("wsgi", "asgi")
HOUR = 3600


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop's own database, migrated."""
    path = tmp_path_factory.mktemp("shop") / "shop.sqlite3"
    manage(path, "migrate", "--verbosity", "0")
    manage(path, "createsuperuser", "--noinput", "--username", "ada", "--email", "ada@example.org")
    return path


def backend(name: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """Where the counts of a test are."""
    if name == "shm":
        segment = f"shop-{secrets.token_hex(4)}"
        request.addfinalizer(lambda: os.unlink(f"/dev/shm/tollway-{segment}"))
        return f"shm://{segment}?max_keys=1000"
    if name == "sqlite":
        return f"sqlite:///{folder}/counts.sqlite3"
    url: str = request.getfixturevalue(f"{name}_url")
    return f"{url}/1" if name == "redis" else url


@pytest.fixture(params=[f"{kind}-{name}" for kind in KINDS for name in BACKENDS])
def shop(request: pytest.FixtureRequest, database: Path, tmp_path: Path) -> Iterator[Shop]:
    """The shop under one of two servers, with its counts in one of four places."""
    kind, name = request.param.split("-")
    with serving(kind, database, backend(name, request, tmp_path), tmp_path) as running:
        yield running


def counted(answers: list[Answer]) -> dict[int, int]:
    return dict(Counter(answer.status for answer in answers))


def exact(answers: list[Answer], limit: int, interval: int) -> None:
    """Of the answers `limit` are served, and all tell the truth of what is left."""
    assert counted(answers) == {200: limit, 429: len(answers) - limit}
    left = []
    for answer in answers:
        headers = answer.headers
        assert headers["x-ratelimit-limit"] == str(limit)
        assert f";q={limit};w=" in headers["ratelimit-policy"]
        assert int(headers["x-ratelimit-reset"]) > 1_700_000_000
        if answer.status == 200:
            left.append(int(headers["x-ratelimit-remaining"]))
            assert "retry-after" not in headers
        else:
            assert headers["x-ratelimit-remaining"] == "0"
            assert ";r=0;" in headers["ratelimit"]
            assert 1 <= int(headers["retry-after"]) <= interval
    # Who is decided at the same instant may be told the same number.
    assert min(left) == 0 and max(left) < limit


def test_all_processes_share_one_limit_that_is_exact(shop: Shop) -> None:
    for path in ("/", "/search/?q=lan", "/api/items/"):  # sync, async, REST framework
        answers = shop.rush(30, path)
        exact(answers, 20, HOUR // 20)
    assert len({answer.headers["worker"] for answer in answers}) > 1
    refused = next(answer for answer in shop.rush(1, "/"))
    assert refused.headers["content-type"] == "application/problem+json"
    assert json.loads(refused.body)["status"] == 429
    assert shop.ask("/", client=2).status == 200

    team = {"X-Team": "red"}
    answers = shop.rush(16, "/reports/", headers=team)
    exact(answers, 10, HOUR // 10)
    assert json.loads(shop.ask("/account/", headers=team).body) == {"left": 60 - 10 - 1}


@pytest.mark.parametrize("shop", ["asgi-shm"], indirect=True)
def test_guessing_a_password_ends_after_five_failures(shop: Shop) -> None:
    page = shop.ask("/login/")
    token = page.body.partition(b'name="csrfmiddlewaretoken" value="')[2].partition(b'"')[0]
    known = {"username": "ada", "csrfmiddlewaretoken": token.decode()}
    cookie = page.headers["set-cookie"].partition(";")[0]
    told = {"Cookie": cookie}

    def log_in(password: str, client: int = 1) -> Answer:
        form = known | {"password": password}
        return shop.ask("/login/", "POST", form, told, client)

    wrong = known | {"password": "guess"}
    answers = shop.rush(8, "/login/", method="POST", form=wrong, headers=told)
    assert counted(answers) == {200: 5, 429: 3}
    refused = log_in("secret")
    assert refused.status == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 15 * 60
    assert log_in("secret", client=2).status == 302
