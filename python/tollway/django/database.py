"""Rules from the project's database, followed by every process: ``RATELIMIT_RULES = "database"``.

A thread of each process asks for one number twice a second, and reads the rows when it has
changed. No request waits for the database.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final

from django.apps import apps
from django.db import DatabaseError, router
from django.db.models import Q
from django.utils import timezone

from tollway import ConfigError
from tollway.django.pool import follower
from tollway.rules import Rules

log = logging.getLogger("tollway.rules")

UNREAD: Final = -1
"""The number of what has not been read yet."""


class DatabaseSource:
    """A :class:`tollway.rules.Source`: the rows of the admin's pages.

    ``base`` is what holds besides, such as ``{"skip": ["/static/"]}``; a limit in the database
    takes the place of one of that name.
    """

    def __init__(self, base: Mapping[str, Any] | None = None) -> None:
        installed("rules")
        Rules(base or {})
        self.base = dict(base or {})
        self._members: dict[str, str] = {}

    def load(self, known: Any) -> tuple[Any, Any] | None:
        """The rules, if their number is no more the known one. One query, or ten.

        A database that is away, or has no tables yet, leaves a process that starts with ``base``
        only, until it answers.
        """
        try:
            found = follower.call(self._read, known)
        except DatabaseError as error:
            if known not in (None, UNREAD):
                raise
            log.error("rules in the database cannot be read yet: %s", error)
            return None if known == UNREAD else (UNREAD, self.base)
        if found is None:
            return None
        number, data, self._members = found
        return number, data

    @property
    def wants_user(self) -> bool:
        """Whether users are in tiers."""
        return any(who.startswith("user:") for who in self._members)

    def tier(self, user: object, org: object) -> str | None:
        """The tier that a row names for a user, or else for an organisation."""
        if not self._members:
            return None
        found = self._members.get(f"user:{user}") if user is not None else None
        if found is None and org is not None:
            found = self._members.get(f"org:{org}")
        return found

    def _read(self, known: Any) -> tuple[int, dict[str, Any], dict[str, str]] | None:
        number = revision("rules")
        if number == known:
            return None
        data = merged(self.base, stored())
        try:
            Rules(data)
        except ConfigError as error:
            log.error("rules in the database: %s", error)
            data = sound(data)
        return number, data, members()

    def __repr__(self) -> str:
        return "DatabaseSource()"


def installed(what: str) -> None:
    """Raises ConfigError unless the app is installed."""
    if apps.apps_ready and not apps.is_installed("tollway.django"):
        raise ConfigError(
            f'{what} are kept in the database by the app: add "tollway.django" to INSTALLED_APPS '
            "and run `manage.py migrate`"
        )


def revision(name: str) -> int:
    """The number of the rows of that name. One query."""
    from tollway.django.models import Revision

    rows = Revision.objects.using(router.db_for_write(Revision))
    return rows.filter(pk=name).values_list("number", flat=True).first() or 0


def stored() -> dict[str, Any]:
    """The rules in the database that are enabled and have not ended, as data. Six queries."""
    from tollway.django import models

    using = router.db_for_write(models.LimitRule)
    now = timezone.now()
    lasting = Q(enabled=True) & (Q(until=None) | Q(until__gt=now))
    data: dict[str, Any] = {"deny": [], "allow": [], "limits": {}, "overrides": []}
    for entry in models.AccessEntry.objects.using(using).filter(lasting):
        data[entry.access].append(entry.data())
    limits = models.LimitRule.objects.using(using).filter(enabled=True)
    for limit in limits.prefetch_related(*models.LimitRule.parts):
        data["limits"][limit.name] = limit.data()
    for override in models.Override.objects.using(using).filter(lasting):
        data["overrides"].append(override.data())
    usable = Q(revoked=None) & (Q(expires=None) | Q(expires__gt=now))
    for key in models.APIKey.objects.using(using).filter(usable).exclude(rate=""):
        data["overrides"].append({"who": key.who, "rate": key.rate})
    return {name: value for name, value in data.items() if value}


def members() -> dict[str, str]:
    """Who is in which tier. One query."""
    from tollway.django.models import TierMember

    rows = TierMember.objects.using(router.db_for_write(TierMember))
    return dict(rows.values_list("who", "tier__name"))


def merged(base: Mapping[str, Any], rows: Mapping[str, Any]) -> dict[str, Any]:
    """Both: lists one after the other, limits of rows in place of those of the same name."""
    made = dict(base)
    for name, value in rows.items():
        known = made.get(name)
        if known is None:
            made[name] = value
        else:
            made[name] = {**known, **value} if isinstance(value, dict) else [*known, *value]
    return made


def sound(data: Mapping[str, Any]) -> dict[str, Any]:
    """The rules without those that cannot work, each told to the log.

    So one row that something else has made wrong, such as an override for a level that is gone,
    does not keep a block of an attacker from coming into force.
    """
    made: dict[str, Any] = {"limits": {}}
    for part, piece in _pieces(data):
        attempt = merged(made, {part: piece})
        try:
            Rules(attempt)
        except ConfigError as error:
            log.error("left out of the rules: %s", error)
        else:
            made = attempt
    return made


def _pieces(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each rule by itself; limits first, since overrides name them."""
    for name, value in data.get("limits", {}).items():
        yield "limits", {name: value}
    for part, value in data.items():
        if isinstance(value, list):
            for item in value:
                yield part, [item]
        elif part != "limits":
            yield part, value
