"""The rules in force, and what they want to know of a request.

The rules are those of :mod:`tollway.rules`: access lists, overrides, tiers, schedules, levels and
shadows. Here they are read from settings, and a request becomes a :class:`tollway.rules.Subject`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tollway import ConfigError, hash_identity
from tollway.django.keys import Key, KeyRing, follow_keys
from tollway.django.settings import Settings, SettingsError
from tollway.django.sources import Shadowed, mentions_users, with_shadows
from tollway.django.steps import Call, Steps, User
from tollway.identity import text
from tollway.rules import Rules, Subject, follow


class Ruling:
    """The rules in force, made once for a set of settings.

    Without ``follows`` they are not read from elsewhere, for a look at the settings only.
    """

    def __init__(self, settings: Settings, *, follows: bool = True) -> None:
        stated = settings.rules
        self.stated = stated is not None or bool(settings.access_lists)
        """Whether the project has rules; without any they matter to shadow limits only."""
        self.knows_shadows = not isinstance(stated, Rules)
        """Whether limits with ``shadow=True`` are among the rules."""
        self.source: Any = None
        """What the rules are followed from."""
        self._wants_user = bool(settings.access_lists) or isinstance(stated, Rules)
        if isinstance(stated, Rules):
            self.rules = stated
        else:
            self.rules = Rules(with_shadows({}), lists=settings.access_lists)
        if isinstance(stated, Mapping):
            self._wants_user = self._wants_user or mentions_users(stated)
            self.rules.replace(with_shadows(stated))
        elif stated is not None and stated is not self.rules and follows:
            self.source = stated
            self._shadowed = Shadowed(stated)
            # Kept here: following ends when nobody holds it.
            try:
                self.following = follow(self.rules, self._shadowed)
            except (ConfigError, OSError) as error:
                raise unread(error) from error
        self.keys = KeyRing() if settings.api_keys else None
        """The API keys that are issued here, if they are the only ones."""
        if self.keys is not None and follows:
            self._following_keys = follow_keys(self.keys)

    @property
    def wants_user(self) -> bool:
        """Whether rules look at the user: then each request pays for knowing them."""
        return self._wants_user or (self.source is not None and self._shadowed.wants_user)

    def tier(self, user: object, org: object) -> str | None:
        """The tier that the source of the rules names, if it does."""
        named = getattr(self.source, "tier", None)
        found: str | None = None if named is None else named(user, org)
        return found


def unread(error: Exception) -> SettingsError:
    """What is said of rules that cannot be read."""
    return SettingsError(f"RATELIMIT_RULES: {error}")


def subject(
    settings: Settings,
    ruling: Ruling,
    address: str,
    request: Any,
    *,
    wants_user: bool,
    whole: bool,
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
    org = getattr(org, "pk", org)
    org = None if org in (None, "") else text(org)
    hashed, issued = key_of(settings, ruling, request)
    if tier is None and issued is not None:
        tier = issued.tier
    if tier is None:
        tier = ruling.tier(user, org)
    return Subject(
        address=address,
        user=user,
        key=hashed,
        org=org,
        tier=tier,
        method=request.method if whole else None,
        path=text(request.path_info) if whole else None,
    )


def key_of(settings: Settings, ruling: Ruling, request: Any) -> tuple[str | None, Key | None]:
    """The hash of a request's API key, and what is known of it.

    Where keys are issued here, one that is not known is none: inventing keys gains nothing.
    """
    request = getattr(request, "_request", request)
    known: tuple[Ruling, tuple[str | None, Key | None]] | None = getattr(request, _KEY, None)
    if known is not None and known[0] is ruling:
        return known[1]
    found: tuple[str | None, Key | None] = (None, None)
    shown = shown_key(settings, request)
    if shown is not None:
        hashed = hash_identity(shown)
        issued = None if ruling.keys is None else ruling.keys.find(hashed)
        if issued is not None or ruling.keys is None:
            found = (hashed, issued)
    setattr(request, _KEY, (ruling, found))
    return found


def shown_key(settings: Settings, request: Any) -> str | None:
    """The API key that a request shows: in the header, the parameter or the cookie of settings."""
    shown = request.META.get(meta_name(settings.api_key_header))
    if not shown and settings.api_key_param is not None:
        shown = request.GET.get(settings.api_key_param)
    if not shown and settings.api_key_cookie is not None:
        shown = request.COOKIES.get(settings.api_key_cookie)
    return text(shown) if shown else None


_KEY: Final = "_tollway_key"


def meta_name(header: str) -> str:
    """Where Django keeps a header: ``X-API-Key`` is ``HTTP_X_API_KEY``."""
    name = header.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
