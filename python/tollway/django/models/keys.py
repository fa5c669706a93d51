"""API keys: shown once, kept as a hash."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any, Final, Self

from django.core.exceptions import ValidationError
from django.db import models, router, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from tollway import hash_identity
from tollway.django.models.revision import KEYS, RULES, Followed, FollowedQuerySet, Revision
from tollway.django.models.rules import Tier, checked
from tollway.rules import Rules

ALPHABET: Final = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
"""Letters and figures that are not taken for one another."""

PREFIX_LENGTH: Final = 8
SECRET_LENGTH: Final = 32
"""5.8 bits each: 185 bits, so a plain hash of it cannot be searched."""


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


class APIKey(Followed):
    """A key that a program shows. Made by :meth:`issue`, which alone knows it in clear."""

    revisions = (KEYS,)

    name = models.CharField(_("name"), max_length=100, help_text=_("Whose it is, or what for."))
    prefix = models.CharField(
        _("key"), max_length=20, unique=True, editable=False, help_text=_("What it begins with.")
    )
    hash = models.CharField(_("hash"), max_length=32, unique=True, editable=False)
    owner = models.CharField(
        _("owner"), max_length=200, blank=True, help_text=_("Such as user:7; for your records.")
    )
    tier = models.ForeignKey(
        Tier, models.SET_NULL, null=True, blank=True, related_name="keys", verbose_name=_("tier")
    )
    rate = models.CharField(
        _("rate"),
        max_length=200,
        blank=True,
        help_text=_("Its own rate on every limit, such as 1000/m; empty: that of its tier."),
    )
    scopes = models.CharField(
        _("scopes"), max_length=500, blank=True, help_text=_("What it may do: words with spaces.")
    )
    expires = models.DateTimeField(_("expires"), null=True, blank=True)
    revoked = models.DateTimeField(_("revoked"), null=True, blank=True, editable=False)
    last_used = models.DateTimeField(
        _("last used"), null=True, blank=True, editable=False, help_text=_("To the hour.")
    )

    objects = FollowedQuerySet.as_manager()

    class Meta:
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")
        ordering = ("name", "pk")
        # What leaves a deleted tier is told as well.
        base_manager_name = "objects"

    _had_rate = False

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @classmethod
    def from_db(cls, *arguments: Any, **named: Any) -> Self:
        """As Django's, remembering whether the rules know the row."""
        found = super().from_db(*arguments, **named)
        found._had_rate = bool(found.__dict__.get("rate"))
        return found

    @classmethod
    def issue(cls, name: str, **fields: Any) -> tuple[APIKey, str]:
        """Make a key. The second of the pair is the key in clear: show it now, it is not kept.

        Raises ValidationError on fields that cannot be.
        """
        made = cls(name=name, **fields)
        clear = made.renew()
        made.full_clean()
        made.save()
        return made, clear

    def renew(self) -> str:
        """Give this row a new secret; the key in clear. It is not saved."""
        self.prefix = f"tw_{_random(PREFIX_LENGTH)}"
        clear = f"{self.prefix}_{_random(SECRET_LENGTH)}"
        self.hash = hash_identity(clear)
        return clear

    def rotate(self, grace: timedelta = timedelta(0)) -> tuple[APIKey, str]:
        """Put a new key in its place, with the same rights; this one ends after ``grace``.

        The pair is the new row and its key in clear.
        """
        kept = ("owner", "tier", "rate", "scopes", "expires")
        now = timezone.now()
        using = router.db_for_write(type(self), instance=self)
        with transaction.atomic(using=using):
            # What was fetched may be older than a revocation.
            stored = type(self).objects.using(using).select_for_update().get(pk=self.pk)
            if not stored.usable(now):
                raise ValidationError(_("This key has ended: issue another instead."))
            self.revoked, self.expires = stored.revoked, stored.expires
            made, clear = type(self).issue(
                self.name, **{each: getattr(self, each) for each in kept}
            )
            if grace > timedelta(0):
                ends = now + grace
                self.expires = min(self.expires, ends) if self.expires else ends
            else:
                self.revoked = now
            self.save()
        return made, clear

    def revoke(self) -> None:
        """End it now."""
        self.revoked = self.revoked or timezone.now()
        self.save()

    def usable(self, at: datetime | None = None) -> bool:
        """Whether it opens anything at that time, or now."""
        at = at or timezone.now()
        return self.revoked is None and (self.expires is None or at < self.expires)

    @property
    def who(self) -> str:
        """What rules and access lists call it."""
        return f"key:{self.hash}"

    def clean(self) -> None:
        """Raises ValidationError in the engine's words."""
        if self.rate:
            own = {"who": "192.0.2.1", "rate": self.rate}
            checked("rate", lambda: Rules({"overrides": [own]}))
        self.scopes = " ".join(self.scopes.replace(",", " ").split())

    @classmethod
    def tell_all(cls, using: str | None = None) -> None:
        """Have every process read again, the rules too: some of the keys may have a rate."""
        cls.tell(using)
        Revision.bump(RULES, using)

    def save(self, *arguments: Any, **named: Any) -> None:
        """Save, and tell every process."""
        super().save(*arguments, **named)
        if self.rate or self._had_rate:
            Revision.bump(RULES, self._state.db)
        self._had_rate = bool(self.rate)
