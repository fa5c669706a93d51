"""For the tests of those who use Tollway."""

from __future__ import annotations

from tollway._tollway import ManualClock, check_store

__all__ = ["ManualClock", "check_store"]
