"""What the commands of ``manage.py`` share: options, exit codes, tables, times, progress.

Exit codes are the same for all: 0 done, 1 the answer is no, 2 the call was mistaken, 3 a backend
or the database does not answer.
"""

from __future__ import annotations

import csv
import json
import re
from argparse import SUPPRESS, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import MAXYEAR, MINYEAR, datetime, time, timedelta
from difflib import get_close_matches
from typing import Any, Final, NoReturn

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from tollway import ConfigError
from tollway.errors import StoreError

NO: Final = 1
MISTAKEN: Final = 2
AWAY: Final = 3

CODES: Final = """\
exit codes:
  0  done
  1  {no}
  2  the call was mistaken: an unknown name, a bad rate, a bad time
  3  a backend or the database does not answer"""

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_CHOICE: Final = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")


class Parser(CommandParser):
    """Says what was probably meant."""

    def error(self, message: str) -> NoReturn:
        """End with the usual message and a suggestion."""
        choice = _CHOICE.search(message)
        if choice is not None:
            known = re.findall(r"[\w-]+", choice[2])
            message += near(choice[1], known)
        elif message.startswith("unrecognized arguments: "):
            known = [option for action in self._actions for option in action.option_strings]
            message += near(message.split()[2], known)
        super().error(message)
        raise AssertionError("CommandParser.error() does not return")


def near(word: str, known: Iterable[str]) -> str:
    """``". Did you mean 'x'?"``, or nothing."""
    found = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f". Did you mean {found[0]!r}?" if found else ""


def pick(what: str, word: str, known: Sequence[str]) -> str:
    """``word`` if it is known; else a CommandError that suggests the nearest."""
    if word in known:
        return word
    raise CommandError(f"there is no {what} {word!r}{near(word, known)}", returncode=MISTAKEN)


def moment(text: str, *, past: bool = False) -> datetime:
    """A time as people write it: ``2h``, ``1d12h`` from now (or ago), or an ISO date or time.

    Raises CommandError that says what can be written.
    """
    try:
        found = _moment(text, past=past)
    except (ValueError, OverflowError):  # a date that no calendar has
        found = None
    # The first and the last year are not whole in every time zone.
    if found is None or not MINYEAR < found.year < MAXYEAR:
        raise CommandError(
            f"{text!r} is no time: write a span such as 2h or 1d12h, a date such as 2027-01-31, "
            "or a time such as 2027-01-31T12:00:00Z",
            returncode=MISTAKEN,
        )
    if timezone.is_naive(found) == settings.USE_TZ:
        found = timezone.make_aware(found) if settings.USE_TZ else timezone.make_naive(found)
    return found


