"""API keys in the admin: a key is shown once, on the page that follows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from tollway.django import conf
from tollway.django.admin.base import StateFilter, TollwayAdmin
from tollway.django.models import APIKey

GRACE = timedelta(days=7)


class _ExpiryFilter(StateFilter):
    field = "expires"


@admin.register(APIKey)
class APIKeyAdmin(TollwayAdmin):
    """API keys: issued, rotated and revoked."""

    follows_rules = False
    list_display = ("name", "prefix", "owner", "tier", "rate", "expires", "good", "last_used")
    list_filter = ("tier", _ExpiryFilter, ("revoked", admin.EmptyFieldListFilter))
    list_select_related = ("tier",)
    search_fields = ("name", "prefix", "owner", "scopes")
    readonly_fields = ("prefix", "revoked", "last_used", "created")
    actions = ("rotate", "rotate_later", "revoke", "reset")

    @admin.display(description=gettext_lazy("good"), boolean=True)
    def good(self, row: APIKey) -> bool:
        """Whether it opens anything."""
        return row.usable()

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list; with a warning when keys are not asked for."""
        if not conf.current().settings.api_keys:
            messages.warning(request, _("API keys are not asked for: set RATELIMIT_API_KEYS."))
        return super().changelist_view(request, extra_context)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """A new key has nothing to show yet."""
        return self.readonly_fields if obj is not None else ()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Keys are revoked; `cleanup_ratelimit` deletes them later."""
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """A new row gets its key here."""
        if not change:
            request._tollway_shown = [(obj, obj.renew())]  # type: ignore[attr-defined]
        super().save_model(request, obj, form, change)

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: Any = None) -> Any:
        """Show the key, once: it is never in a message, which would be kept."""
        return self._page(request, request._tollway_shown)  # type: ignore[attr-defined]

    @admin.action(
        description=gettext_lazy("Rotate: a new key, the old one ends now"), permissions=["change"]
    )
    def rotate(self, request: HttpRequest, rows: Any) -> Any:
        """New keys with the same rights."""
        return self._rotate(request, rows, timedelta(0))

    @admin.action(
        description=gettext_lazy("Rotate: a new key, the old one ends in a week"),
        permissions=["change"],
    )
    def rotate_later(self, request: HttpRequest, rows: Any) -> Any:
        """New keys with the same rights, and a week to put them in place."""
        return self._rotate(request, rows, GRACE)

    @admin.action(description=gettext_lazy("Revoke: end now"), permissions=["change"])
    def revoke(self, request: HttpRequest, rows: Any) -> None:
        """End them now."""
        for row in rows:
            row.revoke()
            self.log_change(request, row, "revoked")

    @admin.action(description=gettext_lazy("Begin their counts again"), permissions=["reset"])
    def reset(self, request: HttpRequest, rows: Any) -> None:
        """Forget what was counted for them."""
        self.reset_all(request, [row.who for row in rows])

    def _rotate(self, request: HttpRequest, rows: Any, grace: timedelta) -> Any:
        shown = []
        for row in rows:
            try:
                made, clear = row.rotate(grace)
            except ValidationError:
                messages.error(request, _("%s has ended: issue another.") % row)
                continue
            self.log_change(request, row, f"rotated: {made.prefix} takes its place")
            self.log_addition(request, made, f"takes the place of {row.prefix}")
            shown.append((made, clear))
        return self._page(request, shown) if shown else None

    def _page(self, request: HttpRequest, shown: list[tuple[Any, str]]) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": _("Copy this now"),
            "opts": self.model._meta,
            "shown": shown,
        }
        answer = TemplateResponse(request, "admin/tollway/key_shown.html", context)
        answer["Cache-Control"] = "no-store"
        return answer
