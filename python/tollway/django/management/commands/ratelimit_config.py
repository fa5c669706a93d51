"""``manage.py ratelimit_config``: settings and limits, shown and changed."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from django.core.management.base import CommandError, CommandParser

from tollway.django import conf
from tollway.django.command import MISTAKEN, RateLimitCommand, near, pick
from tollway.django.remedies import NOT_FOLLOWED, followed
from tollway.django.settings import SETTINGS, Settings

_PASSWORD: Final = re.compile(r"(?<=:)[^:@/\s]*(?=@)")
_SECRET: Final = ("jwt",)
_SETTABLE: Final = ("rate", "algorithm", "by", "paths", "shadow", "enforce", "enabled", "note")
_WORDS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Command(RateLimitCommand):
    """Settings are read only; limits are rows."""

    help = "Show the settings in force, and show and change the limits in the database."
    no = "never"
    examples = (
        "show",
        "show search",
        "set search rate=100/m algorithm=sliding_window",
        "set uploads rate=5/m by=user 'paths=POST /upload/'",
        "set search shadow=yes --dry-run",
        "remove search",
        "reload",
    )

    def describe(self, parser: CommandParser) -> None:
        """Four actions."""
        add = self.actions(parser)
        show = add("show", "show settings and limits, or one limit")
        show.add_argument("name", nargs="?", metavar="LIMIT", help="the name of a limit")
        change = add("set", "make or change a limit in the database", changes=True)
        change.add_argument("name", metavar="LIMIT", help="the name of a limit")
        change.add_argument(
            "values", nargs="+", metavar="NAME=VALUE", help=f"any of {', '.join(_SETTABLE)}"
        )
        remove = add("remove", "delete a limit from the database", changes=True)
        remove.add_argument("name", metavar="LIMIT", help="the name of a limit")
        add("reload", "have every process read rules and API keys again", changes=True)

    def act(self, **options: Any) -> Any:
        """One of the four."""
        return getattr(self, f"_{options['action']}")(**options)

    def _show(self, **options: Any) -> dict[str, Any]:
        from tollway.django.models import LimitRule

        rows = {row.name: row for row in LimitRule.objects.prefetch_related(*LimitRule.parts)}
        limits = {name: row.data() | {"enabled": row.enabled} for name, row in rows.items()}
        if options["name"] is not None:
            name = pick("limit in the database", options["name"], list(limits))
            return {"limits": {name: limits[name]}, "in_force": followed()}
        settings, defaults = conf.current().settings, Settings()
        shown = {}
        for item in fields(Settings):
            value = getattr(settings, item.name)
            name = f"RATELIMIT_{item.name.upper()}"
            stated = value != getattr(defaults, item.name)
            shown[name] = {"value": _plain(item.name, value), "changed": stated}
        known = {name: shown[name] for name in SETTINGS if name in shown}
        return {"settings": known, "limits": limits, "in_force": followed()}

    def _set(self, **options: Any) -> dict[str, Any]:
        from tollway.django.models import LimitRule

        row = LimitRule.objects.filter(name=options["name"]).first()
        made = LimitRule(name=options["name"]) if row is None else row
        for stated in options["values"]:
            name, equals, value = stated.partition("=")
            if not equals or name not in _SETTABLE:
                told = f"{stated!r} is not NAME=VALUE with a name of {', '.join(_SETTABLE)}"
                raise CommandError(told + near(name, _SETTABLE), returncode=MISTAKEN)
            setattr(made, name, _value(name, value))
        made.full_clean()
        if not options["dry_run"]:
            made.save()
        return {"name": made.name, "made": row is None, "limit": made.data()}

    def _remove(self, **options: Any) -> dict[str, Any]:
        from tollway.django.models import LimitRule

        names = list(LimitRule.objects.values_list("name", flat=True))
        name = pick("limit in the database", options["name"], names)
        if not options["dry_run"]:
            LimitRule.objects.filter(name=name).delete()
        return {"name": name, "removed": True}

    def _reload(self, **options: Any) -> dict[str, Any]:
        from tollway.django.models import Revision

        if not options["dry_run"]:
            for name in ("rules", "keys"):
                Revision.bump(name)
        return {"reloaded": ["rules", "keys"]}

    def show(self, found: Any, **options: Any) -> None:
        """For people."""
        if options["action"] == "show":
            self._print(found)
            return
        if options["action"] == "reload":
            self.done("told every process to read rules and API keys again", **options)
        elif options["action"] == "remove":
            self.done(f"removed {found['name']}", **options)
        else:
            verb = "made" if found["made"] else "changed"
            said = ", ".join(f"{name}={value}" for name, value in found["limit"].items())
            self.done(f"{verb} {found['name']}: {said or 'nothing of its own'}", **options)
        if not followed():
            self.stderr.write(self.style.WARNING(NOT_FOLLOWED))

    def _print(self, found: Any) -> None:
        settings = found.get("settings", {})
        rows = [
            {"setting": name, "value": one["value"], "from": "settings" if one["changed"] else ""}
            for name, one in settings.items()
        ]
        if rows:
            self.table(rows, ("setting", "value", "from"))
            self.stdout.write("")
        for name, limit in found["limits"].items():
            self.stdout.write(self.style.MIGRATE_LABEL(name))
            for key, value in limit.items():
                self.stdout.write(f"  {key}: {value}")
        if found["limits"] and not found["in_force"]:
            self.stderr.write(self.style.WARNING(NOT_FOLLOWED))


def _value(name: str, text: str) -> Any:
    if name in ("shadow", "enabled"):
        if text.lower() not in _WORDS:
            raise CommandError(f"{name}={text}: write yes or no", returncode=MISTAKEN)
        return _WORDS[text.lower()]
    if name == "enforce":
        return _share(text.removesuffix("%"))
    if name == "paths":
        return "\n".join(part.strip() for part in text.split(","))
    return text


def _share(text: str) -> Decimal | None:
    if not text:
        return None
    with suppress(InvalidOperation):
        found = Decimal(text)
        if found.is_finite() and 0 <= found <= 100:
            return found
    raise CommandError(f"enforce={text}: write a percentage such as 25", returncode=MISTAKEN)


def _plain(name: str, value: Any) -> str:
    """A value for people to read, without passwords and secrets."""
    if name in _SECRET and value is not None:
        return "(set)"
    if isinstance(value, tuple):
        return ", ".join(_PASSWORD.sub("***", str(one)) for one in value)
    return "" if value is None else _PASSWORD.sub("***", str(value))
