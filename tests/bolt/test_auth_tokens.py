"""Tokens that are made by hand: pairs, rotation, cookies, users of one's own, clean-up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from http.cookies import SimpleCookie
from typing import Any

import httpx
import jwt
import pytest

from tests.bolt import tokens
from tests.bolt.test_auth import bearer, serving
from tollway.bolt import JSON, BoltAPI
from tollway.bolt.auth import (
    CurrentUser,
    InMemoryRevocation,
    IsAuthenticated,
    JWTAuthentication,
    JWTAuthViews,
    RevocationStore,
    Token,
    TokenRotationError,
    create_jwt_for_user,
    create_revocation_handler,
    create_token_pair,
    rotate_refresh_token,
    set_token_cookies,
    users,
)


def read(token: str | None, key: str = tokens.SECRET, algorithm: str = "HS256") -> dict[str, Any]:
    """What another library reads in a token."""
    assert token is not None
    found: dict[str, Any] = jwt.decode(token, key, [algorithm], options={"verify_aud": False})
    return found


@pytest.mark.parametrize("algorithm", [*tokens.SHARED, *tokens.PUBLIC])
def test_another_library_believes_our_tokens(algorithm: str) -> None:
    shared = algorithm in tokens.SHARED
    secret = tokens.SECRET if shared else tokens.private_pem(algorithm)
    public = tokens.SECRET if shared else tokens.public_pem(algorithm)
    made = create_jwt_for_user(
        7, secret, algorithm, expires_in=60, extra_claims={"tier": "pro"}, issuer="us", audience="a"
    )
    claims = read(made, public, algorithm)
    assert (claims["sub"], claims["iss"], claims["aud"], claims["tier"]) == ("7", "us", "a", "pro")
    assert claims["exp"] == claims["iat"] + 60
    assert len(claims["jti"]) == 32


def test_a_token_needs_somebody() -> None:
    for nobody in (None, True, object()):
        with pytest.raises(ValueError, match="a token needs a user that is saved"):
            create_jwt_for_user(nobody, tokens.SECRET)


def rotated(shown: Any, store: InMemoryRevocation, **more: Any) -> Any:
    return asyncio.run(rotate_refresh_token(shown, store=store, secret=tokens.SECRET, **more))


def test_a_pair_is_one_login() -> None:
    pair = create_token_pair(7, secret=tokens.SECRET, claims={"tier": "pro"}, method="pwd")
    access, refresh = read(pair.access_token), read(pair.refresh_token)
    assert (access["typ"], refresh["typ"]) == ("access", "refresh")
    assert access["fam"] == refresh["fam"]
    assert access["jti"] != refresh["jti"]
    assert (access["amr"], refresh["tier"]) == (["pwd"], "pro")
    assert tokens.SECRET not in repr(pair)
    assert str(pair.access_token) not in repr(pair)
    with pytest.raises(ValueError, match="exp, sub are set by the pair itself"):
        create_token_pair(7, secret=tokens.SECRET, claims={"sub": "8", "exp": 1})


def test_a_refresh_keeps_how_the_login_was_and_asks_again_what_may_have_changed() -> None:
    store = InMemoryRevocation()
    first = create_token_pair(7, secret=tokens.SECRET, claims={"tier": "pro"}, method="otp")
    second = rotated(first.refresh_claims, store, claims={"tier": "free"})
    third = rotated(second.refresh_claims, store)
    told = [read(pair.access_token) for pair in (second, third)]
    assert [one["amr"] for one in told] == [["otp"], ["otp"]]
    assert [one.get("tier") for one in told] == ["free", None]


def test_a_refresh_token_is_good_once_and_its_theft_ends_the_login() -> None:
    store = InMemoryRevocation()
    first = create_token_pair(7, secret=tokens.SECRET)
    second = rotated(first.refresh_claims, store)
    assert read(second.access_token)["fam"] == read(first.access_token)["fam"]
    with pytest.raises(TokenRotationError, match="used before: the login is ended"):
        rotated(first.refresh_claims, store)
    with pytest.raises(TokenRotationError, match="this login was ended"):
        rotated(second.refresh_claims, store)


def test_a_login_may_have_an_end_that_no_refresh_moves() -> None:
    store = InMemoryRevocation()
    now = int(time.time())
    old = create_token_pair(7, secret=tokens.SECRET, oat=now - 100)
    fresh = rotated(old.refresh_claims, store, max_session_lifetime=200)
    assert read(fresh.refresh_token)["oat"] == now - 100
    with pytest.raises(TokenRotationError, match="too old"):
        rotated(fresh.refresh_claims, store, max_session_lifetime=50)


class Noted(RevocationStore):
    """Notes until when something is revoked."""

    def __init__(self) -> None:
        self.until: dict[str, float] = {}

    async def add(self, key: str, until: float) -> bool:
        self.until[key] = until
        return True

    async def contains(self, keys: list[str]) -> bool:
        return any(key in self.until for key in keys)


@pytest.mark.parametrize("shown", ["access_token", "refresh_token"])
def test_a_logout_outlasts_every_token_of_the_login(shown: str) -> None:
    """A login of six days ago that was refreshed meanwhile ends for good, not for one day more."""
    week, store = 604_800, Noted()
    api = BoltAPI()
    views = JWTAuthViews("/auth", store=store, secret=tokens.SECRET, refresh_ttl=week)
    api.include_router(views)
    pair = create_token_pair(7, secret=tokens.SECRET, oat=int(time.time()) - 6 * 86_400)
    with serving(api) as served:
        answer = served.get("/auth/logout", "POST", **bearer(str(getattr(pair, shown))))
    assert answer.status == 204
    [until] = store.until.values()
    assert until >= pair.refresh_claims["exp"]  # type: ignore[index]


def test_without_rotation_the_refresh_token_stays() -> None:
    store = InMemoryRevocation()
    pair = create_token_pair(7, secret=tokens.SECRET)
    for _ in range(2):
        assert rotated(pair.refresh_claims, store, rotate=False).refresh_token is None
    assert pair.refresh_claims is not None
    asyncio.run(store.revoke(pair.refresh_claims["jti"]))
    assert asyncio.run(create_revocation_handler(store)(pair.refresh_claims["jti"]))
    with pytest.raises(TokenRotationError, match="was revoked"):
        rotated(pair.refresh_claims, store, rotate=False)


def test_a_pair_in_cookies_that_scripts_cannot_read() -> None:
    api = BoltAPI()

    @api.post("/login")
    async def login() -> Any:
        pair = create_token_pair(7, secret=tokens.SECRET)
        return set_token_cookies(JSON({}), pair, refresh_path="/refresh")

    cookie = JWTAuthentication(tokens.SECRET, cookie="access_token")
    exchange = JWTAuthentication(tokens.SECRET, cookie="refresh_token", token_type="refresh")

    async def who(request: Any) -> Any:
        return request.auth["typ"]

    api.get("/me", auth=[cookie], guards=[IsAuthenticated()])(who)
    api.post("/refresh", auth=[exchange], guards=[IsAuthenticated()])(who)
    with serving(api) as served, httpx.Client(base_url=f"http://127.0.0.1:{served.port}") as client:
        lines = client.post("/login").headers.get_list("set-cookie")
        jar = {name: morsel for line in lines for name, morsel in SimpleCookie(line).items()}
        for morsel in jar.values():
            assert (morsel["httponly"], morsel["secure"], morsel["samesite"]) == (True, True, "Lax")
        assert [jar[name]["path"] for name in jar] == ["/", "/refresh"]
        shown = {"cookie": "; ".join(f"{name}={morsel.value}" for name, morsel in jar.items())}
        assert client.get("/me", headers=shown).text == "access"
        assert client.post("/refresh", headers=shown).text == "refresh"
        evil = shown | {"origin": "https://evil.example"}
        assert client.post("/refresh", headers=evil).status_code == 403


def test_a_token_as_an_object() -> None:
    made = Token(sub="7", exp=int(time.time()) + 60, aud="api", extras={"tier": "pro"})
    text = made.encode(tokens.SECRET)
    assert read(text)["tier"] == "pro"
    assert Token.decode(text, tokens.SECRET, audience="api") == made
    for wrong in (text[:-2], tokens.unsigned({"alg": "none"}), tokens.token(sub="")):
        with pytest.raises(ValueError, match=r"not valid|names nobody"):
            Token.decode(wrong, tokens.SECRET)
    with pytest.raises(ValueError, match="not valid"):
        Token.decode(text, tokens.SECRET, audience="another")


def test_users_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend whose users are no rows: loaded when they are looked at, by id and context."""

    class Person:
        is_authenticated = True

        def __init__(self, name: str) -> None:
            self.name = name

    class Directory(JWTAuthentication):
        async def get_user(self, user_id: str, context: Mapping[str, Any]) -> Any:
            await asyncio.sleep(0)
            return Person(f"{user_id} of {context['auth_claims']['team']}")

    api = BoltAPI(auth=[Directory(tokens.SECRET)])

    @api.get("/me")
    async def me(user: CurrentUser) -> str:
        return str(user.name)

    monkeypatch.setattr(users, "_backends", {})
    with serving(api) as served:
        answer = served.get("/me", **bearer(tokens.token(team="red")))
        assert (answer.status, answer.body) == (200, b"7 of red")
