"""``manage.py ratelimit_reset``: begin somebody's counts again."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from tollway.django.command import MISTAKEN, NO, RateLimitCommand, pick
from tollway.django.inventory import Stated, Who, inventory
from tollway.django.remedies import IN_MEMORY, reset


class Command(RateLimitCommand):
    """For somebody, or for all keys that begin alike."""

    help = (
        "Begin the counts of somebody again, at every limit or at those that --limit names. WHO "
        "is an address, user:ID, org:ID, key:HASH, or a key as it is counted. Other processes "
        "may refuse for up to RATELIMIT_NEAR_CACHE seconds more."
    )
    no = "nothing had been counted"
    examples = ("user:7", "203.0.113.7 --limit login --dry-run", "--prefix user: --limit login")
    changes = True

    def describe(self, parser: CommandParser) -> None:
        """``WHO``, ``--prefix`` and ``--limit``."""
        parser.add_argument("who", nargs="?", metavar="WHO", help="whose counts")
        parser.add_argument("--prefix", help="instead of WHO: all keys that begin so")
        parser.add_argument(
            "--limit", action="append", default=[], help="only this one; can be repeated"
        )

    def act(self, **options: Any) -> Any:
        """Reset; what the counts had been."""
        if (options["who"] is None) == (options["prefix"] is None):
            raise CommandError("name WHO, or --prefix", returncode=MISTAKEN)
        limits = inventory()
        if options["limit"]:
            names = [one.name for one in limits]
            wanted = {pick("limit", name, names) for name in options["limit"]}
            limits = [one for one in limits if one.name in wanted]
        if options["prefix"] is not None:
            return self._prefix(limits, **options)
        who = Who(options["who"])
        found = reset(who, limits, dry_run=options["dry_run"])
        if not found:
            raise CommandError(f"nothing is counted for {who.text}", returncode=NO)
        return [one.as_dict() for one in found]

    def _prefix(self, limits: list[Stated], **options: Any) -> list[dict[str, Any]]:
        if not options["limit"]:
            raise CommandError("--prefix needs --limit", returncode=MISTAKEN)
        if any(one.in_memory for one in limits):
            names = ", ".join(one.name for one in limits)
            raise CommandError(IN_MEMORY.format(names=names), returncode=MISTAKEN)
        for one in limits:
            if one.policy is None:
                told = f"a function says what {one.name} allows: it is not reset by --prefix"
                raise CommandError(told, returncode=MISTAKEN)
        for one in limits:
            if one.policy is not None and not options["dry_run"]:
                one.limiter.reset(one.policy, prefix=options["prefix"])
        prefix = f"{options['prefix']}*"
        return [{"limit": one.name, "key": prefix, "remaining": None} for one in limits]

    def show(self, found: Any, **options: Any) -> None:
        """One line for each count."""
        for one in found:
            self.done(f"reset {one['key']} at {one['limit']}", **options)
