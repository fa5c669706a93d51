"""``manage.py validate_config``: whether settings, decorators and rows can work."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core import checks
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, models

from tollway import ConfigError
from tollway.django import settings
from tollway.django.command import NO, RateLimitCommand
from tollway.django.database import DatabaseSource, stored
from tollway.django.inventory import inventory
from tollway.rules import Rules


class Command(RateLimitCommand):
    """The system checks of Tollway, and the rows of the database."""

    help = (
        "Check settings, decorators, throttles and middleware, and every row of the database, "
        "and say what cannot work and what is doubtful."
    )
    no = "something cannot work (or is doubtful, with --strict)"
    examples = ("", "--strict --json")

    def describe(self, parser: CommandParser) -> None:
        """``--strict``."""
        parser.add_argument("--strict", action="store_true", help="end with 1 on warnings as well")

    def act(self, **options: Any) -> list[dict[str, Any]]:
        """Check all."""
        found = [_told(one) for one in checks.run_checks(tags=["ratelimit"])]
        # Not where the checks have said that they cannot be listed.
        if not any(one["level"] == "error" or one["where"] == "tollway.W005" for one in found):
            found += _of_views()
        found += _of_rows()
        levels = ("error", "warning") if options["strict"] else ("error",)
        wrong = sum(one["level"] in levels for one in found)
        if wrong:
            self.tell(found, **options)
            raise CommandError(f"{wrong} found, see above", returncode=NO)
        return found

    def show(self, found: Any, **options: Any) -> None:
        """One line for each."""
        styles = {"error": self.style.ERROR, "warning": self.style.WARNING}
        for one in found:
            style = styles.get(one["level"], self.style.NOTICE)
            self.stdout.write(style(f"{one['level']}: {one['where']}: {one['message']}"))
            if one["hint"]:
                self.stdout.write(f"  {one['hint']}")
        if not any(one["level"] == "error" for one in found):
            self.stdout.write(self.style.SUCCESS("settings, code and rows can work"))


def _told(message: checks.CheckMessage) -> dict[str, Any]:
    level = "error" if message.level >= checks.ERROR else "warning"
    if message.level < checks.WARNING:
        level = "note"
    return {
        "level": level,
        "where": message.id,
        "message": str(message.msg),
        "hint": None if message.hint is None else str(message.hint),
    }


def _of_views() -> list[dict[str, Any]]:
    """What keeps the limits of views from being listed."""
    try:
        inventory()
    except (ConfigError, ImproperlyConfigured) as error:
        return [_wrong("the limits of views", str(error))]
    return []


def _of_rows() -> list[dict[str, Any]]:
    """What the engine says of the rows, one by one and together."""
    from tollway.django.models.revision import RULES, Followed

    ours = apps.get_app_config("tollway").get_models()
    kinds = [kind for kind in ours if issubclass(kind, Followed) and RULES in kind.revisions]
    try:
        found = [
            told for kind in kinds for row in kind._default_manager.all() if (told := _row(row))
        ]
        if not found:
            Rules(stored())
    except ConfigError as error:
        return [_wrong("the database", str(error))]
    except DatabaseError as error:
        if isinstance(settings.read()[0].rules, DatabaseSource):
            raise
        text = f"{error}: run `manage.py migrate` to keep rules in the database"
        return [_wrong("the database", text, "note")]
    return found


def _row(row: models.Model) -> dict[str, Any] | None:
    try:
        row.clean()
    except ValidationError as error:
        said = "; ".join(text for texts in error.message_dict.values() for text in texts)
        return _wrong(f"{row._meta.verbose_name} {row}", said)
    return None


def _wrong(where: str, message: str, level: str = "error") -> dict[str, Any]:
    return {"level": level, "where": where, "message": message, "hint": None}
