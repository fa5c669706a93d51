"""Rules as rows: limits, overrides, access lists, tiers. The engine itself says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from tollway import ConfigError
from tollway.django.models.revision import Followed, FollowedQuerySet
from tollway.rules import AccessList, Rules

DENY: Final = "deny"
ALLOW: Final = "allow"

_WHO = _("An address, a network, user:ID, org:ID, or key:HASH.")
_RATE = _("Such as 100/m, or 10/s; 1000/h.")
_ALGORITHM = _("Such as sliding_window; empty keeps the one that is there.")


def checked(field: str, make: Callable[[], object]) -> None:
    """Have the engine read what was written; what it says is said beside ``field``."""
    try:
        make()
    except ConfigError as error:
        raise ValidationError({field: str(error)}) from error


def stamp(time: datetime | None) -> str | None:
    """A time as rules spell it."""
    return None if time is None else time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "", [], {})}


class LimitRule(Followed):
    """A limit: its rate, and who has another."""

    name = models.CharField(
        _("name"),
        max_length=120,
        unique=True,
        help_text=_(
            "The limit that is meant: its whole name, or what stands before a / in it. "
            "* is every limit that no other row names."
        ),
    )
    rate = models.CharField(
        _("rate"),
        max_length=200,
        blank=True,
        help_text=_("Such as 100/m, or 10/s; 1000/h. Empty keeps the rate that the code gives."),
    )
    algorithm = models.CharField(_("algorithm"), max_length=40, blank=True, help_text=_ALGORITHM)
    by = models.CharField(
        _("counts by"),
        max_length=60,
        blank=True,
        help_text=_(
            "ip, user, key, org, global, or several joined by +. Empty keeps what the code gives."
        ),
    )
    paths = models.TextField(
        _("paths"),
        blank=True,
        help_text=_(
            "One a line, such as /api/ or POST /login/. With paths the limit needs nothing in the "
            "code, but a rate and what it counts by."
        ),
    )
    shadow = models.BooleanField(
        _("shadow"), default=False, help_text=_("Count and record, and refuse nobody.")
    )
    enforce = models.DecimalField(
        _("enforced for"),
        max_digits=5,
        decimal_places=2,
        null=True,
        blank=True,
        help_text=_("The percentage of clients that it binds; the others are in its shadow."),
    )
    enabled = models.BooleanField(_("enabled"), default=True)
    note = models.CharField(_("note"), max_length=200, blank=True)

    objects = FollowedQuerySet.as_manager()
    tier_rates: Any
    levels: Any
    schedules: Any

    parts: Final = ("tier_rates__tier", "levels", "schedules")
    """What :meth:`data` reads besides: prefetch it for several rows."""

    class Meta:
        verbose_name = _("limit")
        verbose_name_plural = _("limits")
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def own_data(self) -> dict[str, Any]:
        """What the row itself says, in the words of :class:`tollway.rules.Rules`."""
        return _given(
            rate=self.rate.strip(),
            algorithm=self.algorithm.strip(),
            by=self.by.strip(),
            paths=[line.strip() for line in self.paths.splitlines() if line.strip()],
            shadow=self.shadow or None,
            enforce=None if self.enforce is None else float(self.enforce),
        )

    def data(self) -> dict[str, Any]:
        """The same with its tiers, levels and schedules."""
        if self.pk is None:
            return self.own_data()
        return self.own_data() | _given(
            tiers={row.tier.name: row.data() for row in self.tier_rates.all()},
            levels=[row.data() for row in self.levels.all()],
            schedule=[row.data() for row in self.schedules.all()],
        )

    def clean(self) -> None:
        """Raises ValidationError in the engine's words."""
        own = self.own_data()
        for field in {"rate", "algorithm", "by", "enforce"} & own.keys():
            checked(field, partial(Rules, {"limits": {"x": {field: own[field]}}}))
        if own.get("paths"):
            given = {"rate": "1/s", "by": "ip", "paths": own["paths"]}
            checked("paths", lambda: Rules({"limits": {"x": given}}))
        checked("enforce" if self.shadow else "name", lambda: Rules({"limits": {self.name: own}}))


