"""What the admin and the commands do for somebody: block, unblock, begin their counts again."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from tollway import ConfigError
from tollway.django import conf
from tollway.django.database import DatabaseSource
from tollway.django.inventory import Standing, Stated, Who, inventory, standings

NOT_FOLLOWED = (
    'rules in the database are not in force: set RATELIMIT_RULES = "database", or to a '
    "DatabaseSource"
)
IN_MEMORY = (
    "these counts are in the memory of the server's processes, where nothing else can change "
    "them: {names}. Use shm://, redis:// or a database to share them"
)


def followed() -> bool:
    """Whether the rows of the database are the rules in force."""
    return isinstance(conf.current().settings.rules, DatabaseSource)


def block(who: str, until: datetime | None = None, note: str = "") -> Any:
    """Turn somebody away; the row, new or changed. Raises ValidationError on who cannot be."""
    from tollway.django.models import AccessEntry

    made = AccessEntry(access="deny", who=who, until=until, note=note)
    made.full_clean()
    known = AccessEntry.objects.filter(access="deny", who=made.who).first()
    if known is not None:
        known.until, known.note, known.enabled = until, note or known.note, True
        made = known
    made.save()
    return made


def blocks_of(who: str) -> Any:
    """The rows that turn exactly them away."""
    from tollway.django.models import AccessEntry

    spelled = AccessEntry(who=who)
    spelled.clean()
    return AccessEntry.objects.filter(access="deny", who=spelled.who)


def reset(
    who: Who, limits: Iterable[Stated] | None = None, *, dry_run: bool = False
) -> list[Standing]:
    """Begin the counts of somebody again; what they had been. Two round trips for each limit.

    With ``dry_run`` they go on.

    Raises ConfigError when the counts are in the memory of other processes.
    """
    limits = list(inventory() if limits is None else limits)
    reachable = [one for one in limits if not one.in_memory]
    if limits and not reachable:
        raise ConfigError(IN_MEMORY.format(names=", ".join(one.name for one in limits[:3])))
    found = list(standings(who, reachable, counts=False))
    for standing in [] if dry_run else found:
        standing.stated.limiter.reset(standing.policy, standing.key)
    return found


def unblock(who: str, *, dry_run: bool = False) -> tuple[int, list[Standing]]:
    """Let somebody in again: take blocks of theirs away, and begin their counts again.

    What there is of both; with ``dry_run`` it stays there.
    """
    lifted = 0
    with suppress(ValidationError):  # a key as it is counted: no list names it
        blocks = blocks_of(who)
        if dry_run:
            lifted = blocks.count()
        else:
            with transaction.atomic(using=blocks.db):
                lifted = blocks.delete()[0]
    try:
        somebody = Who(who)
    except ConfigError:
        if "/" not in who:
            raise
        return lifted, []  # a network: limits count single addresses
    shared = [one for one in inventory() if not one.in_memory]
    return lifted, reset(somebody, shared, dry_run=dry_run)
