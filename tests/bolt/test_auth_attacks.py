"""What attackers send to be believed, over real HTTP: each is refused, and told nothing."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.bolt import tokens
from tests.bolt.native import Running
from tests.bolt.project import Project
from tests.bolt.test_auth import BY_KEY, BY_TOKEN, KEYS, api_with, bearer, serving
from tests.bolt.wire import certificate, trusting
from tollway import ConfigError
from tollway._tollway import TokenVerifier
from tollway.bolt.auth import InMemoryRevocation, IsStaff, JWTAuthentication

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: Any, body: str | None = None, secret: str = tokens.SECRET) -> str:
    """A token whose signature is right, with any header and any body."""
    text = header if isinstance(header, str) else json.dumps(header)
    body = json.dumps(tokens.claims()) if body is None else body
    message = f"{coded(text.encode())}.{coded(body.encode())}"
    return f"{message}.{coded(hmac.digest(secret.encode(), message.encode(), hashlib.sha256))}"


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    with serving(api_with()) as found:
        yield found


ENDS = int(time.time()) + 3600
HEADERS: dict[str, Any] = {
    "crit": {"alg": "HS256", "crit": ["exp"]},
    "crit that is empty": {"alg": "HS256", "crit": []},
    "b64": {"alg": "HS256", "b64": False, "crit": ["b64"]},
    "two algorithms": '{"alg": "none", "alg": "HS256"}',
    "two key ids": '{"alg": "HS256", "kid": "a", "kid": "b"}',
    "kid as a number": {"alg": "HS256", "kid": 7},
    "kid as a list": {"alg": "HS256", "kid": ["a"]},
    "a list of algorithms": {"alg": ["HS256"]},
    "no algorithm": {"typ": "JWT"},
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_signed_header_that_reads_two_ways_is_refused(shared: Running, name: str) -> None:
    assert shared.get("/me", **bearer(signed({"alg": "HS256"}))).status == 200
    assert shared.get("/me", **bearer(signed(HEADERS[name]))).status == 401


@pytest.mark.parametrize(
    "body",
    [
        f'{{"sub": "eve", "exp": {ENDS}, "sub": "7"}}',
        f'{{"sub": "7", "exp": 1, "exp": {ENDS}}}',
        f'{{"sub": "7", "exp": {ENDS}, "is_staff": false, "is_staff": true}}',
        f'{{"sub": "7", "exp": {ENDS}}} {{"sub": "8"}}',
        '{"sub": "7", "exp": 1e400}',
        f'[{{"sub": "7", "exp": {ENDS}}}]',
    ],
)
def test_signed_claims_that_read_two_ways_are_refused(shared: Running, body: str) -> None:
    assert shared.get("/me", **bearer(signed({"alg": "HS256"}, body))).status == 401


@pytest.mark.parametrize(
    "kid",
    ["../../../../dev/null", "x' UNION SELECT 'secret", "/etc/passwd", "\0", "http://127.0.0.1/"],
)
def test_a_key_id_is_compared_and_nothing_else(kid: str) -> None:
    """Where ids are looked up as files or rows, an empty file's content signs everything."""
    keys = {"keys": [tokens.jwk("RS256", kid="one")]}
    with serving(api_with([JWTAuthentication(jwks=keys)])) as served:
        assert served.get("/me", **bearer(tokens.token("RS256", kid="one"))).status == 200
        assert served.get("/me", **bearer(tokens.token("RS256", kid=kid))).status == 401
        for secret in ("", "\0"):
            forged = signed({"alg": "HS256", "kid": kid}, secret=secret)
            assert served.get("/me", **bearer(forged)).status == 401