class TierRate(Followed):
    """What a limit is for a tier."""

    limit = models.ForeignKey(LimitRule, models.CASCADE, related_name="tier_rates")
    tier = models.ForeignKey("Tier", models.CASCADE, related_name="rates")
    rate = models.CharField(_("rate"), max_length=200, help_text=_RATE)
    algorithm = models.CharField(_("algorithm"), max_length=40, blank=True, help_text=_ALGORITHM)

    objects = FollowedQuerySet.as_manager()

    class Meta:
        verbose_name = _("rate of a tier")
        verbose_name_plural = _("rates of tiers")
        constraints = (
            models.UniqueConstraint(fields=("limit", "tier"), name="tollway_tier_rate_once"),
        )

    def __str__(self) -> str:
        return f"{self.tier}: {self.rate}"

    def data(self) -> dict[str, Any]:
        """The row in the words of rules."""
        return _given(rate=self.rate, algorithm=self.algorithm)

    def clean(self) -> None:
        """Raises ValidationError in the engine's words."""
        checked("rate", lambda: Rules({"limits": {"x": {"tiers": {"t": self.data()}}}}))


class LimitLevel(Followed):
    """A further limit that a request must pass, such as its organisation's."""

    limit = models.ForeignKey(LimitRule, models.CASCADE, related_name="levels")
    by = models.CharField(
        _("counts by"), max_length=60, help_text=_("ip, user, key, org, global, or several with +.")
    )
    rate = models.CharField(_("rate"), max_length=200, help_text=_RATE)
    name = models.CharField(
        _("name"), max_length=60, blank=True, help_text=_("Empty: what it counts by.")
    )
    algorithm = models.CharField(_("algorithm"), max_length=40, blank=True, help_text=_ALGORITHM)

    objects = FollowedQuerySet.as_manager()

    class Meta:
        verbose_name = _("level")
        verbose_name_plural = _("levels")
        ordering = ("pk",)

    def __str__(self) -> str:
        return f"{self.name or self.by}: {self.rate}"

    def data(self) -> dict[str, Any]:
        """The row in the words of rules."""
        return _given(by=self.by, rate=self.rate, name=self.name, algorithm=self.algorithm)

    def clean(self) -> None:
        """Raises ValidationError in the engine's words."""
        checked("by", lambda: Rules({"limits": {"x": {"by": self.by}}}))
        # "client" is the first level's own name, so it cannot clash here.
        checked("rate", lambda: Rules({"limits": {"x": {"levels": [self.data()]}}}))


class LimitSchedule(Followed):
    """When a limit has another rate. The first that holds counts."""

    limit = models.ForeignKey(LimitRule, models.CASCADE, related_name="schedules")
    position = models.PositiveSmallIntegerField(_("position"), default=0)
    when = models.CharField(
        _("when"), max_length=200, help_text=_("Such as Mon-Fri 09:00-17:00 Europe/Berlin.")
    )
    rate = models.CharField(_("rate"), max_length=200, help_text=_RATE)

    objects = FollowedQuerySet.as_manager()

    class Meta:
        verbose_name = _("schedule")
        verbose_name_plural = _("schedules")
        ordering = ("position", "pk")

    def __str__(self) -> str:
        return f"{self.when}: {self.rate}"

    def data(self) -> dict[str, Any]:
        """The row in the words of rules."""
        return {"when": self.when, "rate": self.rate}

    def clean(self) -> None:
        """Raises ValidationError in the engine's words."""
        for field, own in (("when", {"when": self.when, "rate": "1/s"}), ("rate", self.data())):
            limit = {"rate": "1/s", "schedule": [own]}
            checked(field, partial(Rules, {"limits": {"x": limit}}))


class Tier(Followed):
    """A name that limits give a rate of its own, such as free or pro."""

    name = models.CharField(_("name"), max_length=60, unique=True)
    note = models.CharField(_("note"), max_length=200, blank=True)

    objects = FollowedQuerySet.as_manager()
    keys: Any

    class Meta:
        verbose_name = _("tier")
        verbose_name_plural = _("tiers")
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raises ValidationError in the engine's words."""
        checked("name", lambda: Rules({"limits": {"x": {"tiers": {self.name: "1/s"}}}}))

    def save(self, *arguments: Any, **named: Any) -> None:
        """Save, and tell every process, also of the keys that are in it."""
        super().save(*arguments, **named)
        self.keys.update(tier=self)


