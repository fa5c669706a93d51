"""The pages of Django's admin: limits, overrides, access list, tiers, API keys, usage.

What is saved here is in force in every process within a second, with
``RATELIMIT_RULES = "database"``.
"""

from __future__ import annotations

from tollway.django.admin.keys import APIKeyAdmin
from tollway.django.admin.rules import AccessEntryAdmin, LimitRuleAdmin, OverrideAdmin, TierAdmin
from tollway.django.admin.usage import OffenderAdmin, UsageAdmin

__all__ = [
    "APIKeyAdmin",
    "AccessEntryAdmin",
    "LimitRuleAdmin",
    "OffenderAdmin",
    "OverrideAdmin",
    "TierAdmin",
    "UsageAdmin",
]