def test_a_key_that_the_token_brings_is_not_taken() -> None:
    mine = tokens.jwk("RS256", 1, kid="one")
    keys = {"keys": [tokens.jwk("RS256", kid="one")]}
    with serving(api_with([JWTAuthentication(jwks=keys)])) as served:
        for extra in ({"jwk": mine}, {"jku": "http://127.0.0.1:9/keys"}, {"x5u": "http://x/"}):
            key = tokens.private_key("RS256", 1)
            forged = jwt.encode(tokens.claims(), key, "RS256", headers={"kid": "one"} | extra)
            assert served.get("/me", **bearer(forged)).status == 401


def test_a_secret_in_a_key_set_is_no_key() -> None:
    """`oct` keys beside public ones: the set is public, so the secret would be as well."""
    secret = {"kty": "oct", "k": coded(tokens.SECRET.encode()), "kid": "two"}
    keys = {"keys": [tokens.jwk("RS256", kid="one"), secret]}
    with serving(api_with([JWTAuthentication(jwks=keys)])) as served:
        for kid in ("one", "two"):
            assert served.get("/me", **bearer(signed({"alg": "HS256", "kid": kid}))).status == 401
    with pytest.raises(ConfigError, match="no key for HS256"):
        JWTAuthentication(jwks=keys, algorithms=["HS256"]).native()


def test_an_ec_signature_has_one_form() -> None:
    """r and s as they are: no DER, nothing added, no zeros, and a twin is the same token."""
    store = InMemoryRevocation()
    by = JWTAuthentication(
        public_key=tokens.public_pem("ES256"), algorithms=["ES256"], revocation_store=store
    )
    message, _, encoded = tokens.token("ES256", jti="1").rpartition(".")
    raw = base64.urlsafe_b64decode(encoded + "==")
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")

    def with_signature(signature: bytes) -> dict[str, str]:
        return bearer(f"{message}.{coded(signature)}")

    with serving(api_with([by])) as served:
        assert served.get("/me", **with_signature(raw)).status == 200
        zero = bytes(32)
        for wrong in (
            encode_dss_signature(r, s),
            raw + b"\0",
            b"\0" + raw,
            bytes(64),
            raw[:32] + zero,
            zero + raw[32:],
            raw[:32] + P256_ORDER.to_bytes(32, "big"),
            raw[32:] + raw[:32],
        ):
            assert served.get("/me", **with_signature(wrong)).status == 401, wrong
        # The other s that fits is believed, as RFC 7518 has it, and is revoked with the first:
        # what is remembered of a token is its id, not its text.
        twin = raw[:32] + (P256_ORDER - s).to_bytes(32, "big")
        assert served.get("/me", **with_signature(twin)).status == 200
        served.on_loop(lambda: store.native.add("jti:1", time.time() + 60))
        for either in (raw, twin):
            assert served.get("/me", **with_signature(either)).status == 401


def test_a_short_rsa_key_is_no_key() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    pem = weak.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    with pytest.raises(ConfigError, match="1024 bits: 2048 to 8192"):
        JWTAuthentication(public_key=pem, algorithms=["RS256"]).native()
    jwk = jwt.get_algorithm_by_name("RS256").to_jwk(weak.public_key(), as_dict=True)
    for algorithm in ("RS256", "PS256"):
        with pytest.raises(ConfigError, match="1024 bits"):
            JWTAuthentication(jwks={"keys": [jwk]}, algorithms=[algorithm]).native()


def test_an_exponent_of_one_signs_nothing() -> None:
    """With e = 1 the signature of a text is its padded hash, which anybody can write down."""
    numbers = tokens.private_key("RS256", 0).public_key().public_numbers()
    length = 256
    jwk = {"kty": "RSA", "n": coded(numbers.n.to_bytes(length, "big")), "e": coded(b"\x01")}
    message = tokens.unsigned({"alg": "RS256"}).rpartition(".")[0]
    named = bytes.fromhex("3031300d060960864801650304020105000420")
    hashed = named + hashlib.sha256(message.encode()).digest()
    padded = b"\0\1" + b"\xff" * (length - len(hashed) - 3) + b"\0" + hashed
    verifier = TokenVerifier(["RS256"], jwks=json.dumps({"keys": [jwk]}).encode())
    with pytest.raises(ValueError, match="not valid"):
        verifier.verify(f"{message}.{coded(padded)}")


