"""``manage.py ratelimit_override``: another rate for somebody."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from tollway.django.command import NO, RateLimitCommand, moment
from tollway.django.remedies import NOT_FOLLOWED, followed


class Command(RateLimitCommand):
    """The overrides in the database."""

    help = (
        "List and change exceptions: another rate for somebody, for a time or for ever. WHO is "
        "an address, a network, user:ID, org:ID or key:HASH."
    )
    no = "no override is about them"
    examples = (
        "list",
        "add user:42 1000/m --until 7d --note 'migration of their data'",
        "add org:acme unlimited --limit search",
        "remove user:42",
    )

    def describe(self, parser: CommandParser) -> None:
        """Three actions."""
        add = self.actions(parser)
        add("list", "list the overrides")
        new = add("add", "add an override, or change the one there is", changes=True)
        new.add_argument("who", metavar="WHO", help="whom it is about")
        new.add_argument("rate", metavar="RATE", help="such as 1000/m, or unlimited")
        new.add_argument("--limit", default="", help="only for this limit (default: all)")
        new.add_argument("--level", default="", help="only for this level of it")
        new.add_argument("--algorithm", default="", help="such as sliding_window")
        new.add_argument("--from", dest="starts", help="a span such as 2h, or a date")
        new.add_argument("--until", help="such as 7d or a date (default: for ever)")
        new.add_argument("--note", default="", help="why, for your colleagues")
        remove = add("remove", "delete the overrides for somebody", changes=True)
        remove.add_argument("who", metavar="WHO", help="whom it is about")
        remove.add_argument("--limit", help="only the one for this limit")

    def act(self, **options: Any) -> Any:
        """One of the three."""
        return getattr(self, f"_{options['action']}")(**options)

    def _list(self, **options: Any) -> list[dict[str, Any]]:
        from tollway.django.models import Override

        return [_row(one) for one in Override.objects.all()]

    def _add(self, **options: Any) -> dict[str, Any]:
        from tollway.django.models import Override

        given = {name: options[name] for name in ("rate", "level", "algorithm", "note")}
        for name in ("starts", "until"):
            given[name] = moment(options[name]) if options[name] else None
        made = Override(who=options["who"], limit=options["limit"], **given)
        made.full_clean()
        known = Override.objects.filter(who=made.who, limit=made.limit, level=made.level).first()
        if known is not None:
            made.pk, made.created = known.pk, known.created
        if not options["dry_run"]:
            made.save()
        return _row(made) | {"changed": known is not None}

    def _remove(self, **options: Any) -> dict[str, Any]:
        from tollway.django.models import Override

        spelled = Override(who=options["who"], rate="1/s")
        spelled.clean()
        rows = Override.objects.filter(who=spelled.who)
        if options["limit"] is not None:
            rows = rows.filter(limit=options["limit"])
        number = rows.count()
        if not number:
            raise CommandError(f"no override is about {spelled.who}", returncode=NO)
        if not options["dry_run"]:
            rows.delete()
        return {"who": spelled.who, "removed": number}

    def show(self, found: Any, **options: Any) -> None:
        """For people."""
        if options["action"] == "list":
            self.table(found, ("who", "limit", "rate", "from", "until", "note", "enabled"))
        elif options["action"] == "remove":
            self.done(f"deleted {found['removed']} overrides for {found['who']}", **options)
        else:
            where = found["limit"] or "every limit"
            until = f" until {found['until']}" if found["until"] else ""
            self.done(f"{found['who']} has {found['rate']} at {where}{until}", **options)
        if not followed():
            self.stderr.write(self.style.WARNING(NOT_FOLLOWED))


def _row(one: Any) -> dict[str, Any]:
    return {
        "who": one.who,
        "limit": one.limit,
        "level": one.level,
        "rate": one.rate,
        "algorithm": one.algorithm,
        "from": None if one.starts is None else one.starts.isoformat(),
        "until": None if one.until is None else one.until.isoformat(),
        "note": one.note,
        "enabled": one.enabled,
    }
