"""JSON Web Key Sets of an issuer: fetched in the background, never by a request."""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from tollway._tollway import TokenVerifier
from tollway.errors import ConfigError

__all__ = ["KeySetSource", "fetch"]

log = logging.getLogger("tollway.bolt.auth")

REFRESH: Final = 300.0
"""Seconds between two fetches."""

SOON: Final = 10.0
"""Seconds until the next fetch after one that failed, or when a token names an unknown key."""

WAIT: Final = 5.0
"""Seconds for which a start waits for the first keys, and a fetch for each answer."""

MOST: Final = 262_144
"""The longest answer that is read, in bytes."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An issuer that moved is told to the log, not followed to wherever."""

    def redirect_request(self, *_: Any) -> None:
        return None


def fetch(url: str) -> bytes:
    """What lies at a URL. Bounded in bytes and in time; no redirects.

    Raises OSError, or ValueError when there is too much of it.
    """
    opener = urllib.request.build_opener(_NoRedirect)
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    end = time.monotonic() + 2 * WAIT
    found = b""
    with opener.open(request, timeout=WAIT) as answer:
        while chunk := answer.read1(65_536):
            found += chunk
            if len(found) > MOST:
                raise ValueError(f"{url} holds more than {MOST} bytes")
            if time.monotonic() > end:
                raise TimeoutError(f"{url} takes more than {2 * WAIT:g} seconds to send its keys")
    return found


def checked_url(url: Any, allow_http: bool) -> str:
    """A URL from which keys may be fetched: whoever can change them on the way can sign tokens.

    Raises ConfigError.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except (ValueError, AttributeError, TypeError):
        raise ConfigError(f"{url!r} is no URL that keys can be fetched from") from None
    if parts.username is not None:
        raise ConfigError(
            f"the URL of the keys at {host!r} holds a user or a password, which is not sent: a key "
            "set is public"
        )
    if parts.scheme not in ("https", "http") or not host:
        raise ConfigError(f"{url!r} is no URL that keys can be fetched from")
    if parts.scheme == "http" and not (allow_http or _is_here(host)):
        raise ConfigError(
            f"{url!r} is not https, so whoever is on the way could put keys of their own in place: "
            "use https, or say allow_http=True if you trust the network"
        )
    return str(url)


def _is_here(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class KeySetSource:
    """A :class:`tollway.rules.Source` of the keys of an issuer.

    A thread fetches them, one at a time: the thread that follows, and the server, never wait for
    it but at the start. Keys stay in place when they cannot be fetched again.
    """

    def __init__(
        self,
        verifier: TokenVerifier,
        url: str | None,
        oidc_issuer: str | None = None,
        *,
        allow_http: bool = False,
        get: Callable[[str], bytes] = fetch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        checked_url(url or oidc_issuer, allow_http)
        self._allow_http = allow_http
        self._take_want = verifier.take_want
        self._url = url
        self._issuer = oidc_issuer
        self._get = get
        self._clock = clock
        self._fetched = float("-inf")
        self._due = float("-inf")
        self._thread: threading.Thread | None = None
        self._found: bytes | None = None

    def load(self, known: Any) -> tuple[Any, Any] | None:
        """The keys, if others than those in place were fetched."""
        now = self._clock()
        if self._thread is None and (now >= self._due or self._wanted(now)):
            self._due = now + SOON
            self._fetched = now
            thread = threading.Thread(target=self._fetch, daemon=True)
            thread.start()
            self._thread = thread
        if self._thread is not None:
            self._thread.join(WAIT if known is None else 0)
            if not self._thread.is_alive():
                self._thread = None
        found, self._found = self._found, None
        if found is None:
            # Told as known, so that no later turn waits as the first one does.
            return None if known is not None else ("none yet", None)
        version = hash(found)
        return None if version == known else (version, found)

    def _wanted(self, now: float) -> bool:
        """Whether a token named an unknown key, and the last fetch was not just now."""
        return now >= self._fetched + SOON and self._take_want()

    def _fetch(self) -> None:
        try:
            url = self._url or self._discovered()
            found = self._get(url)
            self._found = found
            self._due = self._clock() + REFRESH
        except Exception as error:  # whatever an answer of strangers makes of the readers
            log.error("the keys at %s cannot be fetched: %s", self._url or self._issuer, error)

    def _discovered(self) -> str:
        """Where the issuer says that its keys are (OpenID Connect Discovery)."""
        base = (self._issuer or "").rstrip("/")
        told = json.loads(self._get(f"{base}/.well-known/openid-configuration"))
        if told.get("issuer", "").rstrip("/") != base:
            raise ValueError(f"the configuration there is that of {told.get('issuer')!r}")
        return checked_url(told["jwks_uri"], self._allow_http)

    def __repr__(self) -> str:
        return f"KeySetSource({self._url or self._issuer!r})"
