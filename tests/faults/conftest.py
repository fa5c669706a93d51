"""What fault tests stand on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.faults.proxy import Proxy, proxy
from tests.servers import RedisServer, redis_server


@dataclass
class Place:
    """A server, and the proxy through which the limiter reaches it."""

    server: RedisServer
    between: Proxy


@pytest.fixture
def place() -> Iterator[Place]:
    with redis_server() as server, proxy(server.port) as between:
        yield Place(server, between)