def _moment(text: str, *, past: bool) -> datetime | None:
    parts = re.findall(r"(\d+)([smhdw])", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        span = timedelta(**{_UNITS[unit]: int(number) for number, unit in parts})
        return timezone.now() - span if past else timezone.now() + span
    found = parse_datetime(text)
    day = parse_date(text) if found is None else None
    return found if day is None else datetime.combine(day, time.min)


def within(option: str, value: int, least: int, most: int) -> int:
    """``value``, or a CommandError that says from where to where it is."""
    if not least <= value <= most:
        raise CommandError(f"{option} is from {least} to {most}", returncode=MISTAKEN)
    return value


class RateLimitCommand(BaseCommand):
    """A command: ``describe`` its options, and ``act``.

    ``act`` returns what happened, ready for JSON; ``show`` prints it for people. To answer no, it
    raises CommandError.
    """

    no = "never"
    """When the command ends with 1."""
    examples: Sequence[str] = ()
    changes = False
    """Whether it changes something, and so takes ``--dry-run``."""
    requires_system_checks: list[str] = []  # type: ignore[assignment, unused-ignore]

    def create_parser(self, prog_name: str, subcommand: str, **named: Any) -> CommandParser:
        """As Django's, with examples and exit codes below the options."""
        lines = [f"  $ python manage.py {subcommand} {example}" for example in self.examples]
        epilog = "\n".join(["examples:", *lines, "", CODES.format(no=self.no)])
        parser = super().create_parser(
            prog_name, subcommand, epilog=epilog, formatter_class=_Formatter, **named
        )
        # Django names the class itself; its sub-parsers are made of the parser's own.
        parser.__class__ = Parser
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        """The command's own options, ``--json`` and ``--dry-run``."""
        self.describe(parser)
        if parser._subparsers is None:
            self.common(parser, changes=self.changes)

    def common(self, parser: CommandParser, *, changes: bool) -> None:
        """The options that all have; for each sub-command."""
        parser.add_argument("--json", action="store_true", help="print JSON, for programs")
        if changes:
            parser.add_argument(
                "--dry-run", action="store_true", help="say what would be done, and do nothing"
            )

    def actions(self, parser: CommandParser) -> Callable[..., CommandParser]:
        """Sub-commands: a function of name, help and whether it changes something."""
        found = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

        def add(name: str, meaning: str, *, changes: bool = False) -> CommandParser:
            made: CommandParser = found.add_parser(name, help=meaning, description=meaning)
            self.common(made, changes=changes)
            for option in ("--settings", "--pythonpath", "--verbosity"):  # as before the action
                made.add_argument(option, help=SUPPRESS, default=SUPPRESS)
            for option in ("--traceback", "--no-color", "--force-color", "--skip-checks"):
                made.add_argument(option, action="store_true", help=SUPPRESS, default=SUPPRESS)
            return made

        return add

    def describe(self, parser: CommandParser) -> None:
        """Add the command's own options."""

    def act(self, **options: Any) -> Any:
        """Do it; what happened, ready for JSON."""
        raise CommandError("this command does nothing")

    def show(self, found: Any, **options: Any) -> None:
        """Print what happened."""

    def handle(self, *_arguments: Any, **options: Any) -> None:
        """Do it, print it, and turn what went wrong into exit codes."""
        options.setdefault("dry_run", False)
        try:
            found = self.act(**options)
        except ValidationError as error:
            said = getattr(error, "message_dict", {"": error.messages})
            lines = [f"{name}: {text}" for name, texts in said.items() for text in texts]
            raise CommandError("; ".join(lines).removeprefix(": "), returncode=MISTAKEN) from error
        except (ConfigError, ImproperlyConfigured) as error:
            raise CommandError(str(error), returncode=MISTAKEN) from error
        except StoreError as error:
            raise CommandError(str(error), returncode=AWAY) from error
        except DatabaseError as error:
            told = f"the database: {error}; has `manage.py migrate` been run?"
            raise CommandError(told, returncode=AWAY) from error
        self.tell(found, **options)

    def tell(self, found: Any, **options: Any) -> None:
        """Print what happened, for people or for programs."""
        if options["json"]:
            self.stdout.write(json.dumps(found, indent=2, default=str))
        else:
            self.show(found, **options)

    def table(self, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
        """Print rows in columns that are as wide as they need."""
        texts = [[_text(row.get(column)) for column in columns] for row in rows]
        heads = [column.replace("_", " ") for column in columns]
        widths = [max(map(len, cells)) for cells in zip(heads, *texts, strict=True)]
        line = "  ".join(head.ljust(width) for head, width in zip(heads, widths, strict=True))
        self.stdout.write(self.style.MIGRATE_HEADING(line.rstrip()))
        for cells in texts:
            line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            self.stdout.write(line.rstrip())

    def done(self, text: str, **options: Any) -> None:
        """Print what was done, or what would be."""
        if options["dry_run"]:
            self.stdout.write(self.style.WARNING(f"would have: {text}"))
        else:
            self.stdout.write(self.style.SUCCESS(text))

    def write_csv(self, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
        """Print rows as CSV."""
        made = csv.DictWriter(self.stdout, columns, extrasaction="ignore", lineterminator="\n")
        made.writeheader()
        made.writerows({name: _harmless(row.get(name)) for name in columns} for row in rows)

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[Callable[[int], None]]:
        """A bar on a terminal, nothing elsewhere: call what it yields with how much is done."""
        shown = total > 0 and getattr(self.stderr, "isatty", lambda: False)()
        done = 0

        def step(more: int) -> None:
            nonlocal done
            done += more
            if shown:
                filled = min(30, 30 * done // total)
                bar = "#" * filled + "." * (30 - filled)
                self.stderr.write(f"\r[{bar}] {done}/{total} {what}", ending="")

        try:
            yield step
        finally:
            if shown:
                self.stderr.write("")


class _Formatter(RawDescriptionHelpFormatter):
    """Keeps the lines of the examples, and shows Django's own options last."""

    def add_usage(self, usage: Any, actions: Any, *arguments: Any, **named: Any) -> None:
        super().add_usage(usage, _own_first(actions), *arguments, **named)

    def add_arguments(self, actions: Any) -> None:
        super().add_arguments(_own_first(actions))


_DJANGO: Final = frozenset(
    f"--{name}"
    for name in (
        *("version", "verbosity", "settings", "pythonpath", "traceback", "no-color"),
        *("force-color", "skip-checks"),
    )
)


def _own_first(actions: Iterable[Any]) -> list[Any]:
    return sorted(actions, key=lambda action: bool(_DJANGO & set(action.option_strings)))


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return timezone.localtime(value).strftime("%Y-%m-%d %H:%M")
    # Clients choose some of these texts: what would move a terminal is spelled out.
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(value)
    )


def _harmless(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: clients choose some of these texts."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value
