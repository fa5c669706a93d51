"""Where a request came from, as it is told and as it is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from tollway import ClientAddress
from tollway.asgi.wire import Scope, values

PEERS_MAX: Final = 4096
"""How many addresses of peers are kept as they are counted."""


class Addresses:
    """Finds the address of a client; what proxies say is believed only of those that are named."""

    def __init__(
        self, trusted_proxies: Sequence[str] = (), proxy_hops: int = 0, ipv6_prefix: int = 64
    ) -> None:
        self._rule = ClientAddress(trusted_proxies, proxy_hops, ipv6_prefix)
        self._counted = lru_cache(maxsize=PEERS_MAX)(self._rule.key)
        believes = bool(trusted_proxies) or proxy_hops > 0
        self.key: Callable[[Scope], str] = self._told_key if believes else self._peer_key
        """The address as it is counted: one of IPv6 stands for its network."""

    def resolve(self, scope: Scope) -> str:
        """The address itself."""
        return self._rule.resolve(_peer(scope), *self._told(scope))

    def _peer_key(self, scope: Scope) -> str:
        client = scope.get("client")
        return self._counted(client[0] if client else None)

    def _told_key(self, scope: Scope) -> str:
        return self._rule.key(_peer(scope), *self._told(scope))

    def _told(self, scope: Scope) -> tuple[list[str], list[str]]:
        return list(values(scope, b"x-forwarded-for")), list(values(scope, b"forwarded"))


def _peer(scope: Scope) -> str | None:
    client = scope.get("client")
    return client[0] if client else None
