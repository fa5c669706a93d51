"""What the app keeps in the project's database: rules, API keys, usage, and counts.

Nothing of it is read while a request waits. Rules and keys are followed by a thread of each
process (:mod:`tollway.django.database`), usage is written in batches (:mod:`tollway.django.usage`),
and counts are here only with ``RATELIMIT_BACKEND = "django"`` (:mod:`tollway.django.orm`).
"""

from __future__ import annotations

from tollway.django.models.keys import APIKey
from tollway.django.models.revision import Revision
from tollway.django.models.rules import (
    AccessEntry,
    LimitLevel,
    LimitRule,
    LimitSchedule,
    Override,
    Tier,
    TierMember,
    TierRate,
)
from tollway.django.models.usage import Offender, State, Usage

__all__ = [
    "APIKey",
    "AccessEntry",
    "LimitLevel",
    "LimitRule",
    "LimitSchedule",
    "Offender",
    "Override",
    "Revision",
    "State",
    "Tier",
    "TierMember",
    "TierRate",
    "Usage",
]
