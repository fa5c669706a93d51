"""What happened, in the admin: sums of limits, and clients that were refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from tollway.django import conf
from tollway.django.admin.base import TollwayAdmin
from tollway.django.models import Offender, Usage


class _ReadOnly(TollwayAdmin):
    """Rows that nobody writes by hand."""

    follows_rules = False
    date_hierarchy = "start"
    show_full_result_count = False

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list; with a warning when nothing is summed up."""
        if not conf.current().settings.usage:
            messages.warning(request, _("Nothing is summed up: set RATELIMIT_USAGE to True."))
        return super().changelist_view(request, extra_context)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody; `cleanup_ratelimit` deletes them."""
        return False


@admin.register(Usage)
class UsageAdmin(_ReadOnly):
    """How limits have answered, in steps of ten minutes."""

    list_display = ("start", "policy", "allowed", "refused", "denied", "shadowed", "degraded")
    search_fields = ("policy",)


@admin.register(Offender)
class OffenderAdmin(_ReadOnly):
    """Clients that were refused, and what can be done about them."""

    list_display = ("start", "who", "policy", "refused")
    search_fields = ("who", "policy")
    actions = ("block_an_hour", "block_a_day", "unblock", "reset")

    @admin.action(description=gettext_lazy("Block for an hour"), permissions=["block"])
    def block_an_hour(self, request: HttpRequest, rows: Any) -> None:
        """Turn them away for an hour."""
        self.block_all(request, _whos(rows), timedelta(hours=1))

    @admin.action(description=gettext_lazy("Block for a day"), permissions=["block"])
    def block_a_day(self, request: HttpRequest, rows: Any) -> None:
        """Turn them away for a day."""
        self.block_all(request, _whos(rows), timedelta(days=1))

    @admin.action(
        description=gettext_lazy("Unblock, and begin their counts again"), permissions=["unblock"]
    )
    def unblock(self, request: HttpRequest, rows: Any) -> None:
        """Let them in again."""
        self.unblock_all(request, _whos(rows))

    @admin.action(description=gettext_lazy("Begin their counts again"), permissions=["reset"])
    def reset(self, request: HttpRequest, rows: Any) -> None:
        """Forget what was counted for them."""
        self.reset_all(request, _whos(rows))


def _whos(rows: Any) -> list[str]:
    """Whom rows are about, each once, as access lists name them."""
    names = dict.fromkeys(row.who for row in rows)
    return [who.removeprefix("api_") if who.startswith("api_key:") else who for who in names]
