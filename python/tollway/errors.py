"""What can go wrong, by meaning. A refusal is not an error: it is a ``Decision``."""

from __future__ import annotations


class TollwayError(Exception):
    """Anything that Tollway raises."""


class ConfigError(TollwayError, ValueError):
    """A configuration that cannot work; raised when a thing is built."""


class RateError(ConfigError):
    """A rate that does not read: names the text, the position and what was expected there."""


class StoreError(TollwayError):
    """A backend could not answer. Names the backend, never a secret."""


class StoreUnavailable(StoreError):
    """The backend cannot be reached, or its queue is full. The same call may succeed later."""


class StoreTimeout(StoreUnavailable):
    """The backend did not answer in time."""