def test_secrets_can_be_changed_without_logging_anybody_out() -> None:
    old = "the secret that was used until yesterday, by everybody here"
    before = jwt.encode(tokens.claims(), old, "HS256")
    with serving(api_with([JWTAuthentication([tokens.SECRET, old])])) as served:
        assert served.get("/me", **bearer(before)).status == 200
        assert served.get("/me", **bearer(tokens.token())).status == 200
    with serving(api_with()) as served:
        assert served.get("/me", **bearer(before)).status == 401
    for secrets, part in (([], "is empty"), ([old, "short"], "5 bytes"), ([old] * 5, "the most")):
        with pytest.raises(ConfigError, match=part):
            JWTAuthentication(secrets).native()


def test_a_refusal_does_not_tell_what_was_nearly_right(caplog: pytest.LogCaptureFixture) -> None:
    """The same answer for an unknown key, a wrong signature, and a user who does not exist."""
    caplog.set_level(logging.DEBUG)
    keys = {"keys": [tokens.jwk("RS256", kid="one")]}
    with serving(api_with([JWTAuthentication(jwks=keys, audience="api")])) as served:
        wrong = [
            tokens.token("RS256", kid="one", aud="another"),
            tokens.token("RS256", kid="two", aud="api"),
            tokens.token("RS256", number=1, kid="one", aud="api"),
            tokens.token("RS256", number=1, kid="one", aud="api", sub="nobody"),
            signed({"alg": "HS256", "kid": "one"}),
        ]
        answers = [served.get("/me", **bearer(token)) for token in wrong]
        told = {(a.status, a.body, a.headers["www-authenticate"]) for a in answers}
        assert len(told) == 1, told
    # A token of somebody who may not: what is missing, and nothing of who may.
    with serving(api_with([BY_TOKEN, BY_KEY], [IsStaff()])) as served:
        key = next(iter(KEYS))
        answers = [
            served.get("/me", **bearer(tokens.token())),
            served.get("/me", **{"x-api-key": key}),
        ]
        assert {(a.status, a.json()["detail"]) for a in answers} == {(403, "this is for staff")}
        unknown = served.get("/me", **{"x-api-key": "no such key was ever issued"})
        assert (unknown.status, unknown.json()["detail"]) == (401, "the API key is not known")
        assert "no such key" not in unknown.body.decode()
    assert not any(token in caplog.text for token in wrong)


COOKIE = """
from tollway.bolt import BoltAPI
from tollway.bolt.auth import IsAuthenticated, JWTAuthentication

api = BoltAPI(auth=[JWTAuthentication(cookie="t")], guards=[IsAuthenticated()])


@api.post("/change")
async def change():
    return {}
"""


@pytest.mark.parametrize("http2", [False, True])
def test_a_cookie_is_judged_by_its_origin_on_either_protocol(project: Project, http2: bool) -> None:
    """On HTTP/2 the name of the site is in `:authority`, and there is no `Host`."""
    project.settings(f"SECRET_KEY = {tokens.SECRET!r}")
    project.write("shop/api.py", COOKIE)
    certified, key = certificate(project.folder)
    arguments = ("--tls-cert", str(certified), "--tls-key", str(key))
    with (
        project.serve(*arguments) as served,
        httpx.Client(base_url=served.url, verify=trusting(certified), http2=http2) as client,
    ):
        host = served.url.removeprefix("https://")
        for origin, status in (
            (f"https://{host}", 200),
            (f"https://{host}0", 403),
            ("https://evil.example", 403),
            ("null", 403),
        ):
            headers = {"cookie": f"t={tokens.token()}", "origin": origin}
            answer = client.post("/change", headers=headers)
            told = (answer.http_version, answer.status_code)
            assert told == ("HTTP/2" if http2 else "HTTP/1.1", status), origin
