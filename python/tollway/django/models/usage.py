"""What happened, summed up; and counts, for ``RATELIMIT_BACKEND = "django"``."""

from __future__ import annotations

from typing import ClassVar, Final

from django.db import models
from django.utils.translation import gettext_lazy as _

POLICY_LENGTH: Final = 250
WHO_LENGTH: Final = 200


class Usage(models.Model):
    """How one limit has answered during ten minutes."""

    start = models.DateTimeField(_("from"))
    policy = models.CharField(_("limit"), max_length=POLICY_LENGTH)
    allowed = models.BigIntegerField(_("allowed"), default=0)
    refused = models.BigIntegerField(_("refused"), default=0)
    denied = models.BigIntegerField(_("denied"), default=0)
    shadowed = models.BigIntegerField(
        _("shadowed"), default=0, help_text=_("Would have been refused, were it not a shadow.")
    )
    degraded = models.BigIntegerField(
        _("degraded"), default=0, help_text=_("Decided while the backend was away.")
    )

    objects: ClassVar[models.Manager[Usage]] = models.Manager()

    class Meta:
        verbose_name = _("usage")
        verbose_name_plural = _("usage")
        ordering = ("-start", "policy")
        constraints = (
            models.UniqueConstraint(fields=("start", "policy"), name="tollway_usage_once"),
        )

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d %H:%M} {self.policy}"


class Offender(models.Model):
    """Somebody whom a limit refused during ten minutes."""

    start = models.DateTimeField(_("from"))
    policy = models.CharField(_("limit"), max_length=POLICY_LENGTH)
    who = models.CharField(_("who"), max_length=WHO_LENGTH, db_index=True)
    refused = models.BigIntegerField(_("refused"), default=0)

    objects: ClassVar[models.Manager[Offender]] = models.Manager()

    class Meta:
        verbose_name = _("refused client")
        verbose_name_plural = _("refused clients")
        ordering = ("-start", "-refused")
        constraints = (
            models.UniqueConstraint(
                fields=("start", "policy", "who"), name="tollway_offender_once"
            ),
        )

    def __str__(self) -> str:
        return f"{self.who} at {self.policy}"


class State(models.Model):
    """The count of one client under one limit. Its key is a digest: databases differ in which
    texts they hold to be the same."""

    key = models.CharField(max_length=32, primary_key=True)
    value = models.BinaryField()
    version = models.BigIntegerField()
    expires = models.DateTimeField(db_index=True)

    objects: ClassVar[models.Manager[State]] = models.Manager()

    class Meta:
        verbose_name = _("count")
        verbose_name_plural = _("counts")
        permissions = (("reset_counts", "Can begin somebody's counts again"),)

    def __str__(self) -> str:
        return self.key
