"""``manage.py ratelimit_keys``: API keys, issued, rotated and revoked."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from tollway import hash_identity
from tollway.django import conf
from tollway.django.command import NO, RateLimitCommand, moment, near, pick


class Command(RateLimitCommand):
    """A key is printed once, when it is issued or rotated."""

    help = (
        "List, issue, rotate and revoke API keys. A key is printed when it is issued and kept as "
        "a hash only. KEY is what it begins with, such as tw_Ab3dEf7h, or the whole key."
    )
    no = "no key is found, or it has ended"
    examples = (
        "list",
        "issue 'Acme, production' --owner user:7 --tier pro --scopes orders:read --expires 365d",
        "rotate tw_Ab3dEf7h --grace 7d",
        "revoke tw_Ab3dEf7h",
    )

    def describe(self, parser: CommandParser) -> None:
        """Four actions."""
        add = self.actions(parser)
        listed = add("list", "list the keys")
        listed.add_argument("--all", action="store_true", help="those that have ended, too")
        new = add("issue", "make a key and print it, once", changes=True)
        new.add_argument("name", metavar="NAME", help="whose it is, or what for")
        new.add_argument("--owner", default="", help="such as user:7, for your records")
        new.add_argument("--tier", help="the name of a tier")
        new.add_argument("--rate", default="", help="its own rate on every limit, such as 1000/m")
        new.add_argument("--scopes", default="", help="what it may do: words with spaces")
        new.add_argument("--expires", help="such as 365d or a date (default: never)")
        rotate = add("rotate", "make a key with the same rights, and end this one", changes=True)
        rotate.add_argument("key", metavar="KEY", help="its beginning, or all of it")
        rotate.add_argument("--grace", help="how long the old one is good, such as 7d (default: 0)")
        revoke = add("revoke", "end a key now", changes=True)
        revoke.add_argument("key", metavar="KEY", help="its beginning, or all of it")

    def act(self, **options: Any) -> Any:
        """One of the four."""
        return getattr(self, f"_{options['action']}")(**options)

    def _list(self, **options: Any) -> list[dict[str, Any]]:
        from tollway.django.models import APIKey

        rows = APIKey.objects.select_related("tier")
        return [_row(row) for row in rows if options["all"] or row.usable()]

    def _issue(self, **options: Any) -> dict[str, Any]:
        from tollway.django.models import APIKey, Tier

        tier = None
        if options["tier"]:
            names = list(Tier.objects.values_list("name", flat=True))
            tier = Tier.objects.get(name=pick("tier", options["tier"], names))
        expires = moment(options["expires"]) if options["expires"] else None
        given = {name: options[name] for name in ("name", "owner", "rate", "scopes")}
        if options["dry_run"]:
            made = APIKey(**given, tier=tier, expires=expires)
            made.renew()
            made.full_clean()
            return _row(made) | {"key": None}
        made, clear = APIKey.issue(**given, tier=tier, expires=expires)
        return _row(made) | {"key": clear}

    def _rotate(self, **options: Any) -> dict[str, Any]:
        row = _found(options["key"])
        if not row.usable():
            raise CommandError(f"{row.prefix} has ended: issue another", returncode=NO)
        grace = timedelta(0)
        if options["grace"]:
            grace = max(grace, moment(options["grace"]) - timezone.now())
        if options["dry_run"]:
            return _row(row) | {"key": None, "old": row.prefix}
        made, clear = row.rotate(grace)
        return _row(made) | {"key": clear, "old": row.prefix, "old_good": row.usable()}

    def _revoke(self, **options: Any) -> dict[str, Any]:
        row = _found(options["key"])
        if not options["dry_run"]:
            row.revoke()
        return _row(row)

    def show(self, found: Any, **options: Any) -> None:
        """For people."""
        if options["action"] == "list":
            columns = ("prefix", "name", "owner", "tier", "rate", "scopes", "expires", "last_used")
            self.table(found, (*columns, "good"))
        elif options["action"] == "revoke":
            self.done(f"revoked {found['prefix']} ({found['name']})", **options)
        elif options["dry_run"]:
            self.done(f"made a key for {found['name']}", **options)
        else:
            self.stdout.write(found["key"])
            told = "this is the only time that the key is shown"
            if options["action"] == "rotate":
                told += f"; {found['old']} " + ("ends later" if found["old_good"] else "has ended")
            self.stderr.write(self.style.WARNING(told))
        if not conf.current().settings.api_keys:
            self.stderr.write(
                self.style.WARNING("API keys are not asked for: set RATELIMIT_API_KEYS")
            )


def _found(text: str) -> Any:
    from tollway.django.models import APIKey

    rows = APIKey.objects.select_related("tier")
    found = rows.filter(hash=hash_identity(text)).first() or rows.filter(prefix=text).first()
    if found is None:
        prefixes = list(APIKey.objects.values_list("prefix", flat=True)[:1000])
        # What was typed may be a key in clear: it is not repeated.
        told = f"no such key{near(text, prefixes) if len(text) < 15 else ''}"
        raise CommandError(told, returncode=NO)
    return found


def _row(row: Any) -> dict[str, Any]:
    times = {name: getattr(row, name) for name in ("expires", "revoked", "last_used")}
    return {
        "prefix": row.prefix,
        "name": row.name,
        "owner": row.owner,
        "tier": None if row.tier is None else row.tier.name,
        "rate": row.rate,
        "scopes": row.scopes.split(),
        **{name: None if time is None else time.isoformat() for name, time in times.items()},
        "good": row.usable(),
    }
