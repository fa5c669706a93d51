"""Limits, overrides, the access list and tiers in the admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from tollway import ConfigError
from tollway.django.admin.base import EndingAdmin, StateFilter, TollwayAdmin
from tollway.django.models import (
    AccessEntry,
    LimitLevel,
    LimitRule,
    LimitSchedule,
    Override,
    Tier,
    TierMember,
    TierRate,
)
from tollway.rules import Rules


class _LevelFormSet(BaseInlineFormSet):  # type: ignore[type-arg]
    """Levels of one limit, which must differ in name."""

    def clean(self) -> None:
        super().clean()
        forms = [form for form in self.forms if form.is_valid() and form.cleaned_data]
        levels = [form.instance.data() for form in forms if not form.cleaned_data.get("DELETE")]
        try:
            Rules({"limits": {"x": {"levels": levels}}})
        except ConfigError as error:
            raise ValidationError(str(error)) from error


class _TierRates(admin.TabularInline):  # type: ignore[type-arg]
    model = TierRate
    extra = 0


class _Levels(admin.TabularInline):  # type: ignore[type-arg]
    model = LimitLevel
    formset = _LevelFormSet
    extra = 0


class _Schedules(admin.TabularInline):  # type: ignore[type-arg]
    model = LimitSchedule
    extra = 0


@admin.register(LimitRule)
class LimitRuleAdmin(TollwayAdmin):
    """Limits: which rate holds where, for whom and when."""

    list_display = ("name", "rate", "algorithm", "by", "shadow", "enforce", "enabled", "changed")
    list_filter = ("enabled", "shadow", "algorithm")
    search_fields = ("name", "rate", "paths", "note")
    inlines = (_TierRates, _Levels, _Schedules)
    actions = ("enable", "disable", "to_shadow", "out_of_shadow")
    fieldsets = (
        (None, {"fields": ("name", "rate", "algorithm", "enabled", "note")}),
        (_("By path"), {"fields": ("paths", "by")}),
        (_("Trying it out"), {"fields": ("shadow", "enforce")}),
    )

    @admin.action(description=_("Enable"), permissions=["change"])
    def enable(self, request: HttpRequest, rows: Any) -> None:
        """Have them hold."""
        self._set(request, rows, "enabled", value=True)

    @admin.action(description=_("Disable"), permissions=["change"])
    def disable(self, request: HttpRequest, rows: Any) -> None:
        """Keep the rows; the code's own rates hold."""
        self._set(request, rows, "enabled", value=False)

    @admin.action(description=_("Put into shadow: refuse nobody"), permissions=["change"])
    def to_shadow(self, request: HttpRequest, rows: Any) -> None:
        """Count and record only."""
        self._set(request, rows.filter(enforce=None), "shadow", value=True)

    @admin.action(description=_("Take out of shadow: refuse"), permissions=["change"])
    def out_of_shadow(self, request: HttpRequest, rows: Any) -> None:
        """Bind everybody."""
        self._set(request, rows, "shadow", value=False)

    def _set(self, request: HttpRequest, rows: Any, field: str, *, value: bool) -> None:
        for row in rows:
            setattr(row, field, value)
            row.save()
            self.log_change(request, row, f"{field}: {value}")


@admin.register(Override)
class OverrideAdmin(EndingAdmin):
    """Exceptions: another rate for somebody."""

    list_display = ("who", "limit", "rate", "starts", "until", "enabled", "note")
    list_filter = (StateFilter, "enabled", "limit")
    search_fields = ("who", "limit", "note")
    actions = (*EndingAdmin.actions, "reset")

    @admin.action(description=_("Begin their counts again"), permissions=["reset"])
    def reset(self, request: HttpRequest, rows: Any) -> None:
        """Forget what was counted for them."""
        self.reset_all(request, [row.who for row in rows])


@admin.register(AccessEntry)
class AccessEntryAdmin(EndingAdmin):
    """Who is turned away, and who is never counted."""

    list_display = ("who", "access", "until", "enabled", "note", "created")
    list_filter = ("access", StateFilter, "enabled")
    search_fields = ("who", "note")
    actions = (*EndingAdmin.actions, "unblock")

    @admin.action(
        description=_("Unblock: delete, and begin their counts again"), permissions=["unblock"]
    )
    def unblock(self, request: HttpRequest, rows: Any) -> None:
        """Let them in again."""
        self.unblock_all(request, [row.who for row in rows if row.access == "deny"])


class _Members(admin.TabularInline):  # type: ignore[type-arg]
    model = TierMember
    extra = 0


@admin.register(Tier)
class TierAdmin(TollwayAdmin):
    """Tiers, their rates and who is in them."""

    list_display = ("name", "note", "changed")
    search_fields = ("name", "note", "members__who")
    inlines = (_TierRates, _Members)
