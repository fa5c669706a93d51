"""Key sets of an issuer: a real HTTP server that turns its keys, is down, or is slow."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.bolt import tokens
from tests.bolt.test_auth import api_with, bearer, serving
from tollway import ConfigError
from tollway._tollway import TokenVerifier
from tollway.bolt.auth import JWTAuthentication
from tollway.bolt.auth.keysets import MOST, REFRESH, SOON, KeySetSource, fetch

NO_HTTP = b"what answers is no web server"


class Issuer:
    """An issuer of tokens on a free port."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                found = issuer.answers.get(self.path)
                if found == NO_HTTP:
                    self.wfile.write(b"220 mail.example ESMTP\r\n")
                    return
                if isinstance(found, str):
                    self.send_response(302)
                    self.send_header("Location", found)
                else:
                    self.send_response(404 if found is None else 200)
                self.end_headers()
                if found is not None and not isinstance(found, str):
                    body = found if isinstance(found, bytes) else json.dumps(found).encode()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def holds(self, *keys: dict[str, Any]) -> None:
        self.answers["/keys"] = {"keys": list(keys)}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Followed:
    """A verifier and its source, turned by hand on a clock of the test's."""

    def __init__(self, issuer: Issuer, **places: Any) -> None:
        self.now = 0.0
        self.known: Any = None
        self.verifier = TokenVerifier(["RS256"])
        places = places or {"url": f"{issuer.url}/keys"}
        self.source = KeySetSource(
            self.verifier,
            places.get("url"),
            places.get("oidc_issuer"),
            clock=lambda: self.now,
        )

    def turn(self, at: float) -> None:
        self.now = at
        found = self.source.load(self.known)
        if self.source._thread is not None:
            self.source._thread.join(10)
            found = found or self.source.load(self.known)
        if found is not None:
            self.known, data = found
            self.verifier.replace(data)

    def believes(self, token: str) -> bool:
        try:
            self.verifier.verify(token)
        except ValueError:
            return False
        return True


def token(number: int, kid: str) -> str:
    return tokens.token("RS256", number=number, kid=kid)


def test_keys_of_an_issuer_open_the_door(issuer: Issuer) -> None:
    issuer.holds(tokens.jwk("RS256", 0, kid="one", use="sig"))
    by = JWTAuthentication(jwks_url=f"{issuer.url}/keys", audience="api")
    with serving(api_with([by])) as served:
        good = tokens.token("RS256", kid="one", aud="api")
        assert [served.get("/me", **bearer(good)).status for _ in range(5)] == [200] * 5
        assert (
            served.get("/me", **bearer(tokens.token("RS256", kid="two", aud="api"))).status == 401
        )
        assert served.get("/me", **bearer(tokens.token("RS256", kid="one"))).status == 401
    assert issuer.asked == ["/keys"], "no request asks the issuer"


def test_a_key_set_of_ones_own() -> None:
    keys = {"keys": [tokens.jwk(name, kid=name) for name in ("RS256", "ES256", "ES384", "EdDSA")]}
    by = JWTAuthentication(jwks=keys, algorithms=["RS256", "ES256", "ES384", "EdDSA"])
    verifier = by.native()
    for name in ("RS256", "ES256", "ES384", "EdDSA"):
        assert verifier.verify(tokens.token(name, kid=name))["sub"] == "7"
        with pytest.raises(ValueError, match="not valid"):
            verifier.verify(tokens.token(name, kid="RS256" if name != "RS256" else "ES256"))


def test_keys_that_turn_are_followed(issuer: Issuer) -> None:
    issuer.holds(tokens.jwk("RS256", 0, kid="one"))
    followed = Followed(issuer)
    followed.turn(0)
    assert followed.believes(token(0, "one"))
    issuer.holds(tokens.jwk("RS256", 0, kid="one"), tokens.jwk("RS256", 1, kid="two"))
    followed.turn(1)
    assert issuer.asked == ["/keys"]
    assert not followed.believes(token(1, "two"))
    # The unknown key asks for new ones, but not at once after the last fetch.
    followed.turn(SOON - 1)
    assert issuer.asked == ["/keys"]
    followed.turn(SOON + 1)
    assert followed.believes(token(1, "two"))
    issuer.holds(tokens.jwk("RS256", 1, kid="two"))
    followed.turn(SOON + 2 + REFRESH)
    assert (followed.believes(token(0, "one")), followed.believes(token(1, "two"))) == (False, True)


def test_unknown_keys_do_not_make_a_flood_of_fetches(issuer: Issuer) -> None:
    issuer.holds(tokens.jwk("RS256", 0, kid="one"))
    followed = Followed(issuer)
    followed.turn(0)
    for second in range(1, 31):
        assert not followed.believes(token(0, f"made up {second}"))
        followed.turn(second)
    assert len(issuer.asked) <= 1 + 30 / SOON


