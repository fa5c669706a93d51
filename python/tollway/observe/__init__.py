"""Numbers, traces and logs of every limiter of a process, whichever door it stands in.

>>> from tollway import Limiter, Policy, observe
>>> observe.start()
>>> limiter, login = Limiter(), Policy("login", "1/m")
>>> [limiter.check(login, "203.0.113.7").allowed for _ in range(3)]
[True, False, False]
>>> observe.checks()["login"]["refused"]
2

Checks are counted in Rust, for about 15 ns each, also those that Bolt decides before Python is
entered. :mod:`tollway.observe.prometheus`, :mod:`tollway.observe.opentelemetry`,
:mod:`tollway.observe.statsd` and :mod:`tollway.observe.logs` tell the counts to others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from tollway._tollway import (
    Call,
    Decision,
    add_hooks,
    metrics_read,
    metrics_start,
    metrics_stop,
    remove_hooks,
)

__all__ = ["Call", "StoreNumbers", "add", "checks", "start", "stop", "stores"]


class StoreNumbers(TypedDict):
    """What is known of a backend since its limiter was made."""

    store: str
    """Its URL, without its password."""
    breaker: str | None
    """``"closed"``, ``"half_open"`` or ``"open"``."""
    waiting: int
    """Calls that wait for their turn."""
    calls: int
    """Calls that were made, failed ones too."""
    seconds: float
    """How long they took together."""
    skipped: int
    """Calls that were not made because the breaker was open."""
    errors: dict[str, int]
    """Calls that failed, by kind: ``"timeout"``, ``"unavailable"`` and so on."""


def start() -> None:
    """Count checks from now on. Until then a check costs what it costs without."""
    metrics_start()


def stop() -> None:
    """Count checks no more; what was counted stays."""
    metrics_stop()


def checks() -> dict[str, dict[str, int]]:
    """How many checks of each policy came out how, since :func:`start`: by policy and outcome.

    Peeks do not count. Of a request with several policies each counts; a refusal counts for the
    policy that refused, as the others were not charged. The first 256 names are counted apart,
    later ones as ``other``; what an access list decides without any policy is ``none``.
    """
    found: dict[str, dict[str, int]] = {}
    for policy, outcome, count in metrics_read()["checks"]:
        found.setdefault(policy, {})[outcome] = count
    return found


def stores() -> list[StoreNumbers]:
    """What is known of each backend but those in this host's memory, which cannot fail."""
    return metrics_read()["stores"]


def add(
    on_decision: Callable[[Decision, Call], object] | None = None,
    on_error: Callable[[Exception, Call], object] | None = None,
    *,
    only_waits: bool = False,
) -> Callable[[], None]:
    """Call functions after the decisions and errors of every limiter of this process.

    As ``Limiter(on_decision=, on_error=)``, for limiters that settings make. ``only_waits`` leaves
    out what was answered without waiting for a backend. Call what is returned to undo it.
    """
    number = add_hooks(on_decision, on_error, only_waits=only_waits)
    return lambda: remove_hooks(number)
