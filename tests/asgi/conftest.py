"""What the tests of the ASGI and FastAPI doors share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.asgi.serving import dead_port
from tollway import Limiter
from tollway.asgi import passage
from tollway.asgi.addresses import Addresses


@pytest.fixture
def default_limiter(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> Limiter:
    """The same limiter as the default of the process, for the length of a test."""
    monkeypatch.setattr(passage, "_default", passage._Default(limiter, Addresses()))
    return limiter


@pytest.fixture
def dead_store() -> Iterator[str]:
    """The URL of a Redis that is not there."""
    with dead_port() as port:
        yield f"redis://127.0.0.1:{port}/0"
