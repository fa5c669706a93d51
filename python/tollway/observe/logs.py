"""Structured logs with sampled refusals: a flood of 429 is not a flood of logs.

    from tollway.observe import logs

    logs.start()

From then on the logger ``tollway.refused`` says how many requests each policy refused, one line
for each policy and interval, and ``tollway.stores`` what went wrong with each backend.
"""

from __future__ import annotations

import logging
import time

from tollway import observe
from tollway.observe.beat import Beat, growth

__all__ = ["start"]

_refused = logging.getLogger("tollway.refused")
_stores = logging.getLogger("tollway.stores")
#: The outcomes that somebody may want to look into.
_TOLD = ("refused", "degraded_refused", "denied", "shadow_refused", "failed")


def start(every: float = 10.0, *, level: int = logging.WARNING) -> Beat:
    """Log what was refused and what failed every so many seconds, until ``stop()``.

    Costs a request nothing but its count: the lines are made from the counts, beside the requests.
    Every refusal is in exactly one line. Structured fields are in ``extra``: ``policy``,
    ``seconds`` and a number for each outcome; ``store``, ``breaker``, ``errors`` and ``skipped``.
    """
    observe.start()
    lines = _Lines(level)
    return Beat(lines.tell, every, lines.anew)


class _Lines:
    """What was said last, to say what is new."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._at = time.monotonic()
        self._checks = observe.checks()
        self._stores = {found["store"]: found for found in observe.stores()}

    def anew(self) -> None:
        self._at = time.monotonic()
        self._checks, self._stores = {}, {}

    def tell(self) -> None:
        now = time.monotonic()
        seconds, self._at = round(now - self._at, 3), now
        before, self._checks = self._checks, observe.checks()
        for policy, counts in self._checks.items():
            new = growth(counts, before.get(policy, {}))
            told = {name: new[name] for name in _TOLD if new.get(name)}
            if told:
                words = ", ".join(f"{count} {name}" for name, count in told.items())
                extra = {"policy": policy, "seconds": seconds, **dict.fromkeys(_TOLD, 0), **told}
                text = "policy %s: %s in %.0f s"
                _refused.log(self._level, text, policy, words, seconds, extra=extra)
        self._tell_stores(seconds)

    def _tell_stores(self, seconds: float) -> None:
        before, found = self._stores, observe.stores()
        self._stores = {store["store"]: store for store in found}
        for store in found:
            name = store["store"]
            last = before.get(name)
            errors = growth(store["errors"], last["errors"] if last else {})
            errors = {kind: count for kind, count in errors.items() if count}
            skipped = max(0, store["skipped"] - (last["skipped"] if last else 0))
            turned = store["breaker"] != (last["breaker"] if last else "closed")
            if not (errors or skipped or turned):
                continue
            words = ", ".join(f"{count} {kind}" for kind, count in errors.items()) or "no errors"
            extra = {"store": name, "breaker": store["breaker"], "seconds": seconds}
            _stores.log(
                self._level,
                "backend %s: %s, %d not asked in %.0f s; breaker %s",
                *(name, words, skipped, seconds, store["breaker"]),
                extra={**extra, "errors": errors, "skipped": skipped},
            )
