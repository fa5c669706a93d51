"""``manage.py ratelimit_list``: the limits of the project, and what they have counted."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from tollway.django.command import NO, RateLimitCommand
from tollway.django.inventory import Who, inventory, standings


class Command(RateLimitCommand):
    """Without WHO it lists limits, with WHO what is left to them."""

    help = (
        "List the limits of decorators, throttles, middleware and rules by path; or, for "
        "somebody, what each has left to them. WHO is an address, user:ID, org:ID, key:HASH, or "
        "a key as it is counted."
    )
    no = "nothing was found"
    examples = ("", "user:7", "203.0.113.7 --match login --json")

    def describe(self, parser: CommandParser) -> None:
        """``WHO`` and ``--match``."""
        parser.add_argument("who", nargs="?", metavar="WHO", help="whose counts to show")
        parser.add_argument("--match", default="", help="only limits whose names contain this")

    def act(self, **options: Any) -> list[dict[str, Any]]:
        """Limits, or counts."""
        limits = [one for one in inventory() if options["match"] in one.name]
        if options["who"] is None:
            found = [one.as_dict() for one in limits]
        else:
            reachable = [one for one in limits if not one.in_memory]
            if len(reachable) < len(limits):
                names = ", ".join(one.name for one in limits if one.in_memory)
                told = f"in the memory of the server's processes, not to be seen here: {names}"
                self.stderr.write(self.style.WARNING(told))
            found = [one.as_dict() for one in standings(Who(options["who"]), reachable)]
        if not found:
            raise CommandError("no limit was found", returncode=NO)
        return found

    def show(self, found: Any, **options: Any) -> None:
        """A table."""
        if options["who"] is None:
            self.table(found, ("name", "rate", "by", "algorithm", "backend", "where"))
        else:
            columns = ("limit", "key", "allowed", "remaining", "of", "retry_after", "rule")
            self.table(found, columns)