def test_an_issuer_that_is_down_changes_nothing(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.holds(tokens.jwk("RS256", 0, kid="one"))
    followed = Followed(issuer)
    followed.turn(0)
    for answer in (None, b"<html>", {"keys": []}, b"x" * (MOST + 1), NO_HTTP):
        issuer.answers["/keys"] = answer
        # What cannot be read, the thread that follows tells to the log.
        with caplog.at_level(logging.ERROR), suppress(ConfigError):
            followed.turn(followed.now + REFRESH + SOON)
        assert followed.believes(token(0, "one")), answer
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3 and all("cannot be fetched" in text for text in told)


def test_an_issuer_that_is_down_at_the_start_is_asked_again(issuer: Issuer) -> None:
    followed = Followed(issuer)
    followed.turn(0)
    assert not followed.believes(token(0, "one"))
    issuer.holds(tokens.jwk("RS256", 0, kid="one"))
    followed.turn(SOON - 1)
    assert not followed.believes(token(0, "one"))
    followed.turn(SOON + 1)
    assert followed.believes(token(0, "one"))


def test_a_fetch_that_found_no_thread_is_tried_again(issuer: Issuer) -> None:
    issuer.holds(tokens.jwk("RS256", 0, kid="one"))
    followed = Followed(issuer)
    usual = threading.stack_size(1 << 46)  # more than there is
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            followed.turn(0)
    finally:
        threading.stack_size(usual)
    followed.turn(SOON + 1)
    assert followed.believes(token(0, "one"))


def test_discovery_must_name_the_issuer_itself(issuer: Issuer) -> None:
    issuer.holds(tokens.jwk("RS256", 0, kid="one"))
    place = "/.well-known/openid-configuration"
    issuer.answers[place] = {"issuer": "https://evil.example", "jwks_uri": f"{issuer.url}/keys"}
    followed = Followed(issuer, oidc_issuer=issuer.url)
    followed.turn(0)
    assert not followed.believes(token(0, "one"))
    issuer.answers[place] = {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"}
    followed.turn(SOON + 1)
    assert followed.believes(token(0, "one"))


def test_a_configuration_that_does_not_read_is_told(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    followed = Followed(issuer, oidc_issuer=issuer.url)
    wrong = [b"[" * 100_000, b"[]", b'{"issuer": 7}', {"issuer": issuer.url}, NO_HTTP]
    for turn, answer in enumerate(wrong):
        issuer.answers["/.well-known/openid-configuration"] = answer
        followed.turn(turn * (SOON + 1))
        assert len(caplog.records) == turn + 1, answer
    assert all(f"the keys at {issuer.url} cannot be" in one.getMessage() for one in caplog.records)


def test_nobody_is_followed_to_wherever(issuer: Issuer) -> None:
    issuer.answers["/moved"] = f"{issuer.url}/keys"
    issuer.holds()
    with pytest.raises(OSError, match="302"):
        fetch(f"{issuer.url}/moved")
    with pytest.raises(ConfigError, match="no URL"):
        KeySetSource(TokenVerifier(["RS256"]), "file:///etc/passwd")
    with pytest.raises(ConfigError, match="a user or a password, which is not sent") as told:
        KeySetSource(TokenVerifier(["RS256"]), "https://ada:sesame@keys.example/")
    assert "sesame" not in str(told.value)


@pytest.mark.parametrize(
    "url", ["http://issuer.example/keys", "http://127.0.0.1.example/", "http://10.0.0.1/"]
)
def test_keys_come_over_https_or_somebody_said_otherwise(url: str) -> None:
    with pytest.raises(ConfigError, match="allow_http=True"):
        JWTAuthentication(jwks_url=url, audience="api").native()
    verifier = TokenVerifier(["RS256"])
    assert repr(KeySetSource(verifier, url, allow_http=True)) == f"KeySetSource({url!r})"
    for here in ("http://localhost:9/keys", "http://[::1]:9/keys", "https://issuer.example/keys"):
        KeySetSource(verifier, here)
    for wrong in ("", "keys", "https://", "http://[::1/keys", None):
        with pytest.raises(ConfigError, match="no URL"):
            KeySetSource(verifier, wrong)


def test_a_configuration_may_not_send_us_to_http(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    place = "/.well-known/openid-configuration"
    issuer.holds(tokens.jwk("RS256", 0, kid="one"))
    for uri in ("http://issuer.example/keys", "file:///etc/passwd", 7, None):
        issuer.answers[place] = {"issuer": issuer.url, "jwks_uri": uri}
        followed = Followed(issuer, oidc_issuer=issuer.url)
        followed.turn(0)
        assert not followed.believes(token(0, "one"))
    assert "is not https" in caplog.text
    assert issuer.asked == [place] * 4
