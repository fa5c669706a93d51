"""``/health`` and ``/ready``: what load balancers and orchestrators ask.

::

    from tollway.bolt.health import add_health_check, check_database, register_health_checks

    register_health_checks(api)
    add_health_check(api, "database", check_database)
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tollway.bolt.api import BoltAPI
from tollway.bolt.responses import JSON
from tollway.errors import ConfigError

__all__ = ["HealthCheck", "add_health_check", "check_database", "register_health_checks"]

HealthCheck = Callable[[], Awaitable[Any] | Any]
"""A check, sync or async. It fails when it raises or returns ``False``."""

PATIENCE: Final = 5.0
"""Seconds a check may take before it counts as failed."""

logger = logging.getLogger("tollway.bolt.health")


def register_health_checks(
    api: BoltAPI, *, health: str = "/health", ready: str = "/ready", patience: float = PATIENCE
) -> None:
    """Answer two paths.

    ``health`` is 200 as long as the process answers at all: restart it when it does not. ``ready``
    runs the checks that :func:`add_health_check` added, at once and each within ``patience``
    seconds: 200 when all are well, 503 that names those that are not. What went wrong stands in the
    log, not in the answer.
    """
    if not 0 < patience <= 3600:
        raise ConfigError(f"patience is from 0 to 3600 seconds, not {patience!r}")

    @api.get(health, name="health")
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    prober = _Prober(patience)

    @api.get(ready, name="ready")
    async def prepared() -> JSON:
        checks = api.health_checks
        told = await asyncio.gather(*(prober.told(name, one) for name, one in checks.items()))
        well = all(told)
        words = {name: "ok" if one else "failed" for name, one in zip(checks, told, strict=True)}
        return JSON(
            {"status": "ok" if well else "failed", "checks": words},
            status_code=200 if well else 503,
            headers={"Cache-Control": "no-store"},
        )


def add_health_check(api: BoltAPI, name: str, check: HealthCheck) -> None:
    """Add a check to ``/ready``. A sync one runs on a thread."""
    if name in api.health_checks:
        raise ConfigError(f"{api!r} has a health check {name!r} already: choose another name")
    if not callable(check):
        raise ConfigError(f"health check {name!r}: {check!r} is not a function")
    api.health_checks[name] = check


def check_database() -> None:
    """That every database of the settings answers ``SELECT 1``, each on a connection of its own."""
    from django.db import connections

    for alias in connections:
        connection = connections.create_connection(alias)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        finally:
            connection.close()


class _Prober:
    """Runs the checks of one API, each at most once at a time: one that hangs takes one thread.

    Whoever asks meanwhile is told what comes of it.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._running: dict[str, asyncio.Future[Any]] = {}

    async def told(self, name: str, check: HealthCheck) -> bool:
        """What a check says."""
        try:
            async with asyncio.timeout(self.patience):
                said = await (
                    check() if inspect.iscoroutinefunction(check) else self._sync(name, check)
                )
        except Exception as error:
            logger.warning("health check %s failed: %r", name, error)
            return False
        if said is False:
            logger.warning("health check %s says no", name)
        return said is not False

    def _sync(self, name: str, check: Callable[[], Any]) -> Awaitable[Any]:
        running = self._running.get(name)
        if running is None:
            running = asyncio.ensure_future(asyncio.to_thread(check))
            self._running[name] = running
            running.add_done_callback(lambda _: self._running.pop(name))
        # Who has lost patience leaves it running: a thread cannot be stopped.
        return asyncio.shield(running)
