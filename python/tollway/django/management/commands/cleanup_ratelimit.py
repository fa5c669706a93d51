"""``manage.py cleanup_ratelimit``: delete what is over."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.db.models import Q, QuerySet
from django.utils import timezone

from tollway.django.command import RateLimitCommand, moment, within


class Command(RateLimitCommand):
    """Deletes in small batches, so that nothing waits for it."""

    help = (
        "Delete what is over: counts that have expired, usage, ended overrides and access "
        "entries, and ended API keys that are older than --keep."
    )
    examples = ("", "--dry-run", "--keep 90d --batch-size 500")
    changes = True

    def describe(self, parser: CommandParser) -> None:
        """``--batch-size`` and ``--keep``."""
        parser.add_argument(
            "--batch-size", type=int, default=1000, help="rows of one DELETE (default: 1000)"
        )
        parser.add_argument(
            "--keep",
            default="30d",
            help="how long usage and what has ended is kept, such as 90d (default: 30d)",
        )

    def act(self, **options: Any) -> dict[str, int]:
        """Delete; how many rows of each table."""
        size = within("--batch-size", options["batch_size"], 1, 100_000)
        over = _over(moment(options["keep"], past=True))
        totals = {name: rows.count() for name, rows in over.items()}
        if options["dry_run"]:
            return totals
        deleted = dict.fromkeys(over, 0)
        with self.progress(sum(totals.values()), "rows") as step:
            for name, rows in over.items():
                while keys := list(rows.values_list("pk", flat=True)[:size]):
                    rows.model._default_manager.using(rows.db).filter(pk__in=keys).delete()
                    deleted[name] += len(keys)
                    step(len(keys))
        return deleted

    def show(self, found: Any, **options: Any) -> None:
        """One line for each table."""
        for name, number in found.items():
            self.done(f"deleted {number} {name}", **options)


def _over(before: Any) -> dict[str, QuerySet[Any]]:
    from tollway.django import models

    ended = Q(until__lt=before)
    return {
        "expired counts": models.State.objects.filter(expires__lt=timezone.now()).order_by(),
        "sums of usage": models.Usage.objects.filter(start__lt=before).order_by(),
        "refused clients": models.Offender.objects.filter(start__lt=before).order_by(),
        "ended overrides": models.Override.objects.filter(ended).order_by(),
        "ended access entries": models.AccessEntry.objects.filter(ended).order_by(),
        "ended API keys": models.APIKey.objects.filter(
            Q(revoked__lt=before) | Q(expires__lt=before)
        ).order_by(),
    }
