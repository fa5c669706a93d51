"""The rules in force, and what they want to know of a request.

The rules are those of :mod:`tollway.rules`: access lists, overrides, tiers, schedules, levels and
shadows. Here they are read from settings, and a request becomes a :class:`tollway.rules.Subject`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tollway import hash_identity
from tollway.django.settings import Settings
from tollway.django.sources import Shadowed, followed, with_shadows
from tollway.django.steps import Call, Steps, User
from tollway.identity import text
from tollway.rules import Rules, Subject, follow


class Ruling:
    """The rules in force, made once for a set of settings."""

    def __init__(self, settings: Settings) -> None:
        stated = settings.rules
        self.stated = stated is not None or bool(settings.access_lists)
        """Whether the project has rules; without any they matter to shadow limits only."""
        self.wants_user = _wants_user(stated) or bool(settings.access_lists)
        self.knows_shadows = not isinstance(stated, Rules)
        """Whether limits with ``shadow=True`` are among the rules."""
        if isinstance(stated, Rules):
            self.rules = stated
            return
        data = stated if isinstance(stated, Mapping) else {}
        lists = [followed(item) for item in settings.access_lists]
        self.rules = Rules(with_shadows(data), lists=lists)
        if stated is not None and not isinstance(stated, Mapping):
            # Kept here: following ends when nobody holds it.
            self.following = follow(self.rules, Shadowed(stated))


def _wants_user(stated: object) -> bool:
    """Whether rules look at the user: then each request pays for knowing them."""
    return stated is not None and (
        not isinstance(stated, Mapping) or "user" in json.dumps(stated, default=str)
    )


def subject(
    settings: Settings, address: str, request: Any, *, wants_user: bool, whole: bool
) -> Steps[Subject]:
    """Who is asking, as the rules see it; with ``whole`` also for what.

    The user is looked at only when ``wants_user``, since that may ask a database.
    """
    user = None
    if wants_user and hasattr(request, "user"):
        known = yield User(request)
        user = known.pk if getattr(known, "is_authenticated", False) else None
    org = None
    if settings.org is not None:
        org = yield Call("RATELIMIT_ORG", settings.org, request)
    elif hasattr(request, "tenant"):
        org = request.tenant
    tier = None
    if settings.tier is not None:
        tier = yield Call("RATELIMIT_TIER", settings.tier, request)
    key = request.META.get(meta_name(settings.api_key_header))
    return Subject(
        address=address,
        user=user,
        key=hash_identity(text(key)) if key else None,
        org=text(getattr(org, "pk", org)) if org is not None else None,
        tier=tier,
        method=request.method if whole else None,
        path=text(request.path_info) if whole else None,
    )


def meta_name(header: str) -> str:
    """Where Django keeps a header: ``X-API-Key`` is ``HTTP_X_API_KEY``."""
    name = header.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
