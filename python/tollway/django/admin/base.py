"""What the pages share: the word that rules are not in force, and the actions on somebody."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from tollway import ConfigError
from tollway.django import remedies
from tollway.django.inventory import Who, inventory
from tollway.errors import StoreError

if TYPE_CHECKING:
    _Admin = admin.ModelAdmin[Model]
else:
    _Admin = admin.ModelAdmin


FOR_EVER: Final = 9000
"""Years from which on an end is none: not much further on there is no calendar."""


def may(request: HttpRequest, permission: str) -> bool:
    """Whether the user of a request has a permission."""
    user: Any = request.user
    return bool(user.has_perm(permission))


class TollwayAdmin(_Admin):
    """A page of this app."""

    list_per_page = 50
    follows_rules = True

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list; with a warning when what it shows is not in force."""
        if self.follows_rules and not remedies.followed():
            messages.warning(request, remedies.NOT_FOLLOWED)
        found: HttpResponse = super().changelist_view(request, extra_context)
        return found

    def has_reset_permission(self, request: HttpRequest) -> bool:
        """Who may begin somebody's counts again."""
        return may(request, "tollway.reset_counts")

    def has_block_permission(self, request: HttpRequest) -> bool:
        """Who may turn somebody away."""
        return may(request, "tollway.add_accessentry")

    def has_unblock_permission(self, request: HttpRequest) -> bool:
        """Who may let somebody in again."""
        allowed = may(request, "tollway.delete_accessentry")
        return allowed and self.has_reset_permission(request)

    def reset_all(self, request: HttpRequest, whos: Iterable[str]) -> None:
        """Begin the counts of all of them again, and say what came of it."""
        number, limits = 0, [one for one in inventory() if not one.in_memory]
        if not limits:
            told = ", ".join(one.name for one in inventory()[:3]) or _("there are none")
            messages.error(request, remedies.IN_MEMORY.format(names=told))
            return
        for who in whos:
            try:
                number += len(remedies.reset(Who(who), limits))
            except (ConfigError, StoreError) as error:
                messages.error(request, f"{who}: {error}")
        said = ngettext("%d count begins again.", "%d counts begin again.", number) % number
        messages.success(request, said)

    def unblock_all(self, request: HttpRequest, whos: Iterable[str]) -> None:
        """Let all of them in again, and say what came of it."""
        entries = counts = 0
        for who in whos:
            try:
                lifted, found = remedies.unblock(who)
            except (ConfigError, StoreError) as error:
                messages.error(request, f"{who}: {error}")
            else:
                entries, counts = entries + lifted, counts + len(found)
        said = _("Deleted entries: %(entries)d; counts that begin again: %(counts)d.")
        messages.success(request, said % {"entries": entries, "counts": counts})

    def block_all(self, request: HttpRequest, whos: Iterable[str], span: timedelta) -> None:
        """Turn all of them away for a time, and say what came of it."""
        number = 0
        for who in whos:
            try:
                note = _("blocked by %s") % request.user
                remedies.block(who, timezone.now() + span, note[:200])
                number += 1
            except ValidationError as error:
                messages.error(request, f"{who}: {' '.join(error.messages)}")
        if number and not remedies.followed():
            messages.warning(request, remedies.NOT_FOLLOWED)
        said = ngettext("%d client is turned away.", "%d clients are turned away.", number)
        messages.success(request, said % number)


class EndingAdmin(TollwayAdmin):
    """A page of rows that end."""

    actions: tuple[str, ...] = ("extend_a_day", "extend_a_week", "end_now")

    @admin.action(description=gettext_lazy("Extend by a day"), permissions=["change"])
    def extend_a_day(self, request: HttpRequest, rows: Any) -> None:
        """Let them hold a day longer; those that have ended, for a day from now."""
        self._extend(request, rows, timedelta(days=1))

    @admin.action(description=gettext_lazy("Extend by a week"), permissions=["change"])
    def extend_a_week(self, request: HttpRequest, rows: Any) -> None:
        """Let them hold a week longer; those that have ended, for a week from now."""
        self._extend(request, rows, timedelta(weeks=1))

    @admin.action(description=gettext_lazy("End now"), permissions=["change"])
    def end_now(self, request: HttpRequest, rows: Any) -> None:
        """Keep the rows, and have them hold no longer."""
        now = timezone.now()
        for row in rows:
            row.until = now
            row.save()
            self.log_change(request, row, "ended")

    def _extend(self, request: HttpRequest, rows: Any, span: timedelta) -> None:
        now, number = timezone.now(), 0
        for row in rows:
            if row.until is None or row.until.year >= FOR_EVER:
                continue  # long enough
            row.until = max(row.until, now) + span
            row.save()
            self.log_change(request, row, f"extended until {row.until:%Y-%m-%d %H:%M}")
            number += 1
        said = ngettext("%d row holds longer.", "%d rows hold longer.", number) % number
        messages.success(request, said)


class StateFilter(admin.SimpleListFilter):
    """Rows that hold, and rows that have ended."""

    title = gettext_lazy("state")
    parameter_name = "state"
    field = "until"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, Any]]:
        """Two of them."""
        return [("holds", gettext_lazy("holds")), ("ended", gettext_lazy("ended"))]

    def queryset(self, request: Any, queryset: Any) -> Any:
        """The rows of one."""
        ended = {f"{self.field}__lte": timezone.now()}
        if self.value() == "ended":
            return queryset.filter(**ended)
        return queryset.exclude(**ended) if self.value() == "holds" else queryset
