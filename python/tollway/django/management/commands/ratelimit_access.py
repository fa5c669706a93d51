"""``manage.py ratelimit_access``: who is turned away, and who is never counted."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from tollway import ConfigError
from tollway.django.command import NO, RateLimitCommand, moment
from tollway.django.database import stored
from tollway.django.inventory import Who
from tollway.django.remedies import NOT_FOLLOWED, followed
from tollway.rules import AccessList


class Command(RateLimitCommand):
    """The access list in the database."""

    help = (
        "List and change who is turned away (deny: 403) and who is never counted (allow). WHO is "
        "an address, a network, user:ID, org:ID or key:HASH."
    )
    no = "no entry is about them"
    examples = (
        "list",
        "add deny 203.0.113.0/24 --until 12h --note 'scraper'",
        "add allow 10.0.0.0/8",
        "remove 203.0.113.0/24",
        "check 203.0.113.7",
    )

    def describe(self, parser: CommandParser) -> None:
        """Four actions."""
        add = self.actions(parser)
        add("list", "list the entries")
        new = add("add", "add an entry, or change the one there is", changes=True)
        new.add_argument("access", choices=("deny", "allow"), help="403, or never counted")
        new.add_argument("who", metavar="WHO", help="whom it is about")
        new.add_argument("--until", help="such as 12h or a date (default: for ever)")
        new.add_argument("--note", default="", help="why, for your colleagues")
        remove = add("remove", "delete the entries about somebody", changes=True)
        remove.add_argument("who", metavar="WHO", help="whom it is about")
        check = add("check", "say which entry speaks for somebody")
        check.add_argument("who", metavar="WHO", help="whom it is about")

    def act(self, **options: Any) -> Any:
        """One of the four."""
        return getattr(self, f"_{options['action']}")(**options)

    def _list(self, **options: Any) -> list[dict[str, Any]]:
        from tollway.django.models import AccessEntry

        return [_row(entry) for entry in AccessEntry.objects.all()]

    def _add(self, **options: Any) -> dict[str, Any]:
        from tollway.django.models import AccessEntry

        until = moment(options["until"]) if options["until"] else None
        made = AccessEntry(access=options["access"], who=options["who"], note=options["note"])
        made.full_clean()
        known = AccessEntry.objects.filter(access=made.access, who=made.who).first()
        made = known or made
        made.until, made.note, made.enabled = until, options["note"] or made.note, True
        if not options["dry_run"]:
            made.save()
        return _row(made) | {"changed": known is not None}

    def _remove(self, **options: Any) -> dict[str, Any]:
        from tollway.django.models import AccessEntry

        spelled = AccessEntry(who=options["who"])
        spelled.full_clean()
        rows = AccessEntry.objects.filter(who=spelled.who)
        number = rows.count()
        if not number:
            raise CommandError(f"no entry is about {spelled.who}", returncode=NO)
        if not options["dry_run"]:
            rows.delete()
        return {"who": spelled.who, "removed": number}

    def _check(self, **options: Any) -> dict[str, Any]:
        who = Who(options["who"])
        if who.subject is None:
            raise ConfigError(f"{who.text!r} is no address, user:ID, org:ID or key:HASH")
        rows = stored()
        judged = AccessList([*rows.get("deny", ()), *rows.get("allow", ())]).judge(who.subject)
        if judged is None:
            raise CommandError(f"no entry is about {who.text}", returncode=NO)
        return {"who": who.text, "entry": judged}

    def show(self, found: Any, **options: Any) -> None:
        """For people."""
        if options["action"] == "list":
            self.table(found, ("access", "who", "until", "note", "enabled"))
        elif options["action"] == "check":
            self.stdout.write(f"{found['who']}: {found['entry']}")
        elif options["action"] == "remove":
            self.done(f"deleted {found['removed']} entries about {found['who']}", **options)
        else:
            until = f" until {found['until']}" if found["until"] else ""
            self.done(f"{found['access']} {found['who']}{until}", **options)
        if not followed():
            self.stderr.write(self.style.WARNING(NOT_FOLLOWED))


def _row(entry: Any) -> dict[str, Any]:
    return {
        "access": entry.access,
        "who": entry.who,
        "until": None if entry.until is None else entry.until.isoformat(),
        "note": entry.note,
        "enabled": entry.enabled,
    }
