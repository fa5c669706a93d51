"""Who is asking: keys as they are spelled, and addresses behind proxies."""

from __future__ import annotations

import pytest

from tollway import ClientAddress, ConfigError, hash_identity
from tollway.identity import KeySpec, host_of, parse_key


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("ip", KeySpec("ip")),
        ("user_or_ip", KeySpec("user_or_ip")),
        ("header:X-API-Key", KeySpec("header", "X-API-Key")),
        ("post:username", KeySpec("post", "username")),
    ],
)
def test_keys_read(text: str, spec: KeySpec) -> None:
    assert parse_key(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ipp", ['"ipp"', 'Did you mean "ip"?']),
        ("users", ['Did you mean "user"?']),
        ("headers:X", ['Did you mean "header"?']),
        ("header", ["lacks a name", "header:NAME"]),
        ("header:", ["lacks a name"]),
        ("ip:", ["takes no name"]),
        ("", ["not known"]),
    ],
)
def test_a_mistyped_key_is_an_error(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_key(text)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("stated", "host"),
    [
        ("shop.example", "shop.example"),
        (" Shop.Example.:8000 ", "shop.example"),
        ("shop.example:", "shop.example"),
        ("[2001:DB8::1]:443", "[2001:db8::1]"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("", ""),
    ],
)
def test_a_host_has_one_spelling(stated: str, host: str) -> None:
    assert host_of(stated) == host


def test_nothing_forwarded_is_trusted_by_default() -> None:
    address = ClientAddress()
    assert address.resolve("192.0.2.1", ["203.0.113.7"], ["for=203.0.113.7"]) == "192.0.2.1"


def test_a_trusted_proxy_names_the_client() -> None:
    address = ClientAddress(["10.0.0.0/8"])
    assert address.resolve("10.0.0.1", ["6.6.6.6, 203.0.113.7, 10.0.0.2"]) == "203.0.113.7"
    assert address.key("10.0.0.1", ["2001:db8::5"]) == "2001:db8::/64"
    assert address.resolve("192.0.2.1", ["203.0.113.7"]) == "192.0.2.1"


def test_a_peer_without_an_address() -> None:
    assert ClientAddress().key(None) == "local"
    assert ClientAddress(["10.0.0.0/8"]).key("", ["203.0.113.7"]) == "local"
    assert ClientAddress().key("testclient") == "testclient"
    assert ClientAddress(hops=1).key(None, ["203.0.113.7"]) == "203.0.113.7"
    assert ClientAddress(hops=1).key(None, []) == "local"


def test_bad_networks_are_named() -> None:
    with pytest.raises(ConfigError, match='"nginx"'):
        ClientAddress(["nginx"])


def test_secrets_are_hashed() -> None:
    digest = hash_identity("sk_live_secret")
    assert len(digest) == 32
    assert digest != hash_identity("sk_live_secret", b"another")
    assert "secret" not in digest
