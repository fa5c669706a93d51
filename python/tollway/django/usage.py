"""What was allowed and refused, summed up in memory and written in batches: ``RATELIMIT_USAGE``.

A decision costs a dictionary look-up; a process writes at most once in ten seconds, two statements
for each limit that was asked and one for each client that was refused.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from django.db import DatabaseError, IntegrityError, models, router, transaction
from django.utils import timezone

from tollway import Decision
from tollway.django.pool import follower
from tollway.rules import follow

if TYPE_CHECKING:
    from tollway.django.models import Offender, Usage

log = logging.getLogger("tollway.usage")

SPAN: Final = timedelta(minutes=10)
"""What one row sums up."""

EVERY: Final = 10.0
"""Seconds between two batches of a process."""

POLICIES_MAX: Final = 500
"""Limits that are told apart in one batch; the others are summed up as ``(others)``."""

OFFENDERS_MAX: Final = 1000
"""Refused clients that are told apart in one batch; who comes later is in a later one."""

OTHERS: Final = "(others)"
FIELDS: Final = ("allowed", "refused", "denied", "shadowed", "degraded")
_ALLOWED, _REFUSED, _DENIED, _SHADOWED, _DEGRADED = range(5)


class Recorder:
    """Sums up decisions, within bounds. Made by :meth:`started`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, list[int]] = {}
        self._offenders: dict[tuple[str, str], int] = {}

    @classmethod
    def started(cls) -> Recorder:
        """One whose sums are written while somebody holds it, and when the process ends."""
        made = cls()
        target: Any = made
        made._following = follow(target, _Batches(made), every=EVERY)
        atexit.register(_last, weakref.ref(made))
        return made

    _following: Any = None

    def note(self, decision: Decision, who: str) -> None:
        """Count one decision; ``who`` matters when it refuses."""
        shadow = decision.shadow
        with self._lock:
            if decision.reason == "denied":
                self._count("(access list)", _DENIED)
                return
            if decision.reason == "exempt":
                return
            refused = not decision.allowed
            self._count(decision.policy, _REFUSED if refused else _ALLOWED)
            if decision.degraded:
                self._count(decision.policy, _DEGRADED)
            if shadow is not None and shadow.reason == "rate_limited":
                self._count(shadow.policy, _SHADOWED)
            elif decision.mode == "shadow" and decision.reason == "rate_limited":
                self._count(decision.policy, _SHADOWED)
            if refused:
                key = (decision.policy, who)
                if key in self._offenders or len(self._offenders) < OFFENDERS_MAX:
                    self._offenders[key] = self._offenders.get(key, 0) + 1

    def _count(self, policy: str, field: int) -> None:
        counts = self._counts.get(policy)
        if counts is None:
            if len(self._counts) >= POLICIES_MAX:
                policy = OTHERS
            counts = self._counts.setdefault(policy, [0] * len(FIELDS))
        counts[field] += 1

    def write(self) -> int:
        """Add the sums to the database, and begin again; how many rows were touched.

        What cannot be written is lost, and told: it is never kept to grow.
        """
        with self._lock:
            counts, self._counts = self._counts, {}
            offenders, self._offenders = self._offenders, {}
        if not counts:
            return 0
        from tollway.django.models import Offender, Usage

        start = span_of(timezone.now())
        try:
            for policy, sums in counts.items():
                known = {"start": start, "policy": policy[:250]}
                _add(Usage, known, dict(zip(FIELDS, sums, strict=True)))
            for (policy, who), refused in offenders.items():
                # PostgreSQL keeps no zero byte.
                known = {
                    "start": start,
                    "policy": policy[:250],
                    "who": who.replace("\0", r"\x00")[:200],
                }
                _add(Offender, known, {"refused": refused})
        except DatabaseError as error:
            log.error("usage of the last seconds is lost: %s", error)
            raise
        return len(counts) + len(offenders)


class _Batches:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = weakref.ref(recorder)

    def load(self, _known: Any) -> None:
        recorder = self._recorder()
        if recorder is not None:
            follower.call(recorder.write)

    def __repr__(self) -> str:
        return "usage"


def _last(reference: weakref.ref[Recorder]) -> None:
    """What was not written yet, when the process ends."""
    recorder = reference()
    if recorder is not None and recorder._counts:
        try:
            recorder.write()
        except Exception as error:  # the process is ending: there is nobody to tell but the log
            log.warning("usage was not written at the end: %s", error)


def _add(model: type[Usage] | type[Offender], known: dict[str, Any], sums: dict[str, int]) -> None:
    """Add to a row, made when it is not there. One statement, or two."""
    using = router.db_for_write(model)
    rows = model._default_manager.using(using).filter(**known)
    more = {name: models.F(name) + value for name, value in sums.items() if value}
    if rows.update(**more):
        return
    try:
        with transaction.atomic(using=using):
            model._default_manager.using(using).create(**known, **sums)
    except IntegrityError:  # another process was quicker
        rows.update(**more)


def span_of(time: datetime) -> datetime:
    """The beginning of the ten minutes that a time is in."""
    seconds = int(time.timestamp()) // int(SPAN.total_seconds()) * int(SPAN.total_seconds())
    return datetime.fromtimestamp(seconds, tz=time.tzinfo)


def report(since: datetime, until: datetime, *, policy: str = "", top: int = 10) -> dict[str, Any]:
    """What happened in a time, ready for JSON: sums, sums by limit, and who was refused most.

    Three queries. Times are those of the ten minutes they are in.
    """
    from tollway.django.models import Offender, Usage

    times: dict[str, Any] = {"start__gte": span_of(since), "start__lt": until}
    if policy:
        times["policy__startswith"] = policy
    usage = Usage.objects.filter(**times).order_by()
    limits = list(usage.values("policy").annotate(**_sums(FIELDS)))
    by_time = usage.values("start").annotate(**_sums(("allowed", "refused"))).order_by("start")
    offenders = (
        Offender.objects.filter(**times)
        .order_by()
        .values("policy", "who")
        .annotate(refusals=models.Sum("refused"))
        .order_by("-refusals", "policy", "who")[:top]
    )
    for row in limits:
        asked = row["allowed_sum"] + row["refused_sum"]
        row["share"] = round(row["refused_sum"] / asked, 4) if asked else 0.0
    return {
        "since": span_of(since).isoformat(),
        "until": until.isoformat(),
        "total": {name: sum(row[f"{name}_sum"] for row in limits) for name in FIELDS},
        "limits": sorted(map(_plain, limits), key=lambda row: (-row["refused"], row["policy"])),
        "refused": [
            {"policy": row["policy"], "who": row["who"], "refused": row["refusals"]}
            for row in offenders
        ],
        "times": [_plain(row) | {"start": row["start"].isoformat()} for row in by_time],
    }


def _sums(fields: Iterable[str]) -> dict[str, models.Sum]:
    return {f"{name}_sum": models.Sum(name) for name in fields}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name.removesuffix("_sum"): value for name, value in row.items()}
