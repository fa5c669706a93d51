"""``manage.py ratelimit_unblock``: let somebody in again."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from tollway.django.command import NO, RateLimitCommand
from tollway.django.remedies import unblock


class Command(RateLimitCommand):
    """Blocks and counts, in one step."""

    help = (
        "Let somebody in again: delete the entries that deny them, and begin their counts at "
        "every limit again. WHO is an address, a network, user:ID, org:ID or key:HASH."
    )
    no = "nobody had been blocked, and nothing counted"
    examples = ("203.0.113.7", "user:7 --dry-run")
    changes = True

    def describe(self, parser: CommandParser) -> None:
        """``WHO``."""
        parser.add_argument("who", metavar="WHO", help="whom to let in")

    def act(self, **options: Any) -> dict[str, Any]:
        """Unblock; what was lifted."""
        who = options["who"]
        blocks, counts = unblock(who, dry_run=options["dry_run"])
        if not blocks and not counts:
            raise CommandError(f"{who} was not blocked, and nothing is counted", returncode=NO)
        return {"who": who, "entries": blocks, "counts": [one.as_dict() for one in counts]}

    def show(self, found: Any, **options: Any) -> None:
        """What was lifted."""
        if found["entries"]:
            self.done(f"deleted {found['entries']} entries that deny {found['who']}", **options)
        for one in found["counts"]:
            self.done(f"reset {one['key']} at {one['limit']}", **options)