class TierMember(Followed):
    """Who is in a tier: a user or an organisation."""

    tier = models.ForeignKey(Tier, models.CASCADE, related_name="members")
    who = models.CharField(_("who"), max_length=200, unique=True, help_text=_("user:ID or org:ID."))

    objects = FollowedQuerySet.as_manager()

    class Meta:
        verbose_name = _("member of a tier")
        verbose_name_plural = _("members of tiers")
        ordering = ("who",)

    def __str__(self) -> str:
        return f"{self.who}: {self.tier}"

    def clean(self) -> None:
        """Raises ValidationError for what is neither a user nor an organisation."""
        kind, _colon, name = self.who.partition(":")
        if kind not in ("user", "org") or not name:
            raise ValidationError({"who": _("Write user:ID or org:ID.")})


class _Entry(Followed):
    """Who, until when, and why."""

    who = models.CharField(_("who"), max_length=200, db_index=True, help_text=_WHO)
    until = models.DateTimeField(
        _("until"), null=True, blank=True, db_index=True, help_text=_("Empty: for ever.")
    )
    note = models.CharField(_("note"), max_length=200, blank=True)
    enabled = models.BooleanField(_("enabled"), default=True)

    class Meta:
        abstract = True

    @property
    def ended(self) -> bool:
        """Whether its time is over."""
        return self.until is not None and self.until <= timezone.now()

    def clean(self) -> None:
        """Raises ValidationError in the engine's words; spells ``who`` as the engine does."""
        checked("who", lambda: AccessList([f"deny {self.who.strip()}"]))
        self.who = AccessList([f"deny {self.who.strip()}"]).entries()[0].split()[1]


class Override(_Entry):
    """An exception for somebody: another rate, for a time or for ever."""

    limit = models.CharField(
        _("limit"), max_length=120, blank=True, help_text=_("Its name; empty: every limit.")
    )
    level = models.CharField(
        _("level"), max_length=60, blank=True, help_text=_("Empty: the one that fits who it is.")
    )
    rate = models.CharField(_("rate"), max_length=200, help_text=_("Such as 1000/m, or unlimited."))
    algorithm = models.CharField(_("algorithm"), max_length=40, blank=True, help_text=_ALGORITHM)
    starts = models.DateTimeField(_("from"), null=True, blank=True, help_text=_("Empty: now."))

    objects = FollowedQuerySet.as_manager()

    class Meta:
        verbose_name = _("override")
        verbose_name_plural = _("overrides")
        ordering = ("who", "limit")

    def __str__(self) -> str:
        return f"{self.who}: {self.rate}"

    def data(self) -> dict[str, Any]:
        """The row in the words of rules."""
        times = {"from": stamp(self.starts), "until": stamp(self.until)}
        return _given(
            who=self.who,
            limit=self.limit,
            level=self.level,
            rate=self.rate,
            algorithm=self.algorithm,
            **times,
        )

    def clean(self) -> None:
        """Raises ValidationError in the engine's words."""
        super().clean()
        own = {"who": "192.0.2.1"} | _given(rate=self.rate, algorithm=self.algorithm)
        checked("rate", lambda: Rules({"overrides": [own]}))
        limits = {}
        if self.limit:
            known = LimitRule.objects.filter(name=self.limit).first()
            limits = {} if known is None else {self.limit: known.data()}
        field = "level" if self.level else "limit"
        checked(field, lambda: Rules({"limits": limits, "overrides": [self.data()]}))


class AccessEntry(_Entry):
    """Somebody who is turned away, or never counted."""

    access = models.CharField(
        _("access"),
        max_length=5,
        default=DENY,
        choices=((DENY, _("deny: answered with 403")), (ALLOW, _("allow: never counted"))),
    )

    objects = FollowedQuerySet.as_manager()

    class Meta:
        verbose_name = _("access entry")
        verbose_name_plural = _("access list")
        ordering = ("who",)

    def __str__(self) -> str:
        return f"{self.access} {self.who}"

    def data(self) -> str:
        """The row in the words of rules."""
        until = stamp(self.until)
        return f"{self.access} {self.who}" + (f" until {until}" if until else "")
