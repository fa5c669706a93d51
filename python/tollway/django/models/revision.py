"""How processes notice that rules or keys have changed: a number for each, read several times a
second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final, TypeVar

from django.db import IntegrityError, models, router, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

RULES: Final = "rules"
KEYS: Final = "keys"

M = TypeVar("M", bound="Followed")


class Revision(models.Model):
    """The number of a set of rows that processes follow; another number means other rows."""

    name = models.CharField(max_length=20, primary_key=True)
    number = models.BigIntegerField(default=0)

    objects: ClassVar[models.Manager[Revision]] = models.Manager()

    class Meta:
        verbose_name = _("revision")
        verbose_name_plural = _("revisions")

    def __str__(self) -> str:
        return f"{self.name} {self.number}"

    @classmethod
    def bump(cls, name: str, using: str | None = None) -> None:
        """Have every process read the rows of ``name`` again, once this transaction commits.

        One ``UPDATE``. Its row stays locked until the transaction ends, so that a number is never
        seen before the rows that go with it.
        """
        database = using or router.db_for_write(cls)
        rows = cls.objects.using(database).filter(pk=name)
        if rows.update(number=models.F("number") + 1):
            return
        try:
            with transaction.atomic(using=database):
                cls.objects.using(database).create(name=name, number=1)
        except IntegrityError:  # somebody was quicker
            rows.update(number=models.F("number") + 1)


class FollowedQuerySet(models.QuerySet[M]):
    """Rows whose changes in bulk are noticed as well."""

    def update(self, **values: Any) -> int:
        """As ``QuerySet.update``, told to every process."""
        with self._told():
            return super().update(**{"changed": timezone.now()} | values)

    def quietly(self, **values: Any) -> int:
        """As ``QuerySet.update``, told to nobody: for what no process follows."""
        return super().update(**values)

    def bulk_create(self, *arguments: Any, **named: Any) -> list[M]:
        """As ``QuerySet.bulk_create``, told to every process."""
        with self._told():
            return super().bulk_create(*arguments, **named)

    def delete(self) -> tuple[int, dict[str, int]]:
        """As ``QuerySet.delete``, told to every process."""
        with self._told():
            return super().delete()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """One transaction, so that nobody sees the new number before what goes with it."""
        self._for_write = True
        with transaction.atomic(using=self.db):
            self.model.tell_all(self.db)
            yield


class Followed(models.Model):
    """A row that processes follow: when it changes, they read it within a second."""

    created = models.DateTimeField(_("created"), auto_now_add=True)
    changed = models.DateTimeField(_("changed"), auto_now=True, db_index=True)

    revisions: ClassVar[tuple[str, ...]] = (RULES,)

    class Meta:
        abstract = True

    @classmethod
    def tell(cls, using: str | None = None) -> None:
        """Have every process read again."""
        for name in cls.revisions:
            Revision.bump(name, using)

    @classmethod
    def tell_all(cls, using: str | None = None) -> None:
        """The same for rows that nobody has looked at."""
        cls.tell(using)

    def save(self, *arguments: Any, **named: Any) -> None:
        """Save, and tell every process, in one transaction."""
        using = named.get("using") or router.db_for_write(type(self), instance=self)
        with transaction.atomic(using=using):
            super().save(*arguments, **named)
            self.tell(using)

    def delete(self, *arguments: Any, **named: Any) -> tuple[int, dict[str, int]]:
        """Delete, and tell every process, in one transaction."""
        using = named.get("using") or router.db_for_write(type(self), instance=self)
        with transaction.atomic(using=using):
            self.tell(using)
            return super().delete(*arguments, **named)
