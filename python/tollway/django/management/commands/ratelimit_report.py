"""``manage.py ratelimit_report``: what was allowed and refused, and who was refused most."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from tollway.django import conf
from tollway.django.command import MISTAKEN, RateLimitCommand, moment, within
from tollway.django.usage import FIELDS, report

_COLUMNS = ("policy", *FIELDS, "share")


class Command(RateLimitCommand):
    """Reads what ``RATELIMIT_USAGE`` has summed up."""

    help = (
        "Report what was allowed and refused, limit by limit, and who was refused most. "
        "RATELIMIT_USAGE = True has it summed up, in steps of ten minutes."
    )
    examples = ("--since 2h", "--since 2027-01-01 --until 2027-02-01 --format csv > january.csv")

    def describe(self, parser: CommandParser) -> None:
        """Time, limits and form."""
        parser.add_argument("--since", default="24h", help="such as 2h or a date (default: 24h)")
        parser.add_argument("--until", help="a date or time (default: now)")
        parser.add_argument("--limit", default="", help="only limits whose names begin so")
        parser.add_argument(
            "--top", type=int, default=10, help="how many refused clients to name (default: 10)"
        )
        parser.add_argument(
            "--format", choices=("text", "json", "csv"), default="text", help="(default: text)"
        )

    def act(self, **options: Any) -> dict[str, Any]:
        """Sum up."""
        since = moment(options["since"], past=True)
        until = timezone.now()
        if options["until"]:
            until = moment(options["until"], past=True)
        if since >= until:
            raise CommandError("--since is not before --until", returncode=MISTAKEN)
        top = within("--top", options["top"], 0, 100_000)
        return report(since, until, policy=options["limit"], top=top)

    def tell(self, found: Any, **options: Any) -> None:
        """In the form that was asked for."""
        if options["format"] == "csv" and not options["json"]:
            self.write_csv(found["limits"], _COLUMNS)
        else:
            options["json"] = options["json"] or options["format"] == "json"
            super().tell(found, **options)

    def show(self, found: Any, **options: Any) -> None:
        """Two tables."""
        self.stdout.write(f"from {found['since']} until {found['until']}")
        if not found["limits"]:
            self.stdout.write("nothing was summed up in that time")
            if not conf.current().settings.usage:
                self.stdout.write(self.style.WARNING("RATELIMIT_USAGE is off: set it to True"))
            return
        rows = [row | {"share": f"{row['share']:.1%}"} for row in found["limits"]]
        total = {"policy": "all", **found["total"]}
        self.table([*rows, total], _COLUMNS)
        if found["refused"]:
            self.stdout.write("")
            self.table(found["refused"], ("who", "policy", "refused"))
